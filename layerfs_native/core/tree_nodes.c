/* Records of the tree in memory: pages, arena, names by hash. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tree_internal.h"

#define ARENA_BLOCK (256u << 10)
#define BUCKETS_FIRST 256u

struct lfs_arena_block {
	struct lfs_arena_block *next;
	size_t used, room;
	uint8_t data[] __attribute__((aligned(8)));
};

int lfs_tree_fail(struct lfs_error *error, int rc)
{
	if (rc == -ENAMETOOLONG)
		return lfs_fail(error, -EBADMSG, "path longer than %u bytes", LFS_PATH_MAX);
	return lfs_fail(error, rc, rc == -EOVERFLOW ? "too many files in one tree" : "out of memory");
}

/* --- memory --- */

static struct lfs_arena_block *arena_block(struct lfs_tree *tree, size_t size)
{
	size_t room = size > ARENA_BLOCK / 4 ? size : ARENA_BLOCK - sizeof(struct lfs_arena_block);
	struct lfs_arena_block *block = malloc(sizeof *block + room);
	if (!block)
		return NULL;
	block->used = 0;
	block->room = room;
	struct lfs_arena_block *head = tree->arena;
	if (head && room == size) { /* a big string: what is left of the current block stays in use */
		block->next = head->next;
		head->next = block;
	} else {
		block->next = head;
		tree->arena = block;
	}
	return block;
}

static void *arena_take(struct lfs_tree *tree, size_t size, size_t align)
{
	struct lfs_arena_block *block = tree->arena;
	size_t at = block ? (block->used + align - 1) & ~(align - 1) : 0;
	if (!block || at > block->room || size > block->room - at) {
		block = arena_block(tree, size);
		if (!block)
			return NULL;
		at = 0;
	}
	block->used = at + size;
	return block->data + at;
}

void *lfs_tree_alloc(struct lfs_tree *tree, size_t size)
{
	return arena_take(tree, size, 8);
}

void *lfs_tree_copy(struct lfs_tree *tree, const void *data, size_t size)
{
	void *copy = arena_take(tree, size, 1);
	if (copy && size)
		memcpy(copy, data, size);
	return copy;
}

void lfs_tree_release(struct lfs_tree *tree, const void *data, size_t size)
{
	struct lfs_arena_block *block = tree->arena;
	if (block->data + block->used == (const uint8_t *)data + size)
		block->used -= size;
}

static int pages_take(struct lfs_pages *pages, size_t record, uint32_t *number)
{
	if (pages->used >= UINT32_MAX - 16)
		return -EOVERFLOW;
	if (pages->used >> LFS_PAGE_BITS == pages->page_count) {
		if (!(pages->page_count & (pages->page_count - 1))) { /* full at powers of two */
			size_t room = pages->page_count ? 2 * (size_t)pages->page_count : 1;
			void **grown = realloc(pages->pages, room * sizeof *grown);
			if (!grown)
				return -ENOMEM;
			pages->pages = grown;
		}
		void *page = malloc(record << LFS_PAGE_BITS);
		if (!page)
			return -ENOMEM;
		pages->pages[pages->page_count++] = page;
	}
	*number = pages->used++;
	return 0;
}

static void pages_free(struct lfs_pages *pages)
{
	for (uint32_t i = 0; i < pages->page_count; i++)
		free(pages->pages[i]);
	free(pages->pages);
}

/* --- the hash of a name: SipHash-1-3 with a random key, so that no archive can choose collisions --- */

