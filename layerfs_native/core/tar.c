/* The reader's state machine: bytes in, events out. */
#include "tar.h"

#include <errno.h>

#include "text.h"

#define META_MAX (1u << 20)

void lfs_tar_init(struct lfs_tar *tar, const struct lfs_tar_events *events, void *context)
{
	*tar = (struct lfs_tar){.events = events, .context = context, .state = LFS_TAR_HEADER};
}

void lfs_tar_free(struct lfs_tar *tar)
{
	lfs_buffer_free(&tar->text);
	lfs_buffer_free(&tar->long_name);
	lfs_buffer_free(&tar->long_link);
	lfs_buffer_free(&tar->map.list);
	lfs_pax_free(&tar->local);
	lfs_pax_free(&tar->global);
	lfs_pax_view_free(&tar->view);
}

/* --- between members --- */

static uint64_t padding(uint64_t size)
{
	return -size % LFS_TAR_BLOCK;
}

void lfs_tar_skip(struct lfs_tar *tar, enum lfs_tar_state state, uint64_t size)
{
	tar->state = size ? state : LFS_TAR_HEADER;
	tar->remaining = size;
}

/* After the last stored byte of the member, or text of the header, in work. */
void lfs_tar_end_of_data(struct lfs_tar *tar)
{
	lfs_tar_skip(tar, LFS_TAR_PADDING, padding(tar->data_size));
}

void lfs_tar_forget_meta(struct lfs_tar *tar)
{
	tar->pending = tar->have_name = tar->have_link = false;
	lfs_pax_clear(&tar->local);
}

/* --- x, g, L, K --- */

static void swap(struct lfs_buffer *a, struct lfs_buffer *b)
{
	struct lfs_buffer held = *a;
	*a = *b;
	*b = held;
}

static int take_global(struct lfs_tar *tar, struct lfs_error *error)
{
	struct lfs_pax more = {.text = tar->text};
	int rc = lfs_pax_parse(&more, error);
	if (rc == 0)
		rc = lfs_pax_merge(&tar->global, &more, error);
	lfs_buffer_free(&more.records);
	return rc;
}

static int take_meta(struct lfs_tar *tar, struct lfs_error *error)
{
	lfs_tar_end_of_data(tar);
	if (tar->meta == 'g')
		return take_global(tar, error);
	tar->pending = true;
	if (tar->meta == 'L') {
		swap(&tar->text, &tar->long_name);
		tar->have_name = true;
		return 0;
	}
	if (tar->meta == 'K') {
		swap(&tar->text, &tar->long_link);
		tar->have_link = true;
		return 0;
	}
	swap(&tar->text, &tar->local.text);
	return lfs_pax_parse(&tar->local, error);
}

static int begin_meta(struct lfs_tar *tar, struct lfs_error *error)
{
	if (tar->header.size > META_MAX)
		return lfs_fail(error, -EBADMSG, "extended header over 1 MiB");
	tar->meta = tar->header.type == 'X' ? 'x' : tar->header.type;
	tar->text.size = 0;
	tar->data_size = tar->remaining = tar->header.size;
	tar->state = LFS_TAR_META;
	return tar->remaining ? 0 : take_meta(tar, error);
}

/* --- blocks and bytes --- */

static int take_header(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	int rc = lfs_tar_decode(block, &tar->header, error);
	if (rc < 0)
		return rc;
	if (rc == 1) {
		tar->state = LFS_TAR_END;
		return tar->pending ? lfs_fail(error, -EBADMSG, "extended header without a member") : 0;
	}
	switch (tar->header.type) {
	case 'x':
	case 'X':
	case 'g':
	case 'L':
	case 'K':
		return begin_meta(tar, error);
	default:
		return lfs_tar_begin_member(tar, block, error);
	}
}

static int take_block(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	int rc = tar->events->raw(tar->context, block, LFS_TAR_BLOCK, error);
	if (rc < 0)
		return rc;
	switch (tar->state) {
	case LFS_TAR_OLD_MAP:
		return lfs_tar_old_extension(tar, block, error);
	case LFS_TAR_MAP:
		return lfs_tar_map_block(tar, block, error);
	default:
		tar->header_at = tar->offset - LFS_TAR_BLOCK;
		return take_header(tar, block, error);
	}
}

