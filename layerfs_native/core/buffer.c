#include "buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int lfs_buffer_reserve(struct lfs_buffer *buffer, size_t more)
{
	if (buffer->capacity - buffer->size >= more)
		return 0;
	if (more > SIZE_MAX / 4 - buffer->size)
		return -ENOMEM;
	size_t capacity = buffer->size + more > 2 * buffer->capacity ? buffer->size + more : 2 * buffer->capacity;
	if (capacity < 256)
		capacity = 256;
	uint8_t *data = realloc(buffer->data, capacity);
	if (!data)
		return -ENOMEM;
	buffer->data = data;
	buffer->capacity = capacity;
	return 0;
}

int lfs_buffer_append(struct lfs_buffer *buffer, const void *data, size_t size)
{
	int rc = lfs_buffer_reserve(buffer, size);
	if (rc < 0)
		return rc;
	if (size)
		memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
	return 0;
}

void lfs_buffer_free(struct lfs_buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct lfs_buffer){0};
}
