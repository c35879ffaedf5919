/* SHA-256 (FIPS 180-4): the CPU's instructions where they exist, plain C elsewhere. */
#include <string.h>

#include "layerfs.h"
#include "xxh64.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the store's format is read in place");

/* Clang before 16 declares ARM's intrinsics only where the whole build may use them. */
#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_SHA2))
#define ARMV8 1
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(ARMV8)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

typedef void (*lfs_sha256_blocks)(uint32_t state[8], const uint8_t *data, size_t blocks);
typedef void (*lfs_sha256_pair_blocks)(uint32_t first[8], uint32_t second[8], uint64_t lanes[4], const uint8_t *data, size_t blocks);

typedef void (*lfs_sha256_xxh64_blocks)(uint32_t state[8], uint64_t lanes[4], const uint8_t *data, size_t blocks);

struct engine {
	lfs_sha256_blocks one;
	lfs_sha256_xxh64_blocks both; /* with XXH64 */
	lfs_sha256_pair_blocks two; /* the same blocks into two states, with XXH64 */
};

static const uint32_t round_constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
	0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
	0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
	0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
	0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate_right(uint32_t value, int bits)
{
	return value >> bits | value << (32 - bits);
}

static inline uint32_t load_be32(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, 4);
	return __builtin_bswap32(value);
}

static void blocks_portable(uint32_t state[8], const uint8_t *data, size_t blocks)
{
	for (; blocks; blocks--, data += 64) {
		uint32_t w[64], s[8];
		for (int i = 0; i < 16; i++)
			w[i] = load_be32(data + 4 * i);
		for (int i = 16; i < 64; i++) {
			uint32_t a = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
			uint32_t b = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
			w[i] = w[i - 16] + a + w[i - 7] + b;
		}
		memcpy(s, state, sizeof s);
		for (int i = 0; i < 64; i++) {
			uint32_t e = rotate_right(s[4], 6) ^ rotate_right(s[4], 11) ^ rotate_right(s[4], 25);
			uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + round_constants[i] + w[i];
			uint32_t a = rotate_right(s[0], 2) ^ rotate_right(s[0], 13) ^ rotate_right(s[0], 22);
			uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
			memmove(s + 1, s, 7 * sizeof *s);
			s[4] += t1;
			s[0] = t1 + t2;
		}
		for (int i = 0; i < 8; i++)
			state[i] += s[i];
	}
}