/* Takes up to a block; a whole one is not copied. */
static int feed_block(struct lfs_tar *tar, const uint8_t *data, size_t size, size_t *used, struct lfs_error *error)
{
	if (!tar->held && size >= LFS_TAR_BLOCK) {
		*used = LFS_TAR_BLOCK;
		tar->offset += *used;
		return take_block(tar, data, error);
	}
	*used = size < LFS_TAR_BLOCK - tar->held ? size : LFS_TAR_BLOCK - tar->held;
	memcpy(tar->block + tar->held, data, *used);
	tar->held += *used;
	tar->offset += *used;
	if (tar->held < LFS_TAR_BLOCK)
		return 0;
	tar->held = 0;
	return take_block(tar, tar->block, error);
}

static int feed_data(struct lfs_tar *tar, const uint8_t *data, size_t size, size_t *used, struct lfs_error *error)
{
	size_t count;
	const struct lfs_piece *piece = lfs_map_pieces(&tar->map, &count) + tar->piece;
	uint64_t left = piece->size - tar->piece_at;
	*used = size < left ? size : (size_t)left;
	int rc = tar->events->data(tar->context, piece->offset + tar->piece_at, data, *used, error);
	tar->piece_at += *used;
	tar->offset += *used;
	return rc < 0 || *used < left ? rc : lfs_tar_next_piece(tar, error);
}

static int feed_meta(struct lfs_tar *tar, const uint8_t *data, size_t size, struct lfs_error *error)
{
	int rc = lfs_buffer_append(&tar->text, data, size);
	if (rc == 0)
		rc = tar->events->raw(tar->context, data, size, error);
	tar->remaining -= size;
	return rc < 0 || tar->remaining ? rc : take_meta(tar, error);
}

static int feed_passed(struct lfs_tar *tar, const uint8_t *data, size_t size, struct lfs_error *error)
{
	int rc = tar->events->raw(tar->context, data, size, error);
	tar->remaining -= size;
	if (tar->remaining == 0 && tar->state == LFS_TAR_SKIP)
		lfs_tar_end_of_data(tar);
	else if (tar->remaining == 0)
		tar->state = LFS_TAR_HEADER;
	return rc;
}

static int feed_some(struct lfs_tar *tar, const uint8_t *data, size_t size, size_t *used, struct lfs_error *error)
{
	switch (tar->state) {
	case LFS_TAR_DATA:
		return feed_data(tar, data, size, used, error);
	case LFS_TAR_META:
	case LFS_TAR_SKIP:
	case LFS_TAR_PADDING:
		*used = size < tar->remaining ? size : (size_t)tar->remaining;
		tar->offset += *used;
		return tar->state == LFS_TAR_META ? feed_meta(tar, data, *used, error) : feed_passed(tar, data, *used, error);
	case LFS_TAR_END:
		*used = size;
		tar->offset += size;
		return tar->events->raw(tar->context, data, size, error);
	default:
		return feed_block(tar, data, size, used, error);
	}
}

int lfs_tar_feed(struct lfs_tar *tar, const uint8_t *data, size_t size, struct lfs_error *error)
{
	while (size) {
		size_t used;
		int rc = feed_some(tar, data, size, &used, error);
		if (rc < 0)
			return rc;
		data += used;
		size -= used;
	}
	return 0;
}

static uint64_t left_of_piece(const struct lfs_tar *tar)
{
	size_t count;
	return lfs_map_pieces(&tar->map, &count)[tar->piece].size - tar->piece_at;
}

bool lfs_tar_in_data(const struct lfs_tar *tar, uint64_t size)
{
	return size && tar->state == LFS_TAR_DATA && size <= left_of_piece(tar);
}

int lfs_tar_pass(struct lfs_tar *tar, uint64_t size, struct lfs_error *error)
{
	uint64_t left = left_of_piece(tar);
	tar->piece_at += size;
	tar->offset += size;
	return size < left ? 0 : lfs_tar_next_piece(tar, error);
}

int lfs_tar_finish(struct lfs_tar *tar, struct lfs_error *error)
{
	/* writers in Go that are not closed (umoci insert) leave out the last padding; Go's reader does not mind */
	bool between = (tar->state == LFS_TAR_HEADER && !tar->held) || tar->state == LFS_TAR_PADDING;
	if (tar->state == LFS_TAR_END || (between && !tar->pending))
		return 0;
	return lfs_fail(error, -EBADMSG, between ? "extended header without a member" : "the archive is truncated");
}
