/* What the kernel knows of the tree: nodes (inodes) with their names, found by node id, by (directory, name), and hard-linked ones by
 * their inode number. A node lives while something refers to it; its names go with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server.h"

#define FIRST_BITS 8

static inline bool slot_is_free(const struct lfs_node *slot)
{
	return (uintptr_t)slot & 1;
}

int lfs_nodes_init(struct lfs_server *server)
{
	struct lfs_nodes *nodes = &server->nodes;
	nodes->hash_bits = nodes->same_bits = FIRST_BITS;
	nodes->slot_free = UINT32_MAX;
	nodes->hash = calloc(1u << FIRST_BITS, sizeof *nodes->hash);
	nodes->same = calloc(1u << FIRST_BITS, sizeof *nodes->same);
	if (!nodes->hash || !nodes->same)
		return -ENOMEM;
	if (getrandom(nodes->seed, sizeof nodes->seed, 0) != sizeof nodes->seed)
		return -EIO;
	int rc = lfs_node_new(server, S_IFDIR, &nodes->root);
	if (rc < 0)
		return rc;
	nodes->root->low = LFS_ROOT_NID;
	nodes->root->ino = LFS_TREE_INO | LFS_ROOT_NID;
	return 0;
}

void lfs_nodes_free(struct lfs_server *server)
{
	struct lfs_nodes *nodes = &server->nodes;
	for (uint32_t i = 0; i < nodes->slot_count; i++) {
		struct lfs_node *node = nodes->slots[i];
		if (slot_is_free(node))
			continue;
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
			lfs_close_fd(&node->file->pinned);
			free(node->file);
		}
		free(node);
	}
	free(nodes->slots);
	free(nodes->hash);
	free(nodes->same);
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

/* --- nodes --- */

static int grow_slots(struct lfs_nodes *nodes)
{
	uint32_t capacity = nodes->slot_capacity ? nodes->slot_capacity * 2 : 256;
	if (capacity < nodes->slot_capacity)
		return -ENOMEM;
	struct lfs_node **slots = realloc(nodes->slots, capacity * sizeof *slots);
	if (!slots)
		return -ENOMEM;
	nodes->slots = slots;
	nodes->slot_capacity = capacity;
	return 0;
}

int lfs_node_new(struct lfs_server *server, uint32_t mode, struct lfs_node **out)
{
	struct lfs_nodes *nodes = &server->nodes;
	if (nodes->slot_free == UINT32_MAX && nodes->slot_count == nodes->slot_capacity && grow_slots(nodes) < 0)
		return -ENOMEM;
	struct lfs_node *node = calloc(1, sizeof *node);
	if (!node)
		return -ENOMEM;
	if (nodes->slot_free != UINT32_MAX) {
		node->slot = nodes->slot_free;
		nodes->slot_free = (uint32_t)((uintptr_t)nodes->slots[node->slot] >> 1);
	} else {
		node->slot = nodes->slot_count++;
	}
	nodes->slots[node->slot] = node;
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
	if (!id || id > nodes->slot_count || slot_is_free(nodes->slots[id - 1]))
		return NULL;
	return nodes->slots[id - 1];
}

void lfs_node_get(struct lfs_node *node)
{
	node->refs++;
}

void lfs_node_look(struct lfs_node *node)
{
	if (!node->lookups++)
		node->refs++;
}

void lfs_node_forget(struct lfs_server *server, struct lfs_node *node, uint64_t count)
{
	if (!node->lookups || node == server->nodes.root)
		return;
	node->lookups -= count < node->lookups ? count : node->lookups;
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
		nodes->slots[node->slot] = (struct lfs_node *)((uintptr_t)nodes->slot_free << 1 | 1);
		nodes->slot_free = node->slot;
		nodes->node_count--;
		free(node);
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

static void grow_hash(struct lfs_nodes *nodes)
{
	uint32_t bits = nodes->hash_bits + 1;
	struct lfs_name **wider = calloc((size_t)1 << bits, sizeof *wider);
	if (!wider)
		return; /* longer chains will do */
	for (size_t i = 0; i < (size_t)1 << nodes->hash_bits; i++)
		for (struct lfs_name *name = nodes->hash[i], *next; name; name = next) {
			struct lfs_name **place = &wider[name->hash & ((1u << bits) - 1)];
			next = name->chain;
			name->chain = *place;
			*place = name;
		}
	free(nodes->hash);
	nodes->hash = wider;
	nodes->hash_bits = bits;
}

int lfs_name_add(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct lfs_node *node)
{
	struct lfs_nodes *nodes = &server->nodes;
	if (nodes->name_count >= (uint64_t)1 << nodes->hash_bits && nodes->hash_bits < 31)
		grow_hash(nodes);
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
	nodes->name_count++;
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
	struct lfs_node *node = server->nodes.same[same_index(&server->nodes, key)];
	while (node && node->key != key)
		node = node->same;
	return node;
}

static void same_remove(struct lfs_nodes *nodes, struct lfs_node *node)
{
	struct lfs_node **at = &nodes->same[same_index(nodes, node->key)];
	while (*at != node)
		at = &(*at)->same;
	*at = node->same;
	node->flags &= (uint16_t)~LFS_SHARED;
	nodes->same_count--;
}

static void same_grow(struct lfs_nodes *nodes)
{
	struct lfs_node **old = nodes->same;
	size_t count = (size_t)1 << nodes->same_bits;
	struct lfs_node **wider = calloc(count * 4, sizeof *wider);
	if (!wider)
		return;
	nodes->same = wider;
	nodes->same_bits += 2;
	for (size_t i = 0; i < count; i++)
		for (struct lfs_node *node = old[i], *next; node; node = next) {
			struct lfs_node **place = &wider[same_index(nodes, node->key)];
			next = node->same;
			node->same = *place;
			*place = node;
		}
	free(old);
}

int lfs_same_set(struct lfs_server *server, struct lfs_node *node, uint64_t key)
{
	struct lfs_nodes *nodes = &server->nodes;
	if (node->flags & LFS_SHARED)
		same_remove(nodes, node);
	if (!key)
		return 0;
	if (nodes->same_count >> nodes->same_bits)
		same_grow(nodes);
	node->key = key;
	node->flags |= LFS_SHARED;
	struct lfs_node **place = &nodes->same[same_index(nodes, key)];
	node->same = *place;
	*place = node;
	nodes->same_count++;
	return 0;
}
