#define _GNU_SOURCE /* sched_getaffinity */
#include "depot.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "ranges.h"

static bool several_processors(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof set, &set) < 0 || CPU_COUNT(&set) > 1; /* more of them than a set holds are an error */
}

int lfs_depot_init(struct lfs_depot *depot, const struct lfs_ingest_config *config)
{
	*depot = (struct lfs_depot){.config = config, .several = several_processors(), .now = {.fd = -1}};
	lfs_worker_init(&depot->worker);
	depot->batch = &depot->batches[0];
	for (int i = 0; i < 2; i++) {
		struct lfs_batch *batch = &depot->batches[i];
		batch->pack_fd = config->pack_fd;
		batch->objects_fd = config->objects_fd;
		/* Room for the last content that begins below LFS_BATCH_BYTES; untouched pages cost nothing. */
		batch->data = malloc(LFS_BATCH_BYTES + LFS_MEDIUM_MAX + LFS_BLOCK);
		if (!batch->data)
			return -ENOMEM;
	}
	return 0;
}

void lfs_depot_free(struct lfs_depot *depot)
{
	if (!depot->config)
		return;
	lfs_worker_free(&depot->worker);
	for (int i = 0; i < 2; i++) {
		lfs_batch_abandon(&depot->batches[i]);
		lfs_buffer_free(&depot->batches[i].items);
		free(depot->batches[i].data);
	}
	if (depot->now.fd >= 0) {
		lfs_close_fd(&depot->now.fd);
		lfs_temporary_remove(depot->config->objects_fd, depot->now.temporary);
	}
	lfs_table_free(&depot->table);
	lfs_buffer_free(&depot->rows);
	lfs_buffer_free(&depot->asked);
}

/* --- one content --- */

void lfs_depot_delta(struct lfs_depot *depot, uint64_t number)
{
	depot->delta_next = true;
	depot->delta = number;
}

/* Its bytes go to the batch, not to a file. */
static bool in_memory(enum lfs_item_form form)
{
	return form == LFS_ITEM_SMALL || form == LFS_ITEM_MEDIUM;
}

int lfs_depot_begin(struct lfs_depot *depot, uint64_t size, bool sparse, struct lfs_error *error)
{
	depot->now.form = sparse || size > LFS_MEDIUM_MAX ? LFS_ITEM_FILE : size > LFS_PACK_MAX ? LFS_ITEM_MEDIUM : LFS_ITEM_SMALL;
	depot->now.size = size;
	depot->now.at = 0;
	lfs_identity_init(&depot->now.identity, sparse, size);
	if (depot->delta_next && size > LFS_PACK_MAX) {
		depot->now.form = LFS_ITEM_DELTA;
		depot->now.temporary = depot->delta;
		depot->delta_next = false;
	}
	if (depot->now.form != LFS_ITEM_FILE)
		return 0;
	int rc = lfs_depot_settle(depot, error); /* its pieces get the batch for themselves */
	if (rc < 0)
		return rc;
	int fd = lfs_temporary_open(depot->config->objects_fd, &depot->now.temporary, error);
	if (fd < 0)
		return fd;
	depot->now.fd = fd;
	if (ftruncate(fd, (off_t)size) == 0)
		return 0;
	int number = errno;
	return lfs_fail(error, -number, "cannot write an object of %llu bytes: %s", (unsigned long long)size, strerror(number));
}

/* Bytes up to `offset` that the archive did not store are zeros; in a temporary file they are a hole. */
static void fill_gap(struct lfs_depot *depot, uint64_t offset)
{
	uint64_t gap = offset - depot->now.at;
	lfs_identity_zeros(&depot->now.identity, gap);
	if (in_memory(depot->now.form))
		memset(depot->batch->data + depot->batch->used + depot->now.at, 0, gap);
	depot->now.at = offset;
}

static size_t item_count(const struct lfs_batch *batch)
{
	return batch->items.size / sizeof(struct lfs_item);
}

/* Hands the batch over to the thread and begins another. */
static int submit(struct lfs_depot *depot, struct lfs_error *error)
{
	struct lfs_batch *full = depot->batch;
	int rc = lfs_worker_run(&depot->worker, lfs_batch_write, full, error); /* waits: the other batch is free then */
	if (rc < 0)
		return rc;
	depot->batch = full == &depot->batches[0] ? &depot->batches[1] : &depot->batches[0];
	depot->batch->items.size = depot->batch->used = 0;
	return 0;
}

