/* Nodes of the tree in memory, from the first to the burial. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tree_internal.h"

int lfs_tree_fail(struct lfs_error *error, int rc)
{
	if (rc == -ENAMETOOLONG)
		return lfs_fail(error, -EBADMSG, "path longer than %u bytes", LFS_PATH_MAX);
	return lfs_fail(error, rc, rc == -EOVERFLOW ? "too many files in one tree" : "out of memory");
}

int lfs_node_new(struct lfs_tree *tree, uint32_t mode, uint32_t *number)
{
	if (tree->nodes.free != LFS_NONE) {
		*number = tree->nodes.free;
		tree->nodes.free = lfs_node_at(tree, *number)->position;
	} else {
		int rc = lfs_pages_take(&tree->nodes, sizeof(struct lfs_node), number);
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
			lfs_name_release(tree, node->directory.self);
		node_free(tree, number);
	}
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
	int rc = lfs_names_grow(tree);
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
	lfs_arena_free(tree);
	lfs_pages_free(&tree->nodes);
	lfs_pages_free(&tree->names);
	free(tree->buckets);
	free(tree->packs);
	free(tree->pack_slots);
	free(tree);
}
