#define _GNU_SOURCE /* MADV_POPULATE_READ */
#include "ranges.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#endif

#define PIECE (128u << 10) /* stays in the second-level cache from the copy to the hash */
#define WINDOW (8u << 20)  /* mapped at once */

struct reader {
	void (*take)(void *context, const uint8_t *data, size_t size);
	void *context;
	uint8_t *buffer;
	size_t page;
};

uint64_t lfs_ranges_size(const struct lfs_file_range *ranges, size_t count)
{
	uint64_t size = 0;
	for (size_t i = 0; i < count; i++)
		size += ranges[i].size;
	return size;
}

static void free_buffer(uint8_t **buffer)
{
	free(*buffer);
}

static size_t smaller(uint64_t size, size_t limit)
{
	return size < limit ? (size_t)size : limit;
}

/* Where pages are in the cache nothing is copied. They are made to be there first: what cannot be read is no signal then, but an error,
 * and for those who copy to find out about. 0: so it is, or nothing of the kind can be had here. */
static size_t take_mapped(const struct reader *reader, const struct lfs_file_range *range)
{
	uint64_t start = range->offset & ~(uint64_t)(reader->page - 1);
	size_t front = (size_t)(range->offset - start), size = smaller(range->size, WINDOW - front);
	if (size < PIECE)
		return 0;
	uint8_t *at = mmap(NULL, front + size, PROT_READ, MAP_SHARED, (int)range->fd, (off_t)start);
	if (at == MAP_FAILED)
		return 0;
	if (range->size > size)
		posix_fadvise((int)range->fd, (off_t)(range->offset + size), WINDOW, POSIX_FADV_WILLNEED);
	bool there = madvise(at, front + size, MADV_POPULATE_READ) == 0;
	if (there)
		reader->take(reader->context, at + front, size);
	munmap(at, front + size);
	return there ? size : 0;
}

static ssize_t take_copied(const struct reader *reader, const struct lfs_file_range *range, struct lfs_error *error)
{
	size_t want = smaller(range->size, PIECE);
	ssize_t got;
	do {
		got = pread((int)range->fd, reader->buffer, want, (off_t)range->offset);
	} while (got < 0 && errno == EINTR);
	int number = errno;
	if (got < 0)
		return lfs_fail(error, -number, "cannot read an object: %s", strerror(number));
	if (!got)
		return lfs_fail(error, -EUCLEAN, "an object of the store ends early");
	reader->take(reader->context, reader->buffer, (size_t)got);
	return got;
}

static ssize_t take_zeros(const struct reader *reader, uint64_t size)
{
	size_t part = smaller(size, PIECE);
	memset(reader->buffer, 0, part);
	reader->take(reader->context, reader->buffer, part);
	return (ssize_t)part;
}

/* Some bytes from the front of a range: how many. */
static ssize_t take_some(const struct reader *reader, const struct lfs_file_range *range, struct lfs_error *error)
{
	if (range->fd < 0)
		return take_zeros(reader, range->size);
	size_t mapped = take_mapped(reader, range);
	return mapped ? (ssize_t)mapped : take_copied(reader, range, error);
}

int lfs_ranges_read(const struct lfs_file_range *ranges, size_t count, void (*take)(void *context, const uint8_t *data, size_t size),
		    void *context, struct lfs_error *error)
{
	__attribute__((cleanup(free_buffer))) uint8_t *buffer = malloc(PIECE);
	struct reader reader = {take, context, buffer, (size_t)sysconf(_SC_PAGESIZE)};
	if (!buffer)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct lfs_file_range range = ranges[i];
		while (range.size) {
			ssize_t got = take_some(&reader, &range, error);
			if (got < 0)
				return (int)got;
			range.offset += (uint64_t)got;
			range.size -= (uint64_t)got;
		}
	}
	return 0;
}
