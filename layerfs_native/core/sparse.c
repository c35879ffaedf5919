#include "sparse.h"

#include <errno.h>

#include "pax.h"
#include "tar.h"
#include "text.h"

#define PIECES_MAX 131072u
#define MAP_BLOCKS_MAX 2048u /* 1 MiB */

int lfs_map_add(struct lfs_map *map, uint64_t offset, uint64_t size, struct lfs_error *error)
{
	struct lfs_piece piece = {offset, size};
	if (map->list.size / sizeof piece >= PIECES_MAX)
		return lfs_fail(error, -EBADMSG, "sparse map of more than %u pieces", PIECES_MAX);
	return lfs_buffer_append(&map->list, &piece, sizeof piece);
}

int lfs_map_check(const struct lfs_map *map, uint64_t file_size, uint64_t stored, struct lfs_error *error)
{
	size_t count;
	const struct lfs_piece *pieces = lfs_map_pieces(map, &count);
	uint64_t end = 0, sum = 0;
	for (size_t i = 0; i < count; i++) {
		if (pieces[i].offset < end || pieces[i].size > file_size || pieces[i].offset > file_size - pieces[i].size)
			return lfs_fail(error, -EBADMSG, "sparse map out of order or beyond the file's end");
		end = pieces[i].offset + pieces[i].size;
		sum += pieces[i].size;
	}
	if (sum != stored)
		return lfs_fail(error, -EBADMSG, "sparse map does not fit the stored size");
	return 0;
}

int lfs_map_old(struct lfs_map *map, const uint8_t *entries, size_t count, struct lfs_error *error)
{
	for (size_t i = 0; i < count && entries[24 * i]; i++) {
		int64_t offset, size;
		if (!lfs_tar_number(entries + 24 * i, 12, &offset) || !lfs_tar_number(entries + 24 * i + 12, 12, &size) ||
		    offset < 0 || size < 0)
			return lfs_fail(error, -EBADMSG, "bad number in a sparse map");
		int rc = lfs_map_add(map, (uint64_t)offset, (uint64_t)size, error);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int bad_number(struct lfs_error *error)
{
	return lfs_fail(error, -EBADMSG, "bad number in a sparse map");
}

/* "offset,size,offset,size..." */
static int add_list(struct lfs_map *map, struct lfs_bytes list, struct lfs_error *error)
{
	uint64_t pair[2];
	size_t have = 0;
	for (const char *at = list.data, *end = at + list.size; at <= end;) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		const char *stop = comma ? comma : end;
		if (!lfs_decimal((struct lfs_bytes){at, (size_t)(stop - at)}, &pair[have++]))
			return bad_number(error);
		int rc = have == 2 ? lfs_map_add(map, pair[0], pair[1], error) : 0;
		if (rc < 0)
			return rc;
		have %= 2;
		at = stop + 1;
	}
	return have ? lfs_fail(error, -EBADMSG, "sparse map with half a piece") : 0;
}

/* Records GNU.sparse.offset and GNU.sparse.numbytes. */
static int add_pairs(struct lfs_map *map, const struct lfs_buffer *pairs, struct lfs_error *error)
{
	const struct lfs_bytes *list = (const struct lfs_bytes *)pairs->data;
	size_t count = pairs->size / sizeof *list;
	for (size_t i = 0; i + 1 < count; i += 2) {
		uint64_t offset, size;
		if (!lfs_decimal(list[i], &offset) || !lfs_decimal(list[i + 1], &size))
			return bad_number(error);
		int rc = lfs_map_add(map, offset, size, error);
		if (rc < 0)
			return rc;
	}
	return count % 2 ? lfs_fail(error, -EBADMSG, "sparse map with half a piece") : 0;
}

int lfs_map_pax(struct lfs_map *map, const struct lfs_pax_view *view, struct lfs_error *error)
{
	int rc = 0;
	if (view->pairs.size)
		rc = add_pairs(map, &view->pairs, error);
	else if (view->sparse_map.size)
		rc = add_list(map, view->sparse_map, error);
	if (rc < 0 || !view->sparse_numblocks.size)
		return rc;
	uint64_t blocks;
	if (!lfs_decimal(view->sparse_numblocks, &blocks))
		return bad_number(error);
	if (blocks != map->list.size / sizeof(struct lfs_piece))
		return lfs_fail(error, -EBADMSG, "sparse map does not have the number of pieces it says");
	return 0;
}

static int map_line(struct lfs_map_reader *reader, struct lfs_map *map, struct lfs_error *error)
{
	uint64_t number = reader->number;
	reader->number = reader->digits = 0;
	if (reader->lines++ == 0) {
		if (number > PIECES_MAX)
			return lfs_fail(error, -EBADMSG, "sparse map of more than %u pieces", PIECES_MAX);
		reader->expected = 1 + 2 * (size_t)number;
		return 0;
	}
	if (reader->lines % 2)
		return lfs_map_add(map, reader->offset, number, error);
	reader->offset = number;
	return 0;
}

int lfs_map_block(struct lfs_map_reader *reader, struct lfs_map *map, const uint8_t *block, size_t size,
		  struct lfs_error *error)
{
	if (++reader->blocks > MAP_BLOCKS_MAX)
		return lfs_fail(error, -EBADMSG, "sparse map over 1 MiB");
	for (size_t i = 0; i < size; i++) {
		uint8_t digit = block[i] - '0';
		if (block[i] == '\n' && reader->digits) {
			int rc = map_line(reader, map, error);
			if (rc < 0)
				return rc;
			if (reader->lines == reader->expected)
				return 1;
		} else if (digit > 9 || reader->number > (INT64_MAX - (uint64_t)digit) / 10) {
			return bad_number(error);
		} else {
			reader->number = reader->number * 10 + digit;
			reader->digits++;
		}
	}
	return 0;
}
