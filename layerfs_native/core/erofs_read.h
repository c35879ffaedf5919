/* What core/ uses of the image reader beyond layerfs.h. */
#ifndef LFS_EROFS_READ_H
#define LFS_EROFS_READ_H

#include "layerfs.h"

/* The entry at *position (0: the first), which moves on to the next. 0; 1 at the end; or -EIO. */
int lfs_image_next(const struct lfs_image *image, const struct lfs_inode *directory, uint64_t *position, struct lfs_dirent *entry);

/* The entry at *offset (0: the first) of an inode's xattrs. The name comes in two parts. 0; 1 at the end; or -EIO. */
struct lfs_image_xattr_entry {
	const char *prefix;
	struct lfs_bytes rest, value;
};
int lfs_image_next_xattr(const struct lfs_image *image, const struct lfs_inode *inode, uint64_t *offset,
			 struct lfs_image_xattr_entry *entry);

/* Marks of a layer tree on an inode; link: the path of a placeholder. -EIO for xattrs that cannot be read. */
struct lfs_image_marks {
	bool whiteout, opaque, implicit, link;
	struct lfs_bytes path;
};
int lfs_image_marks(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_image_marks *marks);

/* Superblock checksum and XXH64 of the whole file. */
int lfs_image_checksums(const struct lfs_image *image, struct lfs_error *error);

static inline uint64_t lfs_image_slots(const struct lfs_image *image) /* nids are below this */
{
	return (image->table - image->meta) / 32;
}

#endif
