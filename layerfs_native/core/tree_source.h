/* A tree file being read into a tree in memory: what merge.c and remap.c share. */
#ifndef LFS_TREE_SOURCE_H
#define LFS_TREE_SOURCE_H

#include "erofs_read.h"
#include "tree_internal.h"

struct lfs_frame { /* a directory being read */
	uint64_t nid, position;
	uint32_t directory; /* in the tree in memory */
};

struct lfs_source {
	struct lfs_tree *tree;
	struct lfs_image image;
	struct lfs_error *error;
	struct lfs_frame *frames; /* the directories on the way, outermost first */
	size_t frame_count, frame_room;
	struct lfs_inode directory; /* of the innermost frame */
	uint64_t *entered;	    /* a bit for each nid: directories have one name */
	uint64_t *lays;		    /* a bit for each nid: implicit directories with something below them */
	uint64_t *map_keys;	    /* nid + 1 -> node, for inodes with several names; each node held once */
	uint32_t *map_nodes;
	size_t map_count, map_room;
	struct lfs_xattr *xattrs; /* scratch */
	char (*xattr_names)[LFS_NAME_MAX + 32];
	size_t xattr_room;
};

int lfs_source_open(struct lfs_source *source, struct lfs_tree *tree, const char *path, struct lfs_error *error);
void lfs_source_release(struct lfs_source *source); /* empties the map and drops its holds: before the tree is written */
void lfs_source_close(struct lfs_source *source);
int lfs_source_damaged(const struct lfs_source *source, const char *what);
int lfs_source_fail(const struct lfs_source *source, int rc);

/* Begins with a directory of the file; enters one; the next entry (dots left out) of the innermost: 0, 1 when all frames
 * are done (each one is left at its end), or -errno. */
int lfs_source_enter(struct lfs_source *source, uint64_t nid, uint32_t directory);
int lfs_source_next(struct lfs_source *source, struct lfs_dirent *entry, struct lfs_inode *inode);
void lfs_source_rewind(struct lfs_source *source); /* all directories may be entered again */

static inline bool lfs_bit(const uint64_t *bits, uint64_t at)
{
	return bits[at / 64] >> at % 64 & 1;
}
static inline void lfs_bit_set(uint64_t *bits, uint64_t at)
{
	bits[at / 64] |= (uint64_t)1 << at % 64;
}

uint32_t lfs_source_mapped(const struct lfs_source *source, uint64_t nid);
int lfs_source_map(struct lfs_source *source, uint64_t nid, uint32_t node); /* takes a hold */

/* Attributes and xattrs of an inode of the file onto a node. */
int lfs_source_attributes(struct lfs_source *source, const struct lfs_inode *inode, struct lfs_node *node);
/* The node for an inode that is no directory, whiteout or placeholder: made, or the one made before for another name. */
int lfs_source_node(struct lfs_source *source, const struct lfs_inode *inode, uint32_t *node);

#endif
