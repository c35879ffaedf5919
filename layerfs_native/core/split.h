/* The tar-split record: what is needed to write the archive back (docs/format.md "tar-split record"). */
#ifndef LFS_SPLIT_H
#define LFS_SPLIT_H

#include "buffer.h"
#include "layerfs.h"

struct lfs_split {
	struct lfs_buffer raw, out;
	bool started, taken; /* taken: out was handed over and is emptied by the next addition */
};

int lfs_split_raw(struct lfs_split *split, const uint8_t *data, size_t size);
int lfs_split_range(struct lfs_split *split, const uint8_t identity[LFS_ID_SIZE], uint64_t offset, uint64_t size);
int lfs_split_end(struct lfs_split *split, uint64_t tar_size, const uint8_t digest[LFS_ID_SIZE]);
struct lfs_bytes lfs_split_take(struct lfs_split *split);
void lfs_split_free(struct lfs_split *split);

#endif
