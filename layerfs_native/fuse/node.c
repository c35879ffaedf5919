/* What the kernel knows of the tree: nodes (inodes) with their names, found by node id, by (directory, name), and hard-linked ones by
 * their inode number. A node lives while something refers to it; its names go with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "server.h"

#define FIRST_BITS 8
#define KEPT_NAMES 4096u /* memory for so many is not worth giving back */
#define BLOCK_SIZE (LFS_BLOCK_NODES * sizeof(struct lfs_node))

_Static_assert(sizeof(struct lfs_node) == 48, "memory for each inode that the kernel holds");

int lfs_nodes_init(struct lfs_server *server)
{
	struct lfs_nodes *nodes = &server->nodes;
	nodes->hash_bits = nodes->same_bits = FIRST_BITS;
	nodes->hash = calloc(1u << FIRST_BITS, sizeof *nodes->hash);
	nodes->same = calloc(1u << FIRST_BITS, sizeof *nodes->same);
	nodes->same_slots = calloc(1u << FIRST_BITS, sizeof *nodes->same_slots);
	if (!nodes->hash || !nodes->same || !nodes->same_slots)
		return -ENOMEM;
	if (getrandom(nodes->seed, sizeof nodes->seed, 0) != sizeof nodes->seed ||
	    getrandom(&nodes->generation, sizeof nodes->generation, 0) != sizeof nodes->generation)
		return -EIO; /* generations start anywhere, so that no file handle of an earlier mount means another file of this one */
	int rc = lfs_node_new(server, S_IFDIR, &nodes->root);
	if (rc < 0)
		return rc;
	nodes->root->low = (uint32_t)lfs_low_root(server);
	nodes->root->ino = lfs_low_ino(server, nodes->root->low);
	return 0;
}

static void free_node(struct lfs_server *server, struct lfs_node *node)
{
	while (node->names) {
		struct lfs_name *name = node->names;
		node->names = name->sibling;
		free(name);
	}
	if (lfs_node_is_dir(node) && !(node->flags & LFS_UNLINKED))
		lfs_listing_drop(server, node);
	else if (node->file) {
		lfs_quota_forget(server, node);
		lfs_close_fd(&node->file->fd);
		lfs_pin_end(server, node);
		lfs_blocks_free(node->file);
		free(node->file);
	}
}

void lfs_nodes_free(struct lfs_server *server)
{
	struct lfs_nodes *nodes = &server->nodes;
	for (uint32_t i = 0; i < nodes->block_count; i++) {
		struct lfs_node_block *block = &nodes->blocks[i];
		for (uint32_t at = 0; block->nodes && at < block->fresh; at++)
			if (block->nodes[at].refs)
				free_node(server, &block->nodes[at]);
		if (block->nodes)
			munmap(block->nodes, BLOCK_SIZE);
	}
	for (size_t i = 0; nodes->same && i < (size_t)1 << nodes->same_bits; i++)
		for (struct lfs_same *same = nodes->same[i], *next; same; same = next) {
			next = same->chain;
			free(same);
		}
	free(nodes->blocks);
	free(nodes->hash);
	free(nodes->same);
	free(nodes->same_slots);
	memset(nodes, 0, sizeof *nodes);
}

/* --- hashing: keyed, so that nobody can choose names that collide --- */

