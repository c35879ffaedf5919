/* Where the stored bytes of a tar member belong in its file. */
#ifndef LFS_SPARSE_H
#define LFS_SPARSE_H

#include "buffer.h"
#include "layerfs.h"

#define LFS_HOLES_MIN (1u << 20) /* declared holes from which a content is sparse */

struct lfs_pax_view;

struct lfs_piece {
	uint64_t offset, size;
};
struct lfs_map {
	struct lfs_buffer list; /* struct lfs_piece */
	bool declared;		/* by the archive; else made from the size */
};

static inline const struct lfs_piece *lfs_map_pieces(const struct lfs_map *map, size_t *count)
{
	*count = map->list.size / sizeof(struct lfs_piece);
	return (const struct lfs_piece *)map->list.data;
}

int lfs_map_add(struct lfs_map *map, uint64_t offset, uint64_t size, struct lfs_error *error);
/* In order, apart, inside the file, and as many bytes as are stored. */
int lfs_map_check(const struct lfs_map *map, uint64_t file_size, uint64_t stored, struct lfs_error *error);
/* Entries of an old GNU header (4) or extension block (21). */
int lfs_map_old(struct lfs_map *map, const uint8_t *entries, size_t count, struct lfs_error *error);
/* PAX 0.0 and 0.1. */
int lfs_map_pax(struct lfs_map *map, const struct lfs_pax_view *view, struct lfs_error *error);

/* PAX 1.0: decimal numbers, a line each: how many pieces, then offset and size of each; padded to a block. */
struct lfs_map_reader {
	uint64_t number, offset;
	size_t digits, lines, expected; /* expected: lines in all, once known */
	uint32_t blocks;
};
int lfs_map_block(struct lfs_map_reader *reader, struct lfs_map *map, const uint8_t *block, size_t size,
		  struct lfs_error *error); /* 1: the map is complete */

#endif
