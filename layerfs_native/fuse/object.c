/* Objects of the store: whole files, or deltas, which keep what differs from another object (docs/format.md, "Delta objects"). The front of a
 * delta is kept in memory while it is open, checked, so that no later read can leave the files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

#define MAGIC "LFSDELT1"
#define HEAD_SIZE 64u
#define RANGE_SIZE 16u
#define SUFFIX ".delta"
#define CHUNK (1u << 20)

struct range {
	uint64_t start, end, place; /* in the content; of its bytes in the delta's file */
};

struct lfs_delta {
	int base;
	uint64_t size, valid, count; /* valid: bytes of the base that show */
	struct range ranges[];
};

/* --- opening --- */

static int open_file(const struct lfs_server *server, const uint8_t identity[LFS_ID_SIZE], const char *suffix, struct stat *status)
{
	char path[LFS_ID_SIZE * 2 + 2 + sizeof SUFFIX], *at = path;
	for (unsigned i = 0; i < LFS_ID_SIZE; i++) {
		*at++ = "0123456789abcdef"[identity[i] >> 4];
		*at++ = "0123456789abcdef"[identity[i] & 15];
		if (!i)
			*at++ = '/';
	}
	strcpy(at, suffix);
	LFS_AUTO_FD fd = openat(server->lower.objects, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	if (fd < 0 && errno == EPERM)
		fd = openat(server->lower.objects, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fstat(fd, status) < 0 || !S_ISREG(status->st_mode) ? -EIO : lfs_steal_fd(&fd);
}

static uint64_t number_at(const uint8_t *bytes)
{
	uint64_t value = 0;
	for (unsigned i = 0; i < 8; i++)
		value |= (uint64_t)bytes[i] << 8 * i;
	return value;
}

static int read_all(int fd, uint8_t *out, size_t size, uint64_t offset)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = pread(fd, out + done, size - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EIO;
		done += (size_t)got;
	}
	return 0;
}

/* In rising order, not empty, within the content; their bytes fill the file to its end. */
static int read_ranges(struct lfs_delta *delta, int fd, uint64_t file_size)
{
	uint64_t last = 0, place = (HEAD_SIZE + RANGE_SIZE * delta->count + LFS_BLOCK - 1) & ~(uint64_t)(LFS_BLOCK - 1);
	size_t size = RANGE_SIZE * delta->count;
	uint8_t *table = malloc(size ? size : 1);
	int rc = table ? read_all(fd, table, size, HEAD_SIZE) : -ENOMEM;
	for (uint64_t i = 0; rc >= 0 && i < delta->count; i++) {
		uint64_t start = number_at(table + RANGE_SIZE * i), length = number_at(table + RANGE_SIZE * i + 8);
		if (start < last || start > delta->size || !length || length > delta->size - start) {
			rc = -EIO;
			break;
		}
		last = start + length;
		delta->ranges[i] = (struct range){start, last, place};
		place += length;
	}
	free(table);
	return rc < 0 ? rc : place != file_size ? -EIO : 0;
}

static int read_delta(const struct lfs_server *server, int fd, uint64_t file_size, struct lfs_delta **out)
{
	uint8_t head[HEAD_SIZE];
	struct stat status;
	int rc = read_all(fd, head, sizeof head, 0);
	uint64_t size = number_at(head + 40), valid = number_at(head + 48), count = number_at(head + 56);
	if (rc < 0 || memcmp(head, MAGIC, 8) != 0 || size > INT64_MAX || valid > size || count > file_size / RANGE_SIZE)
		return rc < 0 ? rc : -EIO;
	struct lfs_delta *delta = malloc(sizeof *delta + count * sizeof *delta->ranges);
	if (!delta)
		return -ENOMEM;
	*delta = (struct lfs_delta){.size = size, .valid = valid, .count = count};
	rc = read_ranges(delta, fd, file_size);
	delta->base = rc < 0 ? LFS_NO_FD : open_file(server, head + 8, "", &status);
	if (rc >= 0 && delta->base < 0)
		rc = delta->base == -ENOENT ? -EIO : delta->base;
	else if (rc >= 0 && (uint64_t)status.st_size < valid)
		rc = -EIO;
	if (rc < 0) {
		lfs_delta_free(delta);
		return rc;
	}
	*out = delta;
	return 0;
}

void lfs_delta_free(struct lfs_delta *delta)
{
	if (!delta)
		return;
	lfs_close_fd(&delta->base);
	free(delta);
}

int lfs_object_open(const struct lfs_server *server, const uint8_t identity[LFS_ID_SIZE], struct lfs_object *object)
{
	struct stat status;
	*object = (struct lfs_object){.fd = LFS_NO_FD};
	LFS_AUTO_FD fd = LFS_NO_FD;
	bool delta = false;
	for (unsigned turn = 0; fd < 0 && turn < 4; turn++) { /* a delta may become whole in between */
		delta = turn % 2;
		fd = open_file(server, identity, delta ? SUFFIX : "", &status);
		if (fd < 0 && fd != -ENOENT)
			return fd;
	}
	if (fd < 0)
		return -EIO; /* a lost object is no missing file */
	object->size = (uint64_t)status.st_size;
	int rc = delta ? read_delta(server, fd, object->size, &object->delta) : 0;
	if (rc < 0)
		return rc;
	if (delta)
		object->size = object->delta->size;
	object->fd = lfs_steal_fd(&fd);
	return 0;
}

void lfs_object_close(struct lfs_object *object)
{
	lfs_close_fd(&object->fd);
	lfs_delta_free(object->delta);
	*object = (struct lfs_object){.fd = LFS_NO_FD};
}

/* --- bytes --- */

/* The first range that ends behind `at`. */
static uint64_t range_at(const struct lfs_delta *delta, uint64_t at)
{
	uint64_t low = 0, high = delta->count;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (delta->ranges[middle].end <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

enum source { OF_DELTA, OF_BASE, OF_NOBODY };

/* Who has the byte at `at`, and up to where; *range: of the delta's. */
static enum source source_at(const struct lfs_delta *delta, uint64_t at, uint64_t *stop, const struct range **range)
{
	uint64_t index = range_at(delta, at);
	*range = index < delta->count ? &delta->ranges[index] : NULL;
	if (*range && (*range)->start <= at) {
		*stop = (*range)->end;
		return OF_DELTA;
	}
	*stop = *range ? (*range)->start : delta->size;
	if (at >= delta->valid)
		return OF_NOBODY;
	*stop = *stop < delta->valid ? *stop : delta->valid;
	return OF_BASE;
}

ssize_t lfs_object_read(const struct lfs_object *object, void *out, size_t size, uint64_t offset)
{
	const struct lfs_delta *delta = object->delta;
	size_t done = 0;
	if (!delta)
		return pread(object->fd, out, size, (off_t)offset);
	if (offset >= delta->size)
		return 0;
	size = size < delta->size - offset ? size : delta->size - offset;
	while (done < size) {
		const struct range *range;
		uint64_t at = offset + done, stop;
		enum source source = source_at(delta, at, &stop, &range);
		size_t part = stop - at < size - done ? stop - at : size - done;
		uint8_t *to = (uint8_t *)out + done;
		int rc = source == OF_DELTA ? read_all(object->fd, to, part, range->place + at - range->start)
			 : source == OF_BASE ? read_all(delta->base, to, part, at)
					     : 0;
		if (rc < 0) {
			errno = -rc;
			return done ? (ssize_t)done : -1;
		}
		if (source == OF_NOBODY)
			memset(to, 0, part);
		done += part;
	}
	return (ssize_t)done;
}

off_t lfs_object_seek(const struct lfs_object *object, uint64_t at, int whence)
{
	const struct lfs_delta *delta = object->delta;
	if (!delta)
		return lseek(object->fd, (off_t)at, whence);
	for (uint64_t stop; at < delta->size; at = stop) {
		const struct range *range;
		enum source source = source_at(delta, at, &stop, &range);
		if (source != OF_BASE) {
			if ((source == OF_DELTA) == (whence == SEEK_DATA))
				return (off_t)at;
			continue;
		}
		off_t found = lseek(delta->base, (off_t)at, whence);
		if (found < 0 && errno != ENXIO)
			return -1;
		if (found >= 0 && (uint64_t)found < stop)
			return found;
	}
	errno = ENXIO;
	return whence == SEEK_DATA ? -1 : (off_t)delta->size;
}

static int copy_run(const struct lfs_object *object, int target, uint64_t at, uint64_t stop, uint8_t *buffer)
{
	while (at < stop) {
		ssize_t got = lfs_object_read(object, buffer, stop - at < CHUNK ? stop - at : CHUNK, at);
		if (got <= 0)
			return got ? -errno : -EIO;
		for (ssize_t put = 0; put < got;) {
			ssize_t done = pwrite(target, buffer + put, (size_t)(got - put), (off_t)(at + (uint64_t)put));
			if (done < 0)
				return -errno;
			put += done;
		}
		at += (uint64_t)got;
	}
	return 0;
}

int lfs_object_copy(const struct lfs_object *object, int target)
{
	if (!object->delta)
		return lfs_copy_extents(object->fd, target, object->size);
	if (ftruncate(target, (off_t)object->size) < 0)
		return -errno;
	uint8_t *buffer = malloc(CHUNK);
	int rc = buffer ? 0 : -ENOMEM;
	for (off_t at = 0, stop; rc >= 0 && (at = lfs_object_seek(object, (uint64_t)at, SEEK_DATA)) >= 0; at = stop) {
		stop = lfs_object_seek(object, (uint64_t)at, SEEK_HOLE);
		rc = stop < 0 ? -errno : copy_run(object, target, (uint64_t)at, (uint64_t)stop, buffer);
	}
	free(buffer);
	return rc;
}
