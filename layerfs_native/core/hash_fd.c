/* The identity of a file on the host. */
#define _GNU_SOURCE /* SEEK_DATA */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "identity.h"

#define READ_SIZE (1u << 20)

static void free_buffer(uint8_t **buffer)
{
	free(*buffer);
}

/* Feeds bytes [from, to); the identity stands at `from`. A file that shrinks meanwhile is -ESTALE. */
static int feed_range(int fd, uint64_t from, uint64_t to, uint8_t *buffer, struct lfs_identity *identity)
{
	while (from < to) {
		size_t want = to - from < READ_SIZE ? (size_t)(to - from) : READ_SIZE;
		ssize_t got = pread(fd, buffer, want, (off_t)from);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ESTALE;
		lfs_identity_data(identity, buffer, (size_t)got);
		from += (uint64_t)got;
	}
	return 0;
}

static int feed_extents(int fd, uint64_t size, uint8_t *buffer, struct lfs_identity *identity)
{
	uint64_t at = 0;
	while (at < size) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return -errno;
		if (data < 0 || (uint64_t)data >= size)
			break;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		uint64_t end = (uint64_t)hole < size ? (uint64_t)hole : size;
		lfs_identity_zeros(identity, (uint64_t)data - at);
		int rc = feed_range(fd, (uint64_t)data, end, buffer, identity);
		if (rc < 0)
			return rc;
		at = end;
	}
	lfs_identity_zeros(identity, size - at);
	return 0;
}

int lfs_hash_fd(int fd, bool sparse, uint8_t out[LFS_ID_SIZE], uint64_t *xxh64)
{
	struct stat status;
	if (fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EINVAL;
	__attribute__((cleanup(free_buffer))) uint8_t *buffer = malloc(READ_SIZE);
	if (!buffer)
		return -ENOMEM;

	struct lfs_identity identity;
	uint64_t size = (uint64_t)status.st_size;
	lfs_identity_init(&identity, sparse, size);
	int rc = sparse ? feed_extents(fd, size, buffer, &identity) : feed_range(fd, 0, size, buffer, &identity);
	if (rc < 0)
		return rc;
	lfs_identity_final(&identity, out, xxh64);
	return 0;
}
