#define _GNU_SOURCE /* pwritev */
#include "depot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define BATCH_BYTES (4u << 20)
#define BATCH_ITEMS 1024u
#define MEDIUM_MAX (16u << 20) /* contents up to this size are looked up before anything is written */

struct item {
	uint32_t index; /* in the table */
	enum lfs_depot_form form;
	uint64_t xxh64;
	uint8_t *data;	    /* in the batch */
	uint64_t temporary; /* number of the file */
};

int lfs_depot_init(struct lfs_depot *depot, const struct lfs_ingest_config *config)
{
	*depot = (struct lfs_depot){.config = config, .now = {.fd = -1}};
	/* Untouched pages cost nothing. The room is for the last content that fits below BATCH_BYTES. */
	depot->batch = malloc(BATCH_BYTES + MEDIUM_MAX + LFS_BLOCK);
	return depot->batch ? 0 : -ENOMEM;
}

/* --- files --- */

static void temporary_name(char name[48], uint64_t number)
{
	snprintf(name, 48, ".tmp-%ld-%llu", (long)getpid(), (unsigned long long)number);
}

static void object_name(char name[2 * LFS_ID_SIZE + 1], const uint8_t *identity)
{
	for (int i = 0; i < LFS_ID_SIZE; i++)
		sprintf(name + 2 * i, "%02x", identity[i]);
}

static int write_failed(int number, const char *what, struct lfs_error *error)
{
	return lfs_fail(error, -number, "cannot write %s: %s", what, strerror(number));
}

static int open_temporary(int directory, uint64_t *number, struct lfs_error *error)
{
	static atomic_uint_least64_t counter;
	char name[48];
	*number = atomic_fetch_add(&counter, 1);
	temporary_name(name, *number);
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400);
	if (fd < 0 && errno == EEXIST) { /* left by a dead process that had our number */
		unlinkat(directory, name, 0);
		fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400);
	}
	if (fd < 0)
		return write_failed(errno, "an object", error);
	if (fchmod(fd, 0400) < 0) { /* whatever the umask */
		int number = errno;
		close(fd);
		return write_failed(number, "an object", error);
	}
	return fd;
}

static void remove_temporary(int directory, uint64_t number)
{
	char name[48];
	temporary_name(name, number);
	unlinkat(directory, name, 0);
}

static int publish_temporary(int directory, uint64_t number, const uint8_t *identity, struct lfs_error *error)
{
	char from[48], to[2 * LFS_ID_SIZE + 1];
	temporary_name(from, number);
	object_name(to, identity);
	return renameat(directory, from, directory, to) < 0 ? write_failed(errno, "an object", error) : 0;
}

