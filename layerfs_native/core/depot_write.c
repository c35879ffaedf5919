/* Writing a batch: runs of small contents to the pack, objects, temporary files. */
#define _GNU_SOURCE /* pwritev, sync_file_range */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "depot.h"

#define RUN_PARTS 64
#define WRITE_BACK_FROM (1u << 20) /* bytes */

static int write_failed(int number, const char *what, struct lfs_error *error)
{
	return lfs_fail(error, -number, "cannot write %s: %s", what, strerror(number));
}

/* --- temporary files --- */

static void temporary_name(char name[48], uint64_t number)
{
	snprintf(name, 48, ".tmp-%ld-%llu", (long)getpid(), (unsigned long long)number);
}

void lfs_temporary_remove(int directory, uint64_t number)
{
	char name[48];
	temporary_name(name, number);
	unlinkat(directory, name, 0);
}

int lfs_temporary_open(int directory, uint64_t *number, struct lfs_error *error)
{
	static atomic_uint_least64_t counter;
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
	char name[48];
	*number = atomic_fetch_add(&counter, 1);
	temporary_name(name, *number);
	LFS_AUTO_FD fd = openat(directory, name, flags, 0400);
	if (fd < 0 && errno == EEXIST) { /* left by a dead process that had our number */
		unlinkat(directory, name, 0);
		fd = openat(directory, name, flags, 0400);
	}
	if (fd < 0)
		return write_failed(errno, "an object", error);
	if (fchmod(fd, 0400) < 0) { /* whatever the umask */
		int failure = errno;
		unlinkat(directory, name, 0);
		return write_failed(failure, "an object", error);
	}
	return lfs_steal_fd(&fd);
}

static int publish(int directory, const char *from, const uint8_t *identity, struct lfs_error *error)
{
	char to[2 * LFS_ID_SIZE + 1];
	for (int i = 0; i < LFS_ID_SIZE; i++)
		snprintf(to + 2 * i, 3, "%02x", identity[i]);
	return renameat(directory, from, directory, to) < 0 ? write_failed(errno, "an object", error) : 0;
}

