/* XXH64, seed 0, after the published specification (xxhash_spec.md): lanes of 8 bytes, little-endian. */
#include "xxh64.h"

#define PRIME3 0x165667B19E3779F9ull
#define PRIME4 0x85EBCA77C2B2AE63ull
#define PRIME5 0x27D4EB2F165667C5ull

static void mix_stripes(uint64_t lanes[4], const uint8_t *data, size_t stripes)
{
	struct stripes held = load_stripes(lanes);
	for (; stripes; stripes--, data += 32)
		mix_stripe(&held, data);
	store_stripes(lanes, held);
}

void lfs_xxh64_init(struct lfs_xxh64 *hash)
{
	hash->lanes[0] = PRIME1 + PRIME2;
	hash->lanes[1] = PRIME2;
	hash->lanes[2] = 0;
	hash->lanes[3] = 0 - PRIME1;
	hash->length = 0;
}

void lfs_xxh64_update(struct lfs_xxh64 *hash, const void *data, size_t size)
{
	const uint8_t *at = data;
	size_t held = hash->length % 32;
	hash->length += size;
	if (held) {
		size_t part = size < 32 - held ? size : 32 - held;
		memcpy(hash->buffer + held, at, part);
		if (held + part < 32)
			return;
		mix_stripes(hash->lanes, hash->buffer, 1);
		at += part;
		size -= part;
	}
	mix_stripes(hash->lanes, at, size / 32);
	if (size % 32)
		memcpy(hash->buffer, at + size / 32 * 32, size % 32);
}

static uint64_t mix_tail(uint64_t value, const uint8_t *at, size_t size)
{
	for (; size >= 8; size -= 8, at += 8)
		value = rotate_left(value ^ mix_lane(0, load64(at)), 27) * PRIME1 + PRIME4;
	if (size >= 4) {
		uint32_t word;
		memcpy(&word, at, 4);
		value = rotate_left(value ^ word * PRIME1, 23) * PRIME2 + PRIME3;
		size -= 4, at += 4;
	}
	for (; size; size--, at++)
		value = rotate_left(value ^ *at * PRIME5, 11) * PRIME1;
	return value;
}

uint64_t lfs_xxh64_final(const struct lfs_xxh64 *hash)
{
	uint64_t value = hash->lanes[2] + PRIME5; /* lanes[2] is the seed when no stripe was mixed */
	if (hash->length >= 32) {
		const uint64_t *lanes = hash->lanes;
		value = rotate_left(lanes[0], 1) + rotate_left(lanes[1], 7) + rotate_left(lanes[2], 12) + rotate_left(lanes[3], 18);
		for (int i = 0; i < 4; i++)
			value = (value ^ mix_lane(0, lanes[i])) * PRIME1 + PRIME4;
	}
	value = mix_tail(value + hash->length, hash->buffer, hash->length % 32);
	value = (value ^ value >> 33) * PRIME2;
	value = (value ^ value >> 29) * PRIME3;
	return value ^ value >> 32;
}