static int write_all(int fd, const uint8_t *data, size_t size, uint64_t offset, const char *what, struct lfs_error *error)
{
	while (size) {
		ssize_t done = pwrite(fd, data, size, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return write_failed(done < 0 ? errno : EIO, what, error);
		data += done, offset += (uint64_t)done, size -= (size_t)done;
	}
	return 0;
}

/* --- one content --- */

static size_t blocks_of(uint64_t size)
{
	return (size_t)((size + LFS_BLOCK - 1) / LFS_BLOCK);
}

int lfs_depot_begin(struct lfs_depot *depot, uint64_t size, bool sparse, struct lfs_error *error)
{
	depot->now.form = sparse || size > MEDIUM_MAX ? LFS_DEPOT_FILE : size > LFS_PACK_MAX ? LFS_DEPOT_MEDIUM : LFS_DEPOT_SMALL;
	depot->now.size = size;
	depot->now.at = 0;
	lfs_identity_init(&depot->now.identity, sparse, size);
	if (depot->now.form != LFS_DEPOT_FILE)
		return 0;
	int fd = open_temporary(depot->config->objects_fd, &depot->now.temporary, error);
	if (fd < 0)
		return fd;
	depot->now.fd = fd;
	return ftruncate(fd, (off_t)size) < 0 ? write_failed(errno, "an object", error) : 0;
}

/* Bytes up to `offset` that the archive did not store are zeros. */
static void fill_gap(struct lfs_depot *depot, uint64_t offset)
{
	uint64_t gap = offset - depot->now.at;
	lfs_identity_zeros(&depot->now.identity, gap);
	if (depot->now.form != LFS_DEPOT_FILE)
		memset(depot->batch + depot->batch_used + depot->now.at, 0, gap);
	depot->now.at = offset;
}

int lfs_depot_data(struct lfs_depot *depot, uint64_t offset, const uint8_t *data, size_t size, struct lfs_sha256 *other,
		   struct lfs_error *error)
{
	if (offset > depot->now.at)
		fill_gap(depot, offset);
	lfs_identity_data_with(&depot->now.identity, other, data, size);
	depot->now.at += size;
	if (depot->now.form == LFS_DEPOT_FILE)
		return write_all(depot->now.fd, data, size, offset, "an object", error);
	memcpy(depot->batch + depot->batch_used + offset, data, size);
	return 0;
}

/* The content is new to this layer: it joins the batch. */
static int join(struct lfs_depot *depot, uint32_t index, uint64_t xxh64)
{
	struct item item = {.index = index, .form = depot->now.form, .xxh64 = xxh64, .data = depot->batch + depot->batch_used,
			    .temporary = depot->now.temporary};
	int rc = lfs_buffer_append(&depot->items, &item, sizeof item);
	if (rc < 0)
		return rc;
	if (item.form == LFS_DEPOT_FILE) {
		depot->file_waits = true;
		return 0;
	}
	size_t padded = blocks_of(depot->now.size) * LFS_BLOCK;
	memset(item.data + depot->now.size, 0, padded - depot->now.size);
	depot->batch_used += padded;
	return 0;
}

int lfs_depot_end(struct lfs_depot *depot, uint32_t *index, struct lfs_error *error)
{
	uint8_t identity[LFS_ID_SIZE];
	uint64_t xxh64;
	bool added;
	if (depot->now.size > depot->now.at)
		fill_gap(depot, depot->now.size);
	lfs_identity_final(&depot->now.identity, identity, &xxh64);
	int rc = lfs_table_add(&depot->table, identity, index, &added);
	if (rc == 0 && added) {
		struct lfs_content *content = lfs_table_at(&depot->table, *index);
		content->size = depot->now.size;
		content->flags = depot->now.identity.sparse ? LFS_FLAG_SPARSE : 0;
		rc = join(depot, *index, xxh64);
	}
	if (depot->now.form != LFS_DEPOT_FILE)
		return rc;
	if (rc < 0 || !added)
		remove_temporary(depot->config->objects_fd, depot->now.temporary);
	if (close(lfs_steal_fd(&depot->now.fd)) < 0 && rc == 0 && errno != EINTR)
		rc = write_failed(errno, "an object", error);
	return rc;
}

/* --- a batch --- */

bool lfs_depot_full(const struct lfs_depot *depot)
{
	return depot->file_waits || depot->batch_used >= BATCH_BYTES || depot->items.size >= BATCH_ITEMS * sizeof(struct item);
}

/* Asks the store about the batch. The answers are index values (docs/format.md "Index"). */
static int look_up(struct lfs_depot *depot, const struct item *items, size_t count, uint8_t **values)
{
	depot->asked.size = 0;
	int rc = lfs_buffer_reserve(&depot->asked, 2 * LFS_ID_SIZE * count);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++)
		memcpy(depot->asked.data + LFS_ID_SIZE * i, lfs_table_at(&depot->table, items[i].index)->identity, LFS_ID_SIZE);
	*values = depot->asked.data + LFS_ID_SIZE * count;
	memset(*values, 0, LFS_ID_SIZE * count);
	return depot->config->lookup(depot->config->context, depot->asked.data, count, *values);
}

/* Whether the store has it already; then where. */
static int take_answer(struct lfs_content *content, const uint8_t value[LFS_ID_SIZE], struct lfs_error *error)
{
	uint64_t size;
	if (value[0] == LFS_KIND_NONE)
		return 0;
	memcpy(&size, value + 16, sizeof size);
	if (size != content->size || value[0] > LFS_KIND_OBJECT)
		return lfs_fail(error, -EUCLEAN, "the store's index is damaged: wrong size of a content");
	content->kind = value[0];
	memcpy(&content->block, value + 4, sizeof content->block);
	memcpy(&content->pack, value + 8, sizeof content->pack);
	return 1;
}

static int add_row(struct lfs_depot *depot, const struct item *item)
{
	const struct lfs_content *content = lfs_table_at(&depot->table, item->index);
	struct lfs_new_content row = {.size = content->size, .xxh64 = item->xxh64, .block = content->block, .kind = content->kind,
				      .flags = content->flags};
	memcpy(row.identity, content->identity, LFS_ID_SIZE);
	return lfs_buffer_append(&depot->rows, &row, sizeof row);
}