/* Bytes of a temporary file; those that follow the last piece are joined to it. */
static int add_piece(struct lfs_depot *depot, uint64_t offset, const uint8_t *data, size_t size, struct lfs_error *error)
{
	while (size) {
		struct lfs_batch *batch = depot->batch;
		if (batch->used >= LFS_BATCH_BYTES || item_count(batch) >= LFS_BATCH_ITEMS) {
			int rc = submit(depot, error);
			if (rc < 0)
				return rc;
			continue;
		}
		size_t room = LFS_BATCH_BYTES - batch->used, part = size < room ? size : room, count = item_count(batch);
		struct lfs_item *last = count ? (struct lfs_item *)batch->items.data + count - 1 : NULL;
		memcpy(batch->data + batch->used, data, part);
		if (last && last->offset + last->size == offset) {
			last->size += part;
		} else {
			struct lfs_item piece = {.form = LFS_ITEM_PIECE, .fd = depot->now.fd, .offset = offset, .size = part,
						 .data = batch->data + batch->used};
			int rc = lfs_buffer_append(&batch->items, &piece, sizeof piece);
			if (rc < 0)
				return rc;
		}
		batch->used += part, offset += part, data += part, size -= part;
	}
	return 0;
}

struct part {
	struct lfs_identity *identity;
	const uint8_t *data;
	size_t size;
};

static int hash_apart(void *argument, struct lfs_error *error)
{
	const struct part *part = argument;
	lfs_identity_data(part->identity, part->data, part->size);
	return 0;
}

/* Two hashes in one thread take a quarter less of the processors than in two, but longer. Bytes that are only hashed leave the thread that
 * writes without work: it takes one of them. */
static int hash(struct lfs_depot *depot, const uint8_t *data, size_t size, struct lfs_sha256 *other, struct lfs_error *error)
{
	struct part part = {&depot->now.identity, data, size};
	bool apart = depot->now.form == LFS_ITEM_DELTA && depot->several && size >= LFS_APART_FROM;
	if (!apart) {
		lfs_identity_data_with(&depot->now.identity, other, data, size);
		return 0;
	}
	int rc = lfs_worker_run(&depot->worker, hash_apart, &part, error);
	if (rc < 0)
		return rc;
	lfs_sha256_update(other, data, size);
	return lfs_worker_wait(&depot->worker, error);
}

int lfs_depot_data(struct lfs_depot *depot, uint64_t offset, const uint8_t *data, size_t size, struct lfs_sha256 *other,
		   struct lfs_error *error)
{
	if (offset > depot->now.at)
		fill_gap(depot, offset);
	int rc = hash(depot, data, size, other, error);
	if (rc < 0)
		return rc;
	depot->now.at += size;
	if (depot->now.form == LFS_ITEM_FILE)
		return add_piece(depot, offset, data, size, error);
	if (in_memory(depot->now.form))
		memcpy(depot->batch->data + depot->batch->used + offset, data, size);
	return 0;
}

struct reading {
	struct lfs_depot *depot;
	const struct lfs_file_range *ranges;
	size_t count;
	struct lfs_sha256 *other;
};

static void take_identity(void *context, const uint8_t *data, size_t size)
{
	lfs_identity_data(context, data, size);
}

static void take_other(void *context, const uint8_t *data, size_t size)
{
	lfs_sha256_update(context, data, size);
}

static void take_both(void *context, const uint8_t *data, size_t size)
{
	const struct reading *reading = context;
	lfs_identity_data_with(&reading->depot->now.identity, reading->other, data, size);
}

static int read_apart(void *argument, struct lfs_error *error)
{
	const struct reading *reading = argument;
	return lfs_ranges_read(reading->ranges, reading->count, take_identity, &reading->depot->now.identity, error);
}

/* Nobody waits for the other one before the end, nor for a third one who reads: that is what makes it fast. */
int lfs_depot_ranges(struct lfs_depot *depot, const struct lfs_file_range *ranges, size_t count, struct lfs_sha256 *other, struct lfs_error *error)
{
	struct reading reading = {depot, ranges, count, other};
	if (depot->now.form != LFS_ITEM_DELTA || depot->now.identity.sparse)
		return lfs_fail(error, -EINVAL, "not a file that is only hashed");
	depot->now.at += lfs_ranges_size(ranges, count);
	if (!depot->several)
		return lfs_ranges_read(ranges, count, take_both, &reading, error);
	int rc = lfs_worker_run(&depot->worker, read_apart, &reading, error);
	if (rc < 0)
		return rc;
	rc = lfs_ranges_read(ranges, count, take_other, other, error);
	int apart = lfs_worker_wait(&depot->worker, rc < 0 ? NULL : error);
	return rc < 0 ? rc : apart;
}

