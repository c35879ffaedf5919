/* Bytes of files that are hashed where they lie. */
#ifndef LFS_RANGES_H
#define LFS_RANGES_H

#include "layerfs.h"

uint64_t lfs_ranges_size(const struct lfs_file_range *ranges, size_t count);

/* Gives all bytes, in order, to `take`. A file that ends early is -EUCLEAN: they are the store's. */
int lfs_ranges_read(const struct lfs_file_range *ranges, size_t count, void (*take)(void *context, const uint8_t *data, size_t size), void *context,
		    struct lfs_error *error);

#endif