static int write_object(struct lfs_depot *depot, const struct item *item, struct lfs_error *error)
{
	const struct lfs_content *content = lfs_table_at(&depot->table, item->index);
	int directory = depot->config->objects_fd;
	uint64_t number = item->temporary;
	if (item->form == LFS_DEPOT_MEDIUM) {
		LFS_AUTO_FD fd = open_temporary(directory, &number, error);
		if (fd < 0)
			return fd;
		int rc = write_all(fd, item->data, (size_t)content->size, 0, "an object", error);
		if (rc < 0) {
			remove_temporary(directory, number);
			return rc;
		}
	}
	int rc = publish_temporary(directory, number, content->identity, error);
	if (rc < 0)
		remove_temporary(directory, number);
	return rc;
}

struct run { /* neighbours in the batch that go to the pack together */
	struct iovec parts[64];
	int count;
	uint64_t block; /* of the first */
};

static int write_run(struct lfs_depot *depot, struct run *run, struct lfs_error *error)
{
	uint64_t offset = run->block * LFS_BLOCK;
	struct iovec *part = run->parts, *end = part + run->count;
	while (part < end) {
		ssize_t done = pwritev(depot->config->pack_fd, part, (int)(end - part), (off_t)offset);
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
	run->block = depot->blocks;
	run->count = 0;
	return 0;
}

static int add_to_pack(struct lfs_depot *depot, const struct item *item, struct run *run, struct lfs_error *error)
{
	struct lfs_content *content = lfs_table_at(&depot->table, item->index);
	size_t blocks = blocks_of(content->size);
	struct iovec *last = run->count ? &run->parts[run->count - 1] : NULL;
	if (depot->blocks + blocks > UINT32_MAX)
		return lfs_fail(error, -EFBIG, "a pack over 16 TiB");
	if (last && (uint8_t *)last->iov_base + last->iov_len == item->data)
		last->iov_len += blocks * LFS_BLOCK;
	else
		run->parts[run->count++] = (struct iovec){item->data, blocks * LFS_BLOCK};
	content->kind = LFS_KIND_PACK;
	content->block = (uint32_t)depot->blocks;
	content->pack = depot->config->pack_id;
	depot->blocks += blocks;
	return run->count == sizeof run->parts / sizeof *run->parts ? write_run(depot, run, error) : 0;
}

static int keep(struct lfs_depot *depot, const struct item *item, struct run *run, struct lfs_error *error)
{
	int rc;
	if (item->form == LFS_DEPOT_SMALL) {
		rc = add_to_pack(depot, item, run, error);
	} else {
		rc = write_object(depot, item, error);
		lfs_table_at(&depot->table, item->index)->kind = LFS_KIND_OBJECT;
	}
	return rc < 0 ? rc : add_row(depot, item);
}

int lfs_depot_settle(struct lfs_depot *depot, struct lfs_error *error)
{
	struct item *items = (struct item *)depot->items.data;
	size_t count = depot->items.size / sizeof *items;
	struct run run = {.block = depot->blocks};
	uint8_t *values;
	if (!count)
		return 0;
	int rc = look_up(depot, items, count, &values);
	for (size_t i = 0; rc >= 0 && i < count; i++) {
		rc = take_answer(lfs_table_at(&depot->table, items[i].index), values + LFS_ID_SIZE * i, error);
		if (rc == 0)
			rc = keep(depot, &items[i], &run, error);
		else if (rc > 0 && items[i].form == LFS_DEPOT_FILE)
			remove_temporary(depot->config->objects_fd, items[i].temporary);
		if (rc >= 0)
			items[i].form = LFS_DEPOT_SMALL; /* its file, if any, is dealt with */
	}
	if (rc >= 0)
		rc = write_run(depot, &run, error);
	if (rc < 0)
		return rc;
	depot->items.size = depot->batch_used = 0;
	depot->file_waits = false;
	return 0;
}

void lfs_depot_free(struct lfs_depot *depot)
{
	const struct item *items = (const struct item *)depot->items.data;
	for (size_t i = 0; i < depot->items.size / sizeof *items; i++)
		if (items[i].form == LFS_DEPOT_FILE)
			remove_temporary(depot->config->objects_fd, items[i].temporary);
	if (depot->now.fd >= 0)
		remove_temporary(depot->config->objects_fd, depot->now.temporary);
	lfs_close_fd(&depot->now.fd);
	lfs_table_free(&depot->table);
	lfs_buffer_free(&depot->rows);
	lfs_buffer_free(&depot->items);
	lfs_buffer_free(&depot->asked);
	free(depot->batch);
}
