/* What a layer's whiteouts make of directories of the same name, once the layer is complete: one that the layer has no
 * entry for, with only whiteouts and directories of its kind below, is just gone (some builders write `.wh.d` beside
 * `d/.wh.x`). */
#include <errno.h>
#include <stdlib.h>

#include "tree_internal.h"

static bool is_hollow(const struct lfs_tree *tree, const struct lfs_node *directory)
{
	if (!(directory->flags & LFS_NODE_IMPLICIT))
		return false;
	for (uint32_t at = directory->directory.first; at != LFS_NONE; at = lfs_name_at(tree, at)->next)
		if (!(lfs_node_at(tree, lfs_name_at(tree, at)->node)->flags & (LFS_NODE_WHITEOUT | LFS_NODE_HOLLOW)))
			return false;
	return true;
}

/* All directories, parents first. */
static uint32_t list_directories(const struct lfs_tree *tree, uint32_t *list)
{
	uint32_t count = 0;
	list[count++] = LFS_ROOT;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = lfs_node_at(tree, list[i])->directory.first;
		for (; at != LFS_NONE; at = lfs_name_at(tree, at)->next)
			if (lfs_node_is_directory(lfs_node_at(tree, lfs_name_at(tree, at)->node)))
				list[count++] = lfs_name_at(tree, at)->node;
	}
	return count;
}

static int hide_children(struct lfs_tree *tree, uint32_t directory)
{
	for (uint32_t at = lfs_node_at(tree, directory)->directory.first; at != LFS_NONE; at = lfs_name_at(tree, at)->next) {
		uint32_t whiteout;
		if (!lfs_name_at(tree, at)->hidden || !(lfs_node_at(tree, lfs_name_at(tree, at)->node)->flags & LFS_NODE_HOLLOW))
			continue;
		int rc = lfs_node_new(tree, S_IFCHR, &whiteout);
		if (rc < 0)
			return rc;
		lfs_node_at(tree, whiteout)->flags = LFS_NODE_WHITEOUT;
		lfs_name_set(tree, at, whiteout);
	}
	return 0;
}

int lfs_tree_settle(struct lfs_tree *tree)
{
	if (!tree->has_whiteouts)
		return 0;
	uint32_t *list = malloc(((size_t)tree->name_count + 1) * sizeof *list);
	if (!list)
		return -ENOMEM;
	uint32_t count = list_directories(tree, list);
	for (uint32_t i = count; i--;) {
		struct lfs_node *directory = lfs_node_at(tree, list[i]);
		directory->flags &= (uint8_t)~LFS_NODE_HOLLOW;
		if (is_hollow(tree, directory))
			directory->flags |= LFS_NODE_HOLLOW;
	}
	int rc = 0;
	for (uint32_t i = 0; !rc && i < count; i++)
		rc = hide_children(tree, list[i]);
	free(list);
	lfs_tree_bury(tree);
	return rc;
}