static int write_all(int fd, const uint8_t *data, size_t size, uint64_t offset, struct lfs_error *error)
{
	while (size) {
		ssize_t done = pwrite(fd, data, size, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return write_failed(done < 0 ? errno : EIO, "an object", error);
		data += done, offset += (uint64_t)done, size -= (size_t)done;
	}
	return 0;
}

/* Lets the disk begin with what will be synced at the end anyway, while the rest still comes. Merely advice; not worth a
 * call for little, which the sync finds soon enough. */
static void begin_write_back(int fd, uint64_t offset, uint64_t size)
{
	if (size >= WRITE_BACK_FROM)
		sync_file_range(fd, (off_t)offset, (off_t)size, SYNC_FILE_RANGE_WRITE);
}

static int close_file(struct lfs_item *item, struct lfs_error *error)
{
	return close(lfs_steal_fd(&item->fd)) < 0 && errno != EINTR ? write_failed(errno, "an object", error) : 0;
}

/* --- items --- */

static int write_object(struct lfs_batch *batch, const struct lfs_item *item, struct lfs_error *error)
{
	uint64_t number;
	LFS_AUTO_FD fd = lfs_temporary_open(batch->objects_fd, &number, error);
	if (fd < 0)
		return fd;
	char name[48];
	int rc = write_all(fd, item->data, (size_t)item->size, 0, error);
	begin_write_back(fd, 0, item->size);
	temporary_name(name, number);
	if (rc == 0)
		rc = publish(batch->objects_fd, name, item->identity, error);
	if (rc < 0)
		lfs_temporary_remove(batch->objects_fd, number);
	return rc;
}

static int end_file(struct lfs_batch *batch, struct lfs_item *item, struct lfs_error *error)
{
	char name[48];
	if (item->fate == LFS_FATE_KEEP)
		begin_write_back(item->fd, 0, item->size);
	int rc = close_file(item, error);
	temporary_name(name, item->temporary);
	if (rc == 0 && item->fate == LFS_FATE_KEEP)
		return publish(batch->objects_fd, name, item->identity, error);
	if (rc == 0)
		lfs_temporary_remove(batch->objects_fd, item->temporary);
	return rc;
}

/* What fails before goes with the directory, as all that the caller made. */
static int end_delta(struct lfs_batch *batch, const struct lfs_item *item, struct lfs_error *error)
{
	char name[48];
	snprintf(name, sizeof name, ".delta-%llu", (unsigned long long)item->temporary);
	if (item->fate == LFS_FATE_KEEP)
		return publish(batch->objects_fd, name, item->identity, error);
	return unlinkat(batch->objects_fd, name, 0) < 0 ? write_failed(errno, "an object", error) : 0;
}

struct run { /* neighbours in the pack */
	struct iovec parts[RUN_PARTS];
	int count;
	uint64_t block; /* of the first */
};

static int write_run(struct lfs_batch *batch, struct run *run, struct lfs_error *error)
{
	uint64_t offset = run->block * LFS_BLOCK;
	struct iovec *part = run->parts, *end = part + run->count;
	while (part < end) {
		ssize_t done = pwritev(batch->pack_fd, part, (int)(end - part), (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return write_failed(done < 0 ? errno : EIO, "a pack", error);
		offset += (uint64_t)done;
		for (; part < end && (size_t)done >= part->iov_len; part++)
			done -= (ssize_t)part->iov_len;
		if (part < end) {
			part->iov_base = (uint8_t *)part->iov_base + done;
			part->iov_len -= (size_t)done;
		}
	}
	run->count = 0;
	return 0;
}

static int add_to_run(struct lfs_batch *batch, const struct lfs_item *item, struct run *run, struct lfs_error *error)
{
	size_t size = lfs_blocks(item->size) * LFS_BLOCK;
	struct iovec *last = run->count ? &run->parts[run->count - 1] : NULL;
	if (last && (uint8_t *)last->iov_base + last->iov_len == item->data) {
		last->iov_len += size;
		return 0;
	}
	int rc = run->count == RUN_PARTS ? write_run(batch, run, error) : 0;
	if (!run->count)
		run->block = item->block;
	run->parts[run->count++] = (struct iovec){item->data, size};
	return rc;
}

static int write_item(struct lfs_batch *batch, struct lfs_item *item, struct run *run, struct lfs_error *error)
{
	switch (item->form) {
	case LFS_ITEM_PIECE:
		return write_all(item->fd, item->data, (size_t)item->size, item->offset, error);
	case LFS_ITEM_FILE:
		return end_file(batch, item, error);
	case LFS_ITEM_DELTA:
		return end_delta(batch, item, error);
	case LFS_ITEM_MEDIUM:
		return item->fate == LFS_FATE_KEEP ? write_object(batch, item, error) : 0;
	default:
		return item->fate == LFS_FATE_KEEP ? add_to_run(batch, item, run, error) : 0;
	}
}

int lfs_batch_write(void *argument, struct lfs_error *error)
{
	struct lfs_batch *batch = argument;
	struct lfs_item *items = (struct lfs_item *)batch->items.data;
	size_t count = batch->items.size / sizeof *items;
	struct run run = {.count = 0};
	uint64_t first = 0, end = 0; /* blocks of the pack, which the batch's contents have one after the other */
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct lfs_item *item = &items[i];
		rc = write_item(batch, item, &run, error);
		if (rc == 0 && item->form == LFS_ITEM_SMALL && item->fate == LFS_FATE_KEEP) {
			first = end ? first : item->block;
			end = item->block + lfs_blocks(item->size);
		}
		if (rc == 0)
			item->fate = LFS_FATE_DONE;
	}
	if (rc == 0)
		rc = write_run(batch, &run, error);
	begin_write_back(batch->pack_fd, first * LFS_BLOCK, (end - first) * LFS_BLOCK);
	return rc;
}

/* After a failure: closes and removes the temporary files that are left. */
void lfs_batch_abandon(struct lfs_batch *batch)
{
	struct lfs_item *items = (struct lfs_item *)batch->items.data;
	for (size_t i = 0; i < batch->items.size / sizeof *items; i++)
		if (items[i].form == LFS_ITEM_FILE && items[i].fate != LFS_FATE_DONE) {
			lfs_close_fd(&items[i].fd);
			lfs_temporary_remove(batch->objects_fd, items[i].temporary);
		}
}
