/* The identity of a content and its scrub checksum, fed in order (docs/format.md "Identity of contents"). */
#ifndef LFS_IDENTITY_H
#define LFS_IDENTITY_H

#include "layerfs.h"

struct lfs_identity {
	struct lfs_sha256 sha;
	struct lfs_xxh64 xxh;
	bool sparse;
	uint64_t offset; /* bytes taken so far */
	size_t held;	 /* bytes in block; sparse only */
	uint8_t block[LFS_BLOCK];
};

void lfs_identity_init(struct lfs_identity *identity, bool sparse, uint64_t size);
void lfs_identity_data(struct lfs_identity *identity, const void *data, size_t size);
/* The same, and the bytes into another hash: a layer's diff ID, which costs next to nothing this way. */
void lfs_identity_data_with(struct lfs_identity *identity, struct lfs_sha256 *other, const void *data, size_t size);
void lfs_identity_zeros(struct lfs_identity *identity, uint64_t size);
void lfs_identity_final(struct lfs_identity *identity, uint8_t out[LFS_ID_SIZE], uint64_t *xxh64);

/* Whether all bytes are zero. */
bool lfs_is_zero(const void *data, size_t size);

#endif
