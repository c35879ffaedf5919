/* Where everything of a tree goes in its file: made by erofs_layout.c, followed by erofs_write.c. */
#ifndef LFS_EROFS_LAYOUT_H
#define LFS_EROFS_LAYOUT_H

#include "tree_internal.h"

/* Marks of "." and ".." in the lists of sorted children. */
#define LFS_LIST_DOT (LFS_NONE - 1)
#define LFS_LIST_DOTDOT (LFS_NONE - 2)

struct lfs_device {
	uint64_t pack;
	uint32_t blocks;
	uint32_t number; /* in tree->packs */
};

struct lfs_layout {
	struct lfs_tree *tree;
	bool merged;
	uint32_t *order; /* nodes in inode order */
	uint32_t inode_count;
	uint32_t *lists; /* for each directory: count, then its names with the dots, sorted */
	size_t list_used, list_room;
	const uint8_t **extra; /* identities behind those of inodes, sorted */
	size_t extra_count;
	struct lfs_device *devices;
	uint32_t *slots; /* pack number -> device id, 0: not used */
	uint32_t device_count;
	uint32_t content_count;				    /* inodes with content */
	uint64_t meta, meta_size, data, data_blocks, table; /* offsets and sizes; meta_size unpadded */
	uint64_t size;
	struct lfs_tree_stats stats;
};

/* Fills the layout (zeroed, tree and merged set); the caller frees it in either case. 0 or -errno. */
int lfs_layout_make(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error);
void lfs_layout_free(struct lfs_layout *layout);
int lfs_layout_order(struct lfs_layout *layout); /* erofs_order.c; 0, -ENOMEM or -EFBIG */
int lfs_layout_contents(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count,
			struct lfs_error *error); /* erofs_contents.c */

static inline bool lfs_layout_hidden(const struct lfs_layout *layout, const struct lfs_node *node)
{
	return !layout->merged && lfs_node_is_directory(node) && node->directory.self != LFS_NONE &&
	       lfs_name_at(layout->tree, node->directory.self)->hidden;
}
static inline bool lfs_layout_opaque(const struct lfs_layout *layout, const struct lfs_node *node)
{
	return !layout->merged && (node->flags & LFS_NODE_OPAQUE || lfs_layout_hidden(layout, node));
}
static inline bool lfs_layout_implicit(const struct lfs_layout *layout, const struct lfs_node *node)
{
	return !layout->merged && node->flags & LFS_NODE_IMPLICIT && !lfs_layout_hidden(layout, node);
}
struct lfs_bytes lfs_layout_name(const struct lfs_layout *layout, uint32_t listed);
/* The end of the dirent block that starts with entry `from` of the list; *used: its bytes. */
uint32_t lfs_layout_block(const struct lfs_layout *layout, const uint32_t *list, uint32_t count, uint32_t from, uint32_t *used);

#endif
