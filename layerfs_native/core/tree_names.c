/* Names of the tree in memory: found by hash, listed by directory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tree_internal.h"

#define BUCKETS_FIRST 256u

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

int lfs_names_grow(struct lfs_tree *tree)
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

/* --- names --- */

void lfs_name_release(struct lfs_tree *tree, uint32_t number)
{
	lfs_name_at(tree, number)->chain = tree->names.free;
	tree->names.free = number;
}

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
		int rc = lfs_names_grow(tree);
		if (rc < 0)
			return rc;
	}
	if (tree->names.free == LFS_NONE)
		return lfs_pages_take(&tree->names, sizeof(struct lfs_name), number);
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
		lfs_name_release(tree, taken);
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
		lfs_name_release(tree, number);
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
