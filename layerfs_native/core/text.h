/* Names for messages, and strings with a length. */
#ifndef LFS_TEXT_H
#define LFS_TEXT_H

#include <string.h>

#include "layerfs.h"

#define LFS_QUOTED 208

/* A name as one printable line: control bytes as \xNN, long ones cut in the middle. Returns out. */
const char *lfs_quote(char out[LFS_QUOTED], struct lfs_bytes name);

static inline bool lfs_bytes_equal(struct lfs_bytes a, struct lfs_bytes b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}
static inline bool lfs_bytes_start(struct lfs_bytes bytes, struct lfs_bytes start)
{
	return bytes.size >= start.size && memcmp(bytes.data, start.data, start.size) == 0;
}
#define LFS_LITERAL(text) ((struct lfs_bytes){text, sizeof text - 1})

/* Digits only, at least one, at most 2^63-1. */
bool lfs_decimal(struct lfs_bytes text, uint64_t *value);

#endif
