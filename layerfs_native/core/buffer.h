/* A growing run of bytes. A zeroed one is empty and valid. */
#ifndef LFS_BUFFER_H
#define LFS_BUFFER_H

#include "layerfs.h"

struct lfs_buffer {
	uint8_t *data;
	size_t size, capacity;
};

int lfs_buffer_reserve(struct lfs_buffer *buffer, size_t more); /* room for `more` bytes after size; may move data */
int lfs_buffer_append(struct lfs_buffer *buffer, const void *data, size_t size);
void lfs_buffer_free(struct lfs_buffer *buffer);

#endif