static inline uint64_t mix(uint64_t a, uint64_t b)
{
	__uint128_t product = (__uint128_t)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t lfs_hash(const struct lfs_server *server, const void *data, size_t size, uint64_t salt)
{
	const uint64_t *seed = server->nodes.seed;
	const uint8_t *at = data;
	uint64_t state = mix(seed[0] ^ salt, 0x9E3779B97F4A7C15ull ^ size) ^ seed[1], word;
	for (; size >= 8; size -= 8, at += 8) {
		memcpy(&word, at, 8);
		state = mix(state ^ word, seed[1] | 1);
	}
	word = 0;
	memcpy(&word, at, size);
	return mix(mix(state ^ word, seed[0] | 1), 0xD6E8FEB86659FD93ull);
}

/* --- nodes: in blocks, so that a slot number is all it takes to find one --- */

static int grow_blocks(struct lfs_nodes *nodes)
{
	uint32_t capacity = nodes->block_capacity ? nodes->block_capacity * 2 : 16;
	if (capacity > UINT32_MAX / LFS_BLOCK_NODES)
		return -ENOMEM;
	struct lfs_node_block *blocks = realloc(nodes->blocks, capacity * sizeof *blocks);
	if (!blocks)
		return -ENOMEM;
	memset(blocks + nodes->block_capacity, 0, (capacity - nodes->block_capacity) * sizeof *blocks);
	nodes->blocks = blocks;
	nodes->block_capacity = capacity;
	return 0;
}

static void list_block(struct lfs_nodes *nodes, uint32_t index)
{
	struct lfs_node_block *block = &nodes->blocks[index];
	if (block->listed)
		return;
	block->listed = true;
	block->next = nodes->block_free;
	nodes->block_free = index + 1;
}

/* A block with a free place; the list's first. */
static int find_block(struct lfs_nodes *nodes, uint32_t *index)
{
	if (!nodes->block_free) {
		if (nodes->block_count == nodes->block_capacity && grow_blocks(nodes) < 0)
			return -ENOMEM;
		list_block(nodes, nodes->block_count++);
	}
	*index = nodes->block_free - 1;
	struct lfs_node_block *block = &nodes->blocks[*index];
	if (block->nodes) {
		nodes->spare -= !block->used;
		return 0;
	}
	void *memory = mmap(NULL, BLOCK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -ENOMEM;
	block->nodes = memory;
	return 0;
}

static struct lfs_node *take_slot(struct lfs_nodes *nodes, uint32_t index)
{
	struct lfs_node_block *block = &nodes->blocks[index];
	uint32_t place = block->free ? block->free - 1 : block->fresh++;
	struct lfs_node *node = &block->nodes[place];
	if (block->free)
		block->free = node->slot;
	if (++block->used == LFS_BLOCK_NODES) {
		nodes->block_free = block->next;
		block->listed = false;
	}
	*node = (struct lfs_node){.slot = index * LFS_BLOCK_NODES + place};
	return node;
}

static void give_slot(struct lfs_nodes *nodes, struct lfs_node *node)
{
	uint32_t index = node->slot / LFS_BLOCK_NODES;
	struct lfs_node_block *block = &nodes->blocks[index];
	list_block(nodes, index);
	if (--block->used) {
		uint32_t place = node->slot % LFS_BLOCK_NODES;
		*node = (struct lfs_node){.slot = block->free};
		block->free = place + 1;
		return;
	}
	block->fresh = block->free = 0;
	if (!nodes->spare) {
		nodes->spare = 1;
		return;
	}
	munmap(block->nodes, BLOCK_SIZE);
	block->nodes = NULL;
}

int lfs_node_new(struct lfs_server *server, uint32_t mode, struct lfs_node **out)
{
	struct lfs_nodes *nodes = &server->nodes;
	uint32_t index;
	int rc = find_block(nodes, &index);
	if (rc < 0)
		return rc;
	struct lfs_node *node = take_slot(nodes, index);
	node->refs = 1;
	node->type = (uint8_t)(mode >> 12 & 15);
	node->generation = ++nodes->generation;
	nodes->node_count++;
	*out = node;
	return 0;
}

struct lfs_node *lfs_node_find(struct lfs_server *server, uint64_t id)
{
	const struct lfs_nodes *nodes = &server->nodes;
	uint64_t index = (id - 1) / LFS_BLOCK_NODES, place = (id - 1) % LFS_BLOCK_NODES;
	if (!id || index >= nodes->block_count || !nodes->blocks[index].nodes || place >= nodes->blocks[index].fresh)
		return NULL;
	struct lfs_node *node = &nodes->blocks[index].nodes[place];
	return node->refs ? node : NULL;
}

void lfs_node_get(struct lfs_node *node)
{
	node->refs++;
}

void lfs_node_look(struct lfs_node *node)
{
	if (!node->lookups)
		node->refs++;
	node->lookups += node->lookups < LFS_LOOKUPS_MAX;
}

void lfs_node_forget(struct lfs_server *server, struct lfs_node *node, uint64_t count)
{
	if (!node->lookups || node->lookups == LFS_LOOKUPS_MAX || node == server->nodes.root)
		return;
	node->lookups -= count < node->lookups ? (uint32_t)count : node->lookups;
	if (!node->lookups)
		lfs_node_put(server, node);
}

static void same_remove(struct lfs_nodes *nodes, struct lfs_node *node);
static struct lfs_node *name_unlink(struct lfs_server *server, struct lfs_name *name);

static void drop_state(struct lfs_server *server, struct lfs_node *node)
{
	if (lfs_node_is_dir(node) && !(node->flags & LFS_UNLINKED))
		lfs_listing_drop(server, node);
	else if (node->file)
		lfs_file_free(server, node);
	lfs_dir_forget(server, node);
}

/* Frees nodes upwards: a node's names hold its directories. */
void lfs_node_put(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_nodes *nodes = &server->nodes;
	while (node && --node->refs == 0) {
		struct lfs_node *above = NULL;
		drop_state(server, node);
		if (node->flags & LFS_SHARED)
			same_remove(nodes, node);
		while (node->names) {
			struct lfs_node *dir = name_unlink(server, node->names);
			if (!node->names)
				above = dir; /* the last one without recursion */
			else
				lfs_node_put(server, dir);
		}
		nodes->node_count--;
		give_slot(nodes, node);
		node = above;
	}
}

/* --- names --- */

static inline uint32_t name_hash(const struct lfs_server *server, const struct lfs_node *dir, struct lfs_bytes name)
{
	return (uint32_t)lfs_hash(server, name.data, name.size, (uint64_t)dir->slot << 32 | dir->generation);
}

struct lfs_name *lfs_name_find(struct lfs_server *server, const struct lfs_node *dir, struct lfs_bytes name)
{
	const struct lfs_nodes *nodes = &server->nodes;
	uint32_t hash = name_hash(server, dir, name);
	struct lfs_name *found = nodes->hash[hash & ((1u << nodes->hash_bits) - 1)];
	while (found && !(found->hash == hash && found->dir == dir && found->size == name.size && !memcmp(found->text, name.data, name.size)))
		found = found->chain;
	return found;
}

static void resize_hash(struct lfs_nodes *nodes, uint32_t bits)
{
	struct lfs_name **other = calloc((size_t)1 << bits, sizeof *other);
	if (!other)
		return; /* other chains will do */
	for (size_t i = 0; i < (size_t)1 << nodes->hash_bits; i++)
		for (struct lfs_name *name = nodes->hash[i], *next; name; name = next) {
			struct lfs_name **place = &other[name->hash & ((1u << bits) - 1)];
			next = name->chain;
			name->chain = *place;
			*place = name;
		}
	free(nodes->hash);
	nodes->hash = other;
	nodes->hash_bits = bits;
}

/* Pays once for every four names that went, so often enough and never too often. */
void lfs_nodes_trim(struct lfs_server *server)
{
	struct lfs_nodes *nodes = &server->nodes;
	uint32_t bits = nodes->hash_bits;
	if (nodes->name_peak < KEPT_NAMES || nodes->name_count > nodes->name_peak / 4)
		return;
	while (bits > FIRST_BITS && nodes->name_count < (uint64_t)1 << (bits - 1))
		bits--;
	if (bits < nodes->hash_bits)
		resize_hash(nodes, bits);
	nodes->name_peak = nodes->name_count;
	malloc_trim(0);
}

int lfs_name_add(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct lfs_node *node)
{
	struct lfs_nodes *nodes = &server->nodes;
	if (nodes->name_count >= (uint64_t)1 << nodes->hash_bits && nodes->hash_bits < 31)
		resize_hash(nodes, nodes->hash_bits + 1);
	struct lfs_name *new = malloc(sizeof *new + name.size + 1);
	if (!new)
		return -ENOMEM;
	new->hash = name_hash(server, dir, name);
	new->size = (uint8_t)name.size;
	memcpy(new->text, name.data, name.size);
	new->text[name.size] = 0;
	new->dir = dir;
	new->node = node;
	lfs_node_get(dir);
	new->sibling = node->names;
	node->names = new;
	struct lfs_name **place = &nodes->hash[new->hash & ((1u << nodes->hash_bits) - 1)];
	new->chain = *place;
	*place = new;
	if (++nodes->name_count > nodes->name_peak)
		nodes->name_peak = nodes->name_count;
	return 0;
}

/* Returns the directory, whose reference is the caller's now. */
static struct lfs_node *name_unlink(struct lfs_server *server, struct lfs_name *name)
{
	struct lfs_nodes *nodes = &server->nodes;
	struct lfs_node *dir = name->dir;
	struct lfs_name **at = &nodes->hash[name->hash & ((1u << nodes->hash_bits) - 1)];
	while (*at != name)
		at = &(*at)->chain;
	*at = name->chain;
	at = &name->node->names;
	while (*at != name)
		at = &(*at)->sibling;
	*at = name->sibling;
	nodes->name_count--;
	free(name);
	return dir;
}

void lfs_name_drop(struct lfs_server *server, struct lfs_name *name)
{
	lfs_node_put(server, name_unlink(server, name));
}

/* --- hard links: one node whatever name it is found by --- */

static inline size_t same_index(const struct lfs_nodes *nodes, uint64_t key)
{
	return (key * 0x9E3779B97F4A7C15ull) >> (64 - nodes->same_bits);
}

struct lfs_node *lfs_same_find(struct lfs_server *server, uint64_t key)
{
	struct lfs_same *same = server->nodes.same[same_index(&server->nodes, key)];
	while (same && same->key != key)
		same = same->chain;
	return same ? same->node : NULL;
}

static struct lfs_same *same_of(const struct lfs_nodes *nodes, const struct lfs_node *node)
{
	struct lfs_same *same = nodes->same_slots[same_index(nodes, node->slot)];
	while (same && same->node != node)
		same = same->slot_chain;
	return same;
}

uint64_t lfs_same_key(const struct lfs_server *server, const struct lfs_node *node)
{
	return node->flags & LFS_SHARED ? same_of(&server->nodes, node)->key : 0;
}

static void same_link(struct lfs_nodes *nodes, struct lfs_same *same)
{
	struct lfs_same **place = &nodes->same[same_index(nodes, same->key)], **slot = &nodes->same_slots[same_index(nodes, same->node->slot)];
	same->chain = *place;
	same->slot_chain = *slot;
	*place = *slot = same;
}

static struct lfs_same *same_unlink(struct lfs_nodes *nodes, struct lfs_node *node)
{
	struct lfs_same *same = same_of(nodes, node), **at = &nodes->same[same_index(nodes, same->key)];
	while (*at != same)
		at = &(*at)->chain;
	*at = same->chain;
	at = &nodes->same_slots[same_index(nodes, node->slot)];
	while (*at != same)
		at = &(*at)->slot_chain;
	*at = same->slot_chain;
	node->flags &= (uint16_t)~LFS_SHARED;
	nodes->same_count--;
	return same;
}

static void same_remove(struct lfs_nodes *nodes, struct lfs_node *node)
{
	free(same_unlink(nodes, node));
}

static void same_grow(struct lfs_nodes *nodes)
{
	struct lfs_same **old = nodes->same;
	size_t count = (size_t)1 << nodes->same_bits;
	struct lfs_same **wider = calloc(count * 4, sizeof *wider), **slots = calloc(count * 4, sizeof *slots);
	if (!wider || !slots) { /* longer chains will do */
		free(wider);
		free(slots);
		return;
	}
	free(nodes->same_slots);
	nodes->same = wider;
	nodes->same_slots = slots;
	nodes->same_bits += 2;
	for (size_t i = 0; i < count; i++)
		for (struct lfs_same *same = old[i], *next; same; same = next) {
			next = same->chain;
			same_link(nodes, same);
		}
	free(old);
}

int lfs_same_set(struct lfs_server *server, struct lfs_node *node, uint64_t key)
{
	struct lfs_nodes *nodes = &server->nodes;
	struct lfs_same *same = node->flags & LFS_SHARED ? same_unlink(nodes, node) : NULL;
	if (!key) {
		free(same);
		return 0;
	}
	if (!same && !(same = malloc(sizeof *same)))
		return -ENOMEM;
	if (nodes->same_count >> nodes->same_bits)
		same_grow(nodes);
	*same = (struct lfs_same){.node = node, .key = key};
	same_link(nodes, same);
	node->flags |= LFS_SHARED;
	nodes->same_count++;
	return 0;
}