/* The content joins the batch, unless the layer had it before. A temporary file always does: it needs an end. */
static int join(struct lfs_depot *depot, uint32_t index, uint64_t xxh64, bool added)
{
	struct lfs_batch *batch = depot->batch;
	struct lfs_item item = {.form = depot->now.form, .fate = added ? LFS_FATE_OPEN : LFS_FATE_DROP, .index = index,
				.size = depot->now.size, .xxh64 = xxh64, .data = batch->data + batch->used, .fd = depot->now.fd,
				.temporary = depot->now.temporary};
	memcpy(item.identity, lfs_table_at(&depot->table, index)->identity, LFS_ID_SIZE);
	if (!added && in_memory(item.form))
		return 0;
	int rc = lfs_buffer_append(&batch->items, &item, sizeof item);
	if (rc < 0)
		return rc;
	if (!in_memory(item.form)) {
		depot->now.fd = -1; /* the item's now */
		depot->settle_soon = true;
		return 0;
	}
	size_t padded = lfs_blocks(item.size) * LFS_BLOCK;
	memset(item.data + item.size, 0, padded - item.size);
	batch->used += padded;
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
	if (rc < 0)
		return rc;
	if (added) {
		struct lfs_content *content = lfs_table_at(&depot->table, *index);
		content->size = depot->now.size;
		content->flags = depot->now.identity.sparse ? LFS_FLAG_SPARSE : 0;
	}
	return join(depot, *index, xxh64, added);
}

/* --- a batch --- */

bool lfs_depot_full(const struct lfs_depot *depot)
{
	return depot->settle_soon || depot->batch->used >= LFS_BATCH_BYTES || item_count(depot->batch) >= LFS_BATCH_ITEMS;
}

/* Asks the store about the batch. The answers are index values (docs/format.md "Index"). */
static int look_up(struct lfs_depot *depot, size_t *asked)
{
	const struct lfs_item *items = (const struct lfs_item *)depot->batch->items.data;
	size_t count = item_count(depot->batch);
	int rc = lfs_buffer_reserve(&depot->asked, 2 * LFS_ID_SIZE * count);
	if (rc < 0)
		return rc;
	*asked = 0;
	for (size_t i = 0; i < count; i++)
		if (items[i].form != LFS_ITEM_PIECE && items[i].fate == LFS_FATE_OPEN)
			memcpy(depot->asked.data + LFS_ID_SIZE * (*asked)++, items[i].identity, LFS_ID_SIZE);
	uint8_t *values = depot->asked.data + LFS_ID_SIZE * *asked;
	memset(values, 0, LFS_ID_SIZE * *asked);
	return *asked ? depot->config->lookup(depot->config->context, depot->asked.data, *asked, values) : 0;
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

/* Gives an unknown content its place. */
static int keep(struct lfs_depot *depot, struct lfs_item *item, struct lfs_error *error)
{
	struct lfs_content *content = lfs_table_at(&depot->table, item->index);
	struct lfs_new_content row = {.size = item->size, .xxh64 = item->xxh64, .flags = content->flags};
	memcpy(row.identity, item->identity, LFS_ID_SIZE);
	row.flags |= item->form == LFS_ITEM_DELTA ? LFS_FLAG_DELTA : 0;
	item->fate = LFS_FATE_KEEP;
	if (item->form == LFS_ITEM_SMALL) {
		if (depot->blocks + lfs_blocks(item->size) > UINT32_MAX)
			return lfs_fail(error, -EFBIG, "a pack over 16 TiB");
		item->block = content->block = (uint32_t)depot->blocks;
		content->pack = depot->config->pack_id;
		depot->blocks += lfs_blocks(item->size);
	}
	content->kind = row.kind = item->form == LFS_ITEM_SMALL ? LFS_KIND_PACK : LFS_KIND_OBJECT;
	row.block = content->block;
	return lfs_buffer_append(&depot->rows, &row, sizeof row);
}

/* Decides about every content of the batch. */
static int decide(struct lfs_depot *depot, struct lfs_error *error)
{
	struct lfs_item *items = (struct lfs_item *)depot->batch->items.data;
	size_t count = item_count(depot->batch), asked;
	int rc = look_up(depot, &asked);
	if (rc < 0)
		return rc;
	const uint8_t *value = depot->asked.data + LFS_ID_SIZE * asked;
	for (size_t i = 0; i < count; i++) {
		if (items[i].form == LFS_ITEM_PIECE || items[i].fate != LFS_FATE_OPEN)
			continue;
		rc = take_answer(lfs_table_at(&depot->table, items[i].index), value, error);
		value += LFS_ID_SIZE;
		if (rc > 0)
			items[i].fate = LFS_FATE_DROP;
		else if (rc == 0)
			rc = keep(depot, &items[i], error);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int lfs_depot_settle(struct lfs_depot *depot, struct lfs_error *error)
{
	if (!item_count(depot->batch))
		return 0;
	depot->settle_soon = false;
	int rc = decide(depot, error);
	return rc < 0 ? rc : submit(depot, error);
}

int lfs_depot_wait(struct lfs_depot *depot, struct lfs_error *error)
{
	return lfs_worker_wait(&depot->worker, error);
}
