/* CRC-32C (Castagnoli, reflected): SSE4.2 where the CPU has it, a table of 8x256 elsewhere. */
#include <string.h>

#include "layerfs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t table[8][256];

__attribute__((constructor)) static void fill_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
		table[0][i] = crc;
	}
	for (int slice = 1; slice < 8; slice++)
		for (int i = 0; i < 256; i++)
			table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 0xff];
}

static uint32_t crc_table(uint32_t crc, const uint8_t *at, size_t size)
{
	for (; size >= 8; size -= 8, at += 8) {
		uint32_t low, high;
		memcpy(&low, at, 4);
		memcpy(&high, at + 4, 4);
		low ^= crc;
		crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^ table[4][low >> 24] ^
		      table[3][high & 0xff] ^ table[2][high >> 8 & 0xff] ^ table[1][high >> 16 & 0xff] ^ table[0][high >> 24];
	}
	for (; size; size--, at++)
		crc = crc >> 8 ^ table[0][(crc ^ *at) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *at, size_t size)
{
	uint64_t wide = crc;
	for (; size >= 8; size -= 8, at += 8) {
		uint64_t word;
		memcpy(&word, at, 8);
		wide = _mm_crc32_u64(wide, word);
	}
	crc = (uint32_t)wide;
	for (; size; size--, at++)
		crc = _mm_crc32_u8(crc, *at);
	return crc;
}

static bool have_instruction(void)
{
	return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t crc_sse42(uint32_t crc, const uint8_t *at, size_t size)
{
	return crc_table(crc, at, size);
}

static bool have_instruction(void)
{
	return false;
}
#endif

static bool portable;

uint32_t lfs_crc32c(uint32_t crc, const void *data, size_t size)
{
	return !portable && have_instruction() ? crc_sse42(crc, data, size) : crc_table(crc, data, size);
}

bool lfs_crc32c_portable(bool on)
{
	portable = on;
	return !portable && have_instruction();
}
