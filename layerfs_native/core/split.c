#include "split.h"

#include <string.h>

#define RAW_MAX 1048576u

enum { RECORD_END = 0, RECORD_RAW = 1, RECORD_RANGE = 2 };

/* Room for the next record, after the magic when it is the first. */
static int begin(struct lfs_split *split, size_t size)
{
	if (split->taken) {
		split->out.size = 0;
		split->taken = false;
	}
	if (!split->started) {
		int rc = lfs_buffer_append(&split->out, "LFSPLIT1", 8);
		if (rc < 0)
			return rc;
		split->started = true;
	}
	return lfs_buffer_reserve(&split->out, size);
}

static void put(struct lfs_split *split, const void *data, size_t size)
{
	memcpy(split->out.data + split->out.size, data, size);
	split->out.size += size;
}

static int flush_raw(struct lfs_split *split)
{
	uint32_t size = (uint32_t)split->raw.size;
	if (!size)
		return 0;
	int rc = begin(split, 5 + (size_t)size);
	if (rc < 0)
		return rc;
	put(split, &(uint8_t){RECORD_RAW}, 1);
	put(split, &size, 4);
	put(split, split->raw.data, size);
	split->raw.size = 0;
	return 0;
}

int lfs_split_raw(struct lfs_split *split, const uint8_t *data, size_t size)
{
	while (size) {
		size_t part = size < RAW_MAX - split->raw.size ? size : RAW_MAX - split->raw.size;
		int rc = lfs_buffer_append(&split->raw, data, part);
		if (rc == 0 && split->raw.size == RAW_MAX)
			rc = flush_raw(split);
		if (rc < 0)
			return rc;
		data += part;
		size -= part;
	}
	return 0;
}

int lfs_split_range(struct lfs_split *split, const uint8_t identity[LFS_ID_SIZE], uint64_t offset, uint64_t size)
{
	int rc = flush_raw(split);
	if (rc == 0)
		rc = begin(split, 1 + LFS_ID_SIZE + 16);
	if (rc < 0)
		return rc;
	put(split, &(uint8_t){RECORD_RANGE}, 1);
	put(split, identity, LFS_ID_SIZE);
	put(split, &offset, 8);
	put(split, &size, 8);
	return 0;
}

int lfs_split_end(struct lfs_split *split, uint64_t tar_size, const uint8_t digest[LFS_ID_SIZE])
{
	int rc = flush_raw(split);
	if (rc == 0)
		rc = begin(split, 1 + 8 + LFS_ID_SIZE);
	if (rc < 0)
		return rc;
	put(split, &(uint8_t){RECORD_END}, 1);
	put(split, &tar_size, 8);
	put(split, digest, LFS_ID_SIZE);
	return 0;
}

struct lfs_bytes lfs_split_take(struct lfs_split *split)
{
	struct lfs_bytes bytes = {split->out.data, split->taken ? 0 : split->out.size};
	split->taken = true;
	return bytes;
}

void lfs_split_free(struct lfs_split *split)
{
	lfs_buffer_free(&split->raw);
	lfs_buffer_free(&split->out);
}
