#include "identity.h"

#include <string.h>

#define SLICE 16384u

static const uint8_t zeros[SLICE];

bool lfs_is_zero(const void *data, size_t size)
{
	const uint8_t *at = data;
	for (; size > sizeof zeros; size -= sizeof zeros, at += sizeof zeros)
		if (memcmp(at, zeros, sizeof zeros) != 0)
			return false;
	return memcmp(at, zeros, size) == 0;
}

static void both(struct lfs_identity *identity, const void *data, size_t size)
{
	lfs_sha256_update_xxh64(&identity->sha, &identity->xxh, data, size);
}

void lfs_identity_init(struct lfs_identity *identity, bool sparse, uint64_t size)
{
	lfs_sha256_init(&identity->sha);
	lfs_xxh64_init(&identity->xxh);
	identity->sparse = sparse;
	identity->offset = 0;
	identity->held = 0;
	if (sparse) {
		both(identity, "layerfs-sparse", sizeof "layerfs-sparse"); /* with its NUL */
		both(identity, &size, sizeof size);
	}
}

static void sparse_block(struct lfs_identity *identity, uint64_t offset, const void *block)
{
	if (lfs_is_zero(block, LFS_BLOCK))
		return;
	both(identity, &offset, sizeof offset);
	both(identity, block, LFS_BLOCK);
}

static void sparse_data(struct lfs_identity *identity, const uint8_t *at, size_t size)
{
	while (size) {
		if (!identity->held && size >= LFS_BLOCK) {
			sparse_block(identity, identity->offset, at);
			identity->offset += LFS_BLOCK, at += LFS_BLOCK, size -= LFS_BLOCK;
			continue;
		}
		size_t part = size < LFS_BLOCK - identity->held ? size : LFS_BLOCK - identity->held;
		memcpy(identity->block + identity->held, at, part);
		identity->held += part, identity->offset += part, at += part, size -= part;
		if (identity->held == LFS_BLOCK) {
			sparse_block(identity, identity->offset - LFS_BLOCK, identity->block);
			identity->held = 0;
		}
	}
}

void lfs_identity_data(struct lfs_identity *identity, const void *data, size_t size)
{
	if (identity->sparse)
		return sparse_data(identity, data, size);
	both(identity, data, size);
	identity->offset += size;
}

void lfs_identity_data_with(struct lfs_identity *identity, struct lfs_sha256 *other, const void *data, size_t size)
{
	if (identity->sparse) {
		lfs_sha256_update(other, data, size);
		return sparse_data(identity, data, size);
	}
	identity->offset += size;
	lfs_sha256_update_pair(other, &identity->sha, &identity->xxh, data, size);
}

void lfs_identity_zeros(struct lfs_identity *identity, uint64_t size)
{
	while (size) {
		if (identity->sparse && !identity->held && size >= LFS_BLOCK) {
			uint64_t whole = size / LFS_BLOCK * LFS_BLOCK;
			identity->offset += whole;
			size -= whole;
			continue;
		}
		size_t limit = identity->sparse ? LFS_BLOCK - identity->held : SLICE;
		size_t part = size < limit ? (size_t)size : limit;
		lfs_identity_data(identity, zeros, part);
		size -= part;
	}
}

void lfs_identity_final(struct lfs_identity *identity, uint8_t out[LFS_ID_SIZE], uint64_t *xxh64)
{
	if (identity->sparse && identity->held) {
		memset(identity->block + identity->held, 0, LFS_BLOCK - identity->held);
		sparse_block(identity, identity->offset - identity->held, identity->block);
		identity->held = 0;
	}
	lfs_sha256_final(&identity->sha, out);
	*xxh64 = lfs_xxh64_final(&identity->xxh);
}
