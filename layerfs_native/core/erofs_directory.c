/* Directories of tree files: blocks of sorted entries, searched by halves. Reading is as careful as in erofs_read.c. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_format.h"
#include "erofs_read.h"

#define POSITION_BITS 9 /* a block holds at most 341 entries */

struct block {
	const uint8_t *base;
	uint32_t used, count; /* bytes; entries */
};

static inline uint64_t block_count(const struct lfs_inode *directory)
{
	return (directory->size + LFS_BLOCK - 1) / LFS_BLOCK;
}

static int read_block(const struct lfs_image *image, const struct lfs_inode *directory, uint64_t number, struct block *block)
{
	bool last = number + 1 == block_count(directory);
	block->used = last ? (uint32_t)(directory->size - number * LFS_BLOCK) : LFS_BLOCK;
	block->base = image->base + (last && directory->layout == EROFS_INLINE ? directory->tail_offset
									      : (directory->raw_block + number) * LFS_BLOCK);
	uint32_t names = block->used >= EROFS_DIRENT_SIZE ? lfs_get16(block->base + 8) : 0;
	block->count = names / EROFS_DIRENT_SIZE;
	return names % EROFS_DIRENT_SIZE || !names || names > block->used ? -EIO : 0;
}

static int read_name(const struct block *block, uint32_t index, struct lfs_bytes *name)
{
	const uint8_t *dirent = block->base + (size_t)index * EROFS_DIRENT_SIZE;
	uint32_t start = lfs_get16(dirent + 8), end;
	if (start < block->count * EROFS_DIRENT_SIZE || start >= block->used)
		return -EIO;
	if (index + 1 < block->count)
		end = lfs_get16(dirent + EROFS_DIRENT_SIZE + 8);
	else /* the last name ends at the padding */
		end = start + (uint32_t)strnlen((const char *)block->base + start, block->used - start);
	if (end <= start || end > block->used || end - start > LFS_NAME_MAX)
		return -EIO;
	*name = (struct lfs_bytes){block->base + start, end - start};
	return 0;
}

static inline int compare_names(struct lfs_bytes a, struct lfs_bytes b)
{
	int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
	return order ? order : (a.size > b.size) - (a.size < b.size);
}

static void fill_entry(const struct block *block, uint32_t index, struct lfs_dirent *entry)
{
	const uint8_t *dirent = block->base + (size_t)index * EROFS_DIRENT_SIZE;
	entry->nid = lfs_get64(dirent);
	entry->type = dirent[10];
}

/* The last block whose first name is not above the name. */
static int find_block(const struct lfs_image *image, const struct lfs_inode *directory, struct lfs_bytes name, struct block *block)
{
	uint64_t low = 0, high = block_count(directory);
	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;
		struct lfs_bytes first;
		if (read_block(image, directory, middle, block) < 0 || read_name(block, 0, &first) < 0)
			return -EIO;
		if (compare_names(first, name) <= 0)
			low = middle;
		else
			high = middle;
	}
	return read_block(image, directory, low, block);
}

int lfs_image_lookup(const struct lfs_image *image, const struct lfs_inode *directory, struct lfs_bytes name, uint64_t *nid,
		     uint8_t *type)
{
	struct block block;
	struct lfs_dirent entry;
	if (!S_ISDIR(directory->mode))
		return -ENOTDIR;
	if (find_block(image, directory, name, &block) < 0)
		return -EIO;
	for (uint32_t low = 0, high = block.count; low < high;) {
		uint32_t middle = low + (high - low) / 2;
		if (read_name(&block, middle, &entry.name) < 0)
			return -EIO;
		int order = compare_names(entry.name, name);
		if (!order) {
			fill_entry(&block, middle, &entry);
			*nid = entry.nid;
			*type = entry.type;
			return 0;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return -ENOENT;
}

int lfs_image_next(const struct lfs_image *image, const struct lfs_inode *directory, uint64_t *position, struct lfs_dirent *entry)
{
	struct block block;
	uint64_t number = *position >> POSITION_BITS;
	uint32_t index = *position & ((1u << POSITION_BITS) - 1);
	if (number >= block_count(directory))
		return 1;
	if (read_block(image, directory, number, &block) < 0)
		return -EIO;
	if (index >= block.count) {
		index = 0;
		if (++number >= block_count(directory))
			return 1;
		if (read_block(image, directory, number, &block) < 0)
			return -EIO;
	}
	if (read_name(&block, index, &entry->name) < 0)
		return -EIO;
	fill_entry(&block, index, entry);
	*position = (number << POSITION_BITS | index) + 1;
	return 0;
}

int lfs_image_readdir(const struct lfs_image *image, const struct lfs_inode *directory, uint64_t from,
		      int (*each)(void *context, uint64_t position, const struct lfs_dirent *entry), void *context)
{
	struct lfs_dirent entry;
	uint64_t position = from;
	int rc;
	if (!S_ISDIR(directory->mode))
		return -ENOTDIR;
	while (!(rc = lfs_image_next(image, directory, &position, &entry))) {
		if ((rc = each(context, position - 1, &entry)))
			return rc;
	}
	return rc == 1 ? 0 : rc;
}
