/* What XXH64 does with whole stripes. */
#ifndef LFS_XXH64_H
#define LFS_XXH64_H

#include <string.h>

#include "layerfs.h"

#define PRIME1 0x9E3779B185EBCA87ull
#define PRIME2 0xC2B2AE3D27D4EB4Full

static inline uint64_t rotate_left(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static inline uint64_t load64(const uint8_t *at)
{
	uint64_t value;
	memcpy(&value, at, 8);
	return value;
}

static inline uint64_t mix_lane(uint64_t lane, uint64_t input)
{
	return rotate_left(lane + input * PRIME2, 31) * PRIME1;
}

struct stripes { /* lanes in registers */
	uint64_t a, b, c, d;
};

static inline struct stripes load_stripes(const uint64_t lanes[4])
{
	return (struct stripes){lanes[0], lanes[1], lanes[2], lanes[3]};
}

static inline void store_stripes(uint64_t lanes[4], struct stripes held)
{
	lanes[0] = held.a, lanes[1] = held.b, lanes[2] = held.c, lanes[3] = held.d;
}

/* 32 bytes. */
static inline void mix_stripe(struct stripes *lanes, const uint8_t *data)
{
	lanes->a = mix_lane(lanes->a, load64(data));
	lanes->b = mix_lane(lanes->b, load64(data + 8));
	lanes->c = mix_lane(lanes->c, load64(data + 16));
	lanes->d = mix_lane(lanes->d, load64(data + 24));
}

#endif