static inline uint64_t rotate_left(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1], v[1] = rotate_left(v[1], 13) ^ v[0], v[0] = rotate_left(v[0], 32);
	v[2] += v[3], v[3] = rotate_left(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotate_left(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotate_left(v[1], 17) ^ v[2], v[2] = rotate_left(v[2], 32);
}

static uint32_t name_hash(const struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text)
{
	uint64_t v[4] = {tree->key[0] ^ 0x736f6d6570736575u, tree->key[1] ^ 0x646f72616e646f6du, tree->key[0] ^ 0x6c7967656e657261u,
			 tree->key[1] ^ 0x7465646279746573u};
	uint64_t word = (uint64_t)directory << 32 | text.size; /* a first word beside the name's */
	const uint8_t *at = text.data;
	size_t left = text.size;
	for (;;) {
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
		if (!left)
			break;
		size_t part = left < 8 ? left : 8;
		word = 0;
		memcpy(&word, at, part);
		at += part;
		left -= part;
	}
	v[2] ^= 0xff;
	sip_round(v), sip_round(v), sip_round(v);
	return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

static int buckets_grow(struct lfs_tree *tree)
{
	size_t count = tree->buckets ? 2 * ((size_t)tree->bucket_mask + 1) : BUCKETS_FIRST;
	if (count > (size_t)1 << 31)
		return 0; /* longer chains from here on */
	uint32_t *grown = malloc(count * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	memset(grown, 0xff, count * sizeof *grown);
	for (size_t i = 0; tree->buckets && i <= tree->bucket_mask; i++) {
		for (uint32_t number = tree->buckets[i], next; number != LFS_NONE; number = next) {
			struct lfs_name *name = lfs_name_at(tree, number);
			next = name->chain;
			name->chain = grown[name->hash & (count - 1)];
			grown[name->hash & (count - 1)] = number;
		}
	}
	free(tree->buckets);
	tree->buckets = grown;
	tree->bucket_mask = (uint32_t)(count - 1);
	return 0;
}

/* --- nodes --- */

int lfs_node_new(struct lfs_tree *tree, uint32_t mode, uint32_t *number)
{
	if (tree->nodes.free != LFS_NONE) {
		*number = tree->nodes.free;
		tree->nodes.free = lfs_node_at(tree, *number)->position;
	} else {
		int rc = pages_take(&tree->nodes, sizeof(struct lfs_node), number);
		if (rc < 0)
			return rc;
	}
	struct lfs_node *node = lfs_node_at(tree, *number);
	memset(node, 0, sizeof *node);
	node->mode = (uint16_t)mode;
	if (S_ISDIR(mode))
		node->directory.first = node->directory.last = node->directory.self = node->directory.list = LFS_NONE;
	return 0;
}

static void node_free(struct lfs_tree *tree, uint32_t number)
{
	lfs_node_at(tree, number)->position = tree->nodes.free;
	tree->nodes.free = number;
}

static void name_free(struct lfs_tree *tree, uint32_t number)
{
	lfs_name_at(tree, number)->chain = tree->names.free;
	tree->names.free = number;
}

void lfs_node_drop(struct lfs_tree *tree, uint32_t number)
{
	struct lfs_node *node = lfs_node_at(tree, number);
	if (--node->names)
		return;
	if (lfs_node_is_directory(node)) { /* its children, and who still points to it, need it until the burial */
		node->directory.list = tree->doomed;
		tree->doomed = number;
	} else {
		node_free(tree, number);
	}
}

void lfs_tree_empty(struct lfs_tree *tree, uint32_t directory)
{
	uint32_t child;
	while ((child = lfs_node_at(tree, directory)->directory.first) != LFS_NONE)
		lfs_name_remove(tree, child);
}

void lfs_tree_bury(struct lfs_tree *tree)
{
	uint32_t dead = LFS_NONE;
	while (tree->doomed != LFS_NONE) { /* emptying one may doom more */
		uint32_t number = tree->doomed;
		struct lfs_node *node = lfs_node_at(tree, number);
		tree->doomed = node->directory.list;
		lfs_tree_empty(tree, number);
		node->directory.list = dead;
		dead = number;
	}
	while (dead != LFS_NONE) {
		struct lfs_node *node = lfs_node_at(tree, dead);
		uint32_t number = dead;
		dead = node->directory.list;
		if (node->directory.self != LFS_NONE)
			name_free(tree, node->directory.self);
		node_free(tree, number);
	}
}

/* --- names --- */

uint32_t lfs_name_find(const struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text)
{
	uint32_t hash = name_hash(tree, directory, text);
	uint32_t number = tree->buckets[hash & tree->bucket_mask];
	while (number != LFS_NONE) {
		const struct lfs_name *name = lfs_name_at(tree, number);
		if (name->hash == hash && name->directory == directory && name->size == text.size &&
		    !memcmp(name->text, text.data, text.size))
			break;
		number = name->chain;
	}
	return number;
}

static void name_attach(struct lfs_tree *tree, uint32_t number)
{
	struct lfs_name *name = lfs_name_at(tree, number);
	struct lfs_node *directory = lfs_node_at(tree, name->directory);
	uint32_t *bucket = &tree->buckets[name->hash & tree->bucket_mask];
	name->chain = *bucket;
	*bucket = number;
	name->next = LFS_NONE;
	name->previous = directory->directory.last;
	if (name->previous == LFS_NONE)
		directory->directory.first = number;
	else
		lfs_name_at(tree, name->previous)->next = number;
	directory->directory.last = number;
	tree->name_count++;
}

static void name_detach(struct lfs_tree *tree, uint32_t number)
{
	struct lfs_name *name = lfs_name_at(tree, number);
	struct lfs_node *directory = lfs_node_at(tree, name->directory);
	uint32_t *link = &tree->buckets[name->hash & tree->bucket_mask];
	while (*link != number)
		link = &lfs_name_at(tree, *link)->chain;
	*link = name->chain;
	if (name->previous == LFS_NONE)
		directory->directory.first = name->next;
	else
		lfs_name_at(tree, name->previous)->next = name->next;
	if (name->next == LFS_NONE)
		directory->directory.last = name->previous;
	else
		lfs_name_at(tree, name->next)->previous = name->previous;
	tree->name_count--;
}

static int name_take(struct lfs_tree *tree, uint32_t *number)
{
	if (tree->name_count > tree->bucket_mask) {
		int rc = buckets_grow(tree);
		if (rc < 0)
			return rc;
	}
	if (tree->names.free == LFS_NONE)
		return pages_take(&tree->names, sizeof(struct lfs_name), number);
	*number = tree->names.free;
	tree->names.free = lfs_name_at(tree, *number)->chain;
	return 0;
}

/* A path that gets too long ends here, and with it the cost of climbing. Whiteouts make nothing. */
static int check_depth(struct lfs_tree *tree, uint32_t directory, size_t size, uint32_t node)
{
	struct lfs_node *record = lfs_node_at(tree, node);
	uint32_t depth = lfs_node_at(tree, directory)->depth;
	depth += (uint32_t)size + (depth != 0);
	if (record->flags & LFS_NODE_WHITEOUT)
		return 0;
	if (depth > LFS_PATH_MAX)
		return -ENAMETOOLONG;
	if (lfs_node_is_directory(record))
		record->depth = (uint16_t)depth;
	return 0;
}

int lfs_name_add(struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text, uint32_t node, uint32_t *number)
{
	uint32_t taken;
	int rc = check_depth(tree, directory, text.size, node);
	if (rc < 0 || (rc = name_take(tree, &taken)) < 0)
		return rc;
	struct lfs_name *name = lfs_name_at(tree, taken);
	*name = (struct lfs_name){.text = lfs_tree_copy(tree, text.data, text.size),
				  .directory = directory,
				  .node = node,
				  .hash = name_hash(tree, directory, text),
				  .size = (uint8_t)text.size};
	if (!name->text) {
		name_free(tree, taken);
		return -ENOMEM;
	}
	name_attach(tree, taken);
	struct lfs_node *record = lfs_node_at(tree, node);
	record->names++;
	if (lfs_node_is_directory(record))
		record->directory.self = taken;
	if (number)
		*number = taken;
	return 0;
}

/* A directory that loses its name keeps a private record of it, for "..": until the burial it may still be walked. */
static void forget_node(struct lfs_tree *tree, uint32_t number, bool reused)
{
	struct lfs_name *name = lfs_name_at(tree, number);
	struct lfs_node *node = lfs_node_at(tree, name->node);
	uint32_t old = name->node;
	if (lfs_node_is_directory(node) && reused) {
		uint32_t copy;
		if (name_take(tree, &copy) < 0) {
			node->directory.self = LFS_NONE; /* ".." then stays: wrong only in a tree that is being given up */
		} else {
			*lfs_name_at(tree, copy) = *name;
			node->directory.self = copy;
		}
	} else if (!lfs_node_is_directory(node) && !reused) {
		name_free(tree, number);
	}
	lfs_node_drop(tree, old);
}

int lfs_name_set(struct lfs_tree *tree, uint32_t number, uint32_t node)
{
	struct lfs_node *record = lfs_node_at(tree, node);
	int rc = check_depth(tree, lfs_name_at(tree, number)->directory, lfs_name_at(tree, number)->size, node);
	if (rc < 0)
		return rc;
	record->names++;
	forget_node(tree, number, true);
	lfs_name_at(tree, number)->node = node;
	if (lfs_node_is_directory(record))
		record->directory.self = number;
	return 0;
}

void lfs_name_remove(struct lfs_tree *tree, uint32_t number)
{
	name_detach(tree, number);
	forget_node(tree, number, false);
}

/* --- packs --- */

static uint32_t *pack_slot(const struct lfs_tree *tree, uint64_t id)
{
	uint32_t at = (uint32_t)((id ^ tree->key[0]) * 0x9E3779B97F4A7C15u >> 32);
	for (;; at++) {
		uint32_t *slot = &tree->pack_slots[at & tree->pack_mask];
		if (*slot == LFS_NONE || tree->packs[*slot] == id)
			return slot;
	}
}

static int packs_grow(struct lfs_tree *tree)
{
	uint32_t room = tree->pack_room ? 2 * tree->pack_room : 16;
	if (room > 1u << 28)
		return -EOVERFLOW;
	uint64_t *packs = realloc(tree->packs, room * sizeof *packs);
	if (!packs)
		return -ENOMEM;
	tree->packs = packs;
	uint32_t *slots = malloc(2 * (size_t)room * sizeof *slots);
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, 2 * (size_t)room * sizeof *slots);
	free(tree->pack_slots);
	tree->pack_slots = slots;
	tree->pack_mask = 2 * room - 1;
	tree->pack_room = room;
	for (uint32_t i = 0; i < tree->pack_count; i++)
		*pack_slot(tree, packs[i]) = i;
	return 0;
}

int lfs_tree_pack(struct lfs_tree *tree, uint64_t id, uint32_t *number)
{
	if (tree->last_pack < tree->pack_count && tree->packs[tree->last_pack] == id) {
		*number = tree->last_pack;
		return 0;
	}
	if (tree->pack_count == tree->pack_room) {
		int rc = packs_grow(tree);
		if (rc < 0)
			return rc;
	}
	uint32_t *slot = pack_slot(tree, id);
	if (*slot == LFS_NONE) {
		tree->packs[tree->pack_count] = id;
		*slot = tree->pack_count++;
	}
	*number = tree->last_pack = *slot;
	return 0;
}

/* --- the whole --- */

int lfs_tree_new(struct lfs_tree **out)
{
	struct lfs_tree *tree = calloc(1, sizeof *tree);
	if (!tree)
		return -ENOMEM;
	tree->nodes.free = tree->names.free = tree->doomed = LFS_NONE;
	if (getrandom(tree->key, sizeof tree->key, 0) != sizeof tree->key)
		tree->key[0] = (uintptr_t)tree, tree->key[1] = (uintptr_t)&tree; /* no kernel we run on */
	uint32_t root;
	int rc = buckets_grow(tree);
	if (!rc)
		rc = lfs_node_new(tree, S_IFDIR | 0755, &root);
	if (rc < 0) {
		lfs_tree_free(tree);
		return rc;
	}
	lfs_node_at(tree, root)->flags = LFS_NODE_IMPLICIT;
	lfs_node_at(tree, root)->names = 1;
	*out = tree;
	return 0;
}

void lfs_tree_free(struct lfs_tree *tree)
{
	if (!tree)
		return;
	for (struct lfs_arena_block *block = tree->arena, *next; block; block = next) {
		next = block->next;
		free(block);
	}
	pages_free(&tree->nodes);
	pages_free(&tree->names);
	free(tree->buckets);
	free(tree->packs);
	free(tree->pack_slots);
	free(tree);
}