static void both_portable(uint32_t state[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	struct stripes held = load_stripes(lanes);
	for (; blocks; blocks--, data += 64) {
		blocks_portable(state, data, 1);
		mix_stripe(&held, data);
		mix_stripe(&held, data + 32);
	}
	store_stripes(lanes, held);
}

static void pair_portable(uint32_t first[8], uint32_t second[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	blocks_portable(first, data, blocks);
	both_portable(second, lanes, data, blocks);
}

#define PORTABLE ((struct engine){blocks_portable, both_portable, pair_portable})

#if defined(__x86_64__)
#define SHA_NI __attribute__((target("sha,sse4.1")))

struct lanes { /* a state in the order that the instructions want */
	__m128i abef, cdgh;
};

SHA_NI static inline struct lanes load_lanes(const uint32_t state[8])
{
	__m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
	__m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
	return (struct lanes){_mm_alignr_epi8(low, high, 8), _mm_blend_epi16(high, low, 0xf0)};
}

SHA_NI static inline void store_lanes(uint32_t state[8], struct lanes lanes)
{
	__m128i low = _mm_shuffle_epi32(lanes.abef, 0x1b), high = _mm_shuffle_epi32(lanes.cdgh, 0xb1);
	_mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
	_mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

SHA_NI static inline void four_rounds(struct lanes *lanes, __m128i sum)
{
	lanes->cdgh = _mm_sha256rnds2_epu32(lanes->cdgh, lanes->abef, sum);
	lanes->abef = _mm_sha256rnds2_epu32(lanes->abef, lanes->cdgh, _mm_shuffle_epi32(sum, 0x0e));
}

SHA_NI static inline void load_words(__m128i words[4], const uint8_t *data)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
	for (int i = 0; i < 4; i++)
		words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
}

/* Words and constants of rounds 4i to 4i+3; replaces the words by those of four steps later. */
SHA_NI static inline __m128i take_words(__m128i words[4], int i)
{
	__m128i sum = _mm_add_epi32(words[i & 3], _mm_loadu_si128((const __m128i *)(round_constants + 4 * i)));
	if (i < 12) {
		__m128i next = _mm_sha256msg1_epu32(words[i & 3], words[(i + 1) & 3]);
		next = _mm_add_epi32(next, _mm_alignr_epi8(words[(i + 3) & 3], words[(i + 2) & 3], 4));
		words[i & 3] = _mm_sha256msg2_epu32(next, words[(i + 3) & 3]);
	}
	return sum;
}

SHA_NI static inline void add_lanes(struct lanes *lanes, struct lanes more)
{
	lanes->abef = _mm_add_epi32(lanes->abef, more.abef);
	lanes->cdgh = _mm_add_epi32(lanes->cdgh, more.cdgh);
}

SHA_NI static void blocks_sha_ni(uint32_t state[8], const uint8_t *data, size_t blocks)
{
	struct lanes lanes = load_lanes(state);
	for (; blocks; blocks--, data += 64) {
		struct lanes before = lanes;
		__m128i words[4];
		load_words(words, data);
#pragma GCC unroll 16
		for (int i = 0; i < 16; i++)
			four_rounds(&lanes, take_words(words, i));
		add_lanes(&lanes, before);
	}
	store_lanes(state, lanes);
}

/* XXH64 has nothing to wait for while the rounds wait for their own results: it takes no time of its own. */
SHA_NI static void both_sha_ni(uint32_t state[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	struct lanes chain = load_lanes(state);
	struct stripes held = load_stripes(lanes);
	for (; blocks; blocks--, data += 64) {
		struct lanes before = chain;
		__m128i words[4];
		load_words(words, data);
#pragma GCC unroll 16
		for (int i = 0; i < 16; i++)
			four_rounds(&chain, take_words(words, i));
		add_lanes(&chain, before);
		mix_stripe(&held, data);
		mix_stripe(&held, data + 32);
	}
	store_lanes(state, chain);
	store_stripes(lanes, held);
}

/* One chain of rounds waits for its own results; two fill each other's gaps, and share the message words. */
SHA_NI static void pair_sha_ni(uint32_t first[8], uint32_t second[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	struct stripes held = load_stripes(lanes);
	struct lanes a = load_lanes(first), b = load_lanes(second);
	for (; blocks; blocks--, data += 64) {
		struct lanes before_a = a, before_b = b;
		__m128i words[4];
		load_words(words, data);
#pragma GCC unroll 16
		for (int i = 0; i < 16; i++) {
			__m128i sum = take_words(words, i);
			four_rounds(&a, sum);
			four_rounds(&b, sum);
		}
		add_lanes(&a, before_a);
		add_lanes(&b, before_b);
		mix_stripe(&held, data);
		mix_stripe(&held, data + 32);
	}
	store_lanes(first, a);
	store_lanes(second, b);
	store_stripes(lanes, held);
}

static struct engine choose_engine(void)
{
	unsigned a, b, c, d;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
	if (a < 7)
		return PORTABLE;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
	bool sse41 = c & 1u << 19, ssse3 = c & 1u << 9;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
	bool sha = b & 1u << 29;
	return sse41 && ssse3 && sha ? (struct engine){blocks_sha_ni, both_sha_ni, pair_sha_ni} : PORTABLE;
}
#elif defined(ARMV8)
__attribute__((target("+crypto"))) static void blocks_armv8(uint32_t state[8], const uint8_t *data, size_t blocks)
{
	uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
	for (; blocks; blocks--, data += 64) {
		uint32x4_t old_abcd = abcd, old_efgh = efgh, m[4];
		for (int i = 0; i < 4; i++)
			m[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
		for (int i = 0; i < 16; i++) {
			uint32x4_t sum = vaddq_u32(m[i & 3], vld1q_u32(round_constants + 4 * i)), before = abcd;
			abcd = vsha256hq_u32(abcd, efgh, sum);
			efgh = vsha256h2q_u32(efgh, before, sum);
			if (i < 12)
				m[i & 3] = vsha256su1q_u32(vsha256su0q_u32(m[i & 3], m[(i + 1) & 3]), m[(i + 2) & 3],
							   m[(i + 3) & 3]);
		}
		abcd = vaddq_u32(abcd, old_abcd);
		efgh = vaddq_u32(efgh, old_efgh);
	}
	vst1q_u32(state, abcd);
	vst1q_u32(state + 4, efgh);
}

static void both_armv8(uint32_t state[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	struct stripes held = load_stripes(lanes);
	for (; blocks; blocks--, data += 64) {
		blocks_armv8(state, data, 1);
		mix_stripe(&held, data);
		mix_stripe(&held, data + 32);
	}
	store_stripes(lanes, held);
}

static void pair_armv8(uint32_t first[8], uint32_t second[8], uint64_t lanes[4], const uint8_t *data, size_t blocks)
{
	blocks_armv8(first, data, blocks);
	both_armv8(second, lanes, data, blocks);
}

static struct engine choose_engine(void)
{
	return getauxval(AT_HWCAP) & 1u << 6 ? (struct engine){blocks_armv8, both_armv8, pair_armv8} : PORTABLE; /* HWCAP_SHA2 */
}
#else
static struct engine choose_engine(void)
{
	return PORTABLE;
}
#endif

static struct engine engine = {blocks_portable, both_portable, pair_portable};

__attribute__((constructor)) static void choose_once(void)
{
	engine = choose_engine();
}

bool lfs_sha256_portable(bool on)
{
	engine = on ? PORTABLE : choose_engine();
	return engine.one != blocks_portable;
}

void lfs_sha256_init(struct lfs_sha256 *hash)
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	memcpy(hash->state, start, sizeof start);
	hash->length = 0;
}

void lfs_sha256_update(struct lfs_sha256 *hash, const void *data, size_t size)
{
	const uint8_t *at = data;
	size_t held = hash->length % 64;
	hash->length += size;
	if (held) {
		size_t part = size < 64 - held ? size : 64 - held;
		memcpy(hash->buffer + held, at, part);
		if (held + part < 64)
			return;
		engine.one(hash->state, hash->buffer, 1);
		at += part;
		size -= part;
	}
	engine.one(hash->state, at, size / 64);
	if (size % 64)
		memcpy(hash->buffer, at + size / 64 * 64, size % 64);
}

void lfs_sha256_update_xxh64(struct lfs_sha256 *sha, struct lfs_xxh64 *xxh, const void *data, size_t size)
{
	const uint8_t *at = data;
	size_t held = sha->length % 64, head = held ? 64 - held : 0, blocks = size > head ? (size - head) / 64 : 0;
	if (held % 32 == xxh->length % 32 && blocks) {
		lfs_sha256_update(sha, at, head);
		lfs_xxh64_update(xxh, at, head);
		engine.both(sha->state, xxh->lanes, at + head, blocks);
		sha->length += 64 * blocks;
		xxh->length += 64 * blocks;
		at += head + 64 * blocks;
		size -= head + 64 * blocks;
	}
	lfs_sha256_update(sha, at, size);
	lfs_xxh64_update(xxh, at, size);
}

void lfs_sha256_update_pair(struct lfs_sha256 *other, struct lfs_sha256 *sha, struct lfs_xxh64 *xxh, const void *data, size_t size)
{
	const uint8_t *at = data;
	size_t held = sha->length % 64, head = held ? 64 - held : 0, blocks = size > head ? (size - head) / 64 : 0;
	if (held == other->length % 64 && held % 32 == xxh->length % 32 && blocks) {
		lfs_sha256_update(other, at, head);
		lfs_sha256_update(sha, at, head);
		lfs_xxh64_update(xxh, at, head);
		engine.two(other->state, sha->state, xxh->lanes, at + head, blocks);
		other->length += 64 * blocks;
		sha->length += 64 * blocks;
		xxh->length += 64 * blocks;
		at += head + 64 * blocks;
		size -= head + 64 * blocks;
	}
	lfs_sha256_update(other, at, size);
	lfs_sha256_update_xxh64(sha, xxh, at, size);
}

void lfs_sha256_final(struct lfs_sha256 *hash, uint8_t out[LFS_ID_SIZE])
{
	uint8_t tail[128] = {0};
	size_t held = hash->length % 64, size = held < 56 ? 64 : 128;
	uint64_t bits = __builtin_bswap64(hash->length * 8);
	memcpy(tail, hash->buffer, held);
	tail[held] = 0x80;
	memcpy(tail + size - 8, &bits, 8);
	engine.one(hash->state, tail, size / 64);
	for (int i = 0; i < 8; i++) {
		uint32_t word = __builtin_bswap32(hash->state[i]);
		memcpy(out + 4 * i, &word, 4);
	}
}
