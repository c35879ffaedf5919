/* EROFS on disk (kernel fs/erofs/erofs_fs.h), the part that trees use; docs/format.md. Little-endian, unaligned. */
#ifndef LFS_EROFS_FORMAT_H
#define LFS_EROFS_FORMAT_H

#include <stdint.h>
#include <string.h>

#include "layerfs.h"

#define EROFS_MAGIC 0xE0F5E1E2u
#define EROFS_SUPER_AT 1024u
#define EROFS_SUPER_SIZE 128u
#define EROFS_DEVICE_SIZE 128u
#define EROFS_DEVICES_AT (EROFS_SUPER_AT + EROFS_SUPER_SIZE)
#define EROFS_DEVICES_MAX 65535u
#define EROFS_COMPAT (0x1u | 0x2u)	 /* SB_CHKSUM, MTIME */
#define EROFS_INCOMPAT_CHUNKED 0x4u
#define EROFS_INCOMPAT_DEVICES 0x8u
#define EROFS_NO_BLOCK 0xFFFFFFFFu
#define EROFS_INODE_SIZE 64u
#define EROFS_SLOT 32u /* nids count these */
#define EROFS_DIRENT_SIZE 12u
#define EROFS_CHUNK_INDEX_SIZE 8u
#define EROFS_CHUNK_INDEXES 0x20u
#define EROFS_CHUNK_BITS_MAX 31u
#define EROFS_XATTR_HEADER 12u
#define EROFS_XATTR_ENTRY 4u
#define EROFS_BLOCK_BITS 12

enum { EROFS_PLAIN = 0, EROFS_INLINE = 2, EROFS_CHUNKED = 4 };
enum { EROFS_FT_REG = 1, EROFS_FT_DIR, EROFS_FT_CHR, EROFS_FT_BLK, EROFS_FT_FIFO, EROFS_FT_SOCK, EROFS_FT_LINK };
enum { EROFS_XATTR_USER = 1, EROFS_XATTR_ACL_ACCESS, EROFS_XATTR_ACL_DEFAULT, EROFS_XATTR_TRUSTED, EROFS_XATTR_SECURITY = 6 };

/* our own header, before the superblock */
#define LFS_HEADER_MAGIC "LAYERFS\0"
#define LFS_HEADER_SIZE 88u
#define LFS_HEADER_VERSION 1u
enum {
	LFS_HEADER_AT_VERSION = 8,
	LFS_HEADER_AT_KIND = 12,
	LFS_HEADER_AT_TABLE = 16,
	LFS_HEADER_AT_TABLE_COUNT = 24,
	LFS_HEADER_AT_SUBJECT = 32,
	LFS_HEADER_AT_XXH64 = 64,
	LFS_HEADER_AT_NAMES = 72,
	LFS_HEADER_AT_CONTENT_SIZE = 80,
};

/* offsets in the superblock */
enum {
	EROFS_SB_MAGIC = 0,
	EROFS_SB_CHECKSUM = 4,
	EROFS_SB_COMPAT = 8,
	EROFS_SB_BLOCK_BITS = 12,
	EROFS_SB_ROOT_NID = 14,
	EROFS_SB_INODES = 16,
	EROFS_SB_BLOCKS = 36,
	EROFS_SB_META = 40,
	EROFS_SB_XATTR = 44,
	EROFS_SB_UUID = 48,
	EROFS_SB_INCOMPAT = 80,
	EROFS_SB_DEVICES = 86,
	EROFS_SB_DEVICE_SLOT = 88,
};

/* offsets in an extended inode */
enum {
	EROFS_I_FORMAT = 0,
	EROFS_I_XATTRS = 2,
	EROFS_I_MODE = 4,
	EROFS_I_SIZE = 8,
	EROFS_I_U = 16,
	EROFS_I_INO = 20,
	EROFS_I_UID = 24,
	EROFS_I_GID = 28,
	EROFS_I_MTIME = 32,
	EROFS_I_MTIME_NSEC = 40,
	EROFS_I_NLINK = 44,
};

static inline uint16_t lfs_get16(const void *at)
{
	const uint8_t *b = at;
	return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t lfs_get32(const void *at)
{
	const uint8_t *b = at;
	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t lfs_get64(const void *at)
{
	return lfs_get32(at) | (uint64_t)lfs_get32((const uint8_t *)at + 4) << 32;
}
static inline void lfs_set16(void *at, uint16_t value)
{
	uint8_t *b = at;
	b[0] = (uint8_t)value, b[1] = (uint8_t)(value >> 8);
}
static inline void lfs_set32(void *at, uint32_t value)
{
	lfs_set16(at, (uint16_t)value);
	lfs_set16((uint8_t *)at + 2, (uint16_t)(value >> 16));
}
static inline void lfs_set64(void *at, uint64_t value)
{
	lfs_set32(at, (uint32_t)value);
	lfs_set32((uint8_t *)at + 4, (uint32_t)(value >> 32));
}

static inline uint64_t lfs_round_up(uint64_t value, uint64_t unit) /* a power of two */
{
	return (value + unit - 1) & ~(unit - 1);
}

/* The smallest chunk (4096 << bits) that holds the size, or the largest there is. */
static inline unsigned lfs_chunk_bits(uint64_t size)
{
	unsigned bits = 0;
	while (bits < EROFS_CHUNK_BITS_MAX && (uint64_t)LFS_BLOCK << bits < size)
		bits++;
	return bits;
}
static inline uint64_t lfs_chunk_count(uint64_t size, unsigned bits)
{
	uint64_t chunk = (uint64_t)LFS_BLOCK << bits;
	return size / chunk + (size % chunk != 0);
}

static inline uint8_t lfs_file_type(uint32_t mode) /* 0: none */
{
	static const uint8_t types[16] = {[1] = EROFS_FT_FIFO, [2] = EROFS_FT_CHR, [4] = EROFS_FT_DIR, [6] = EROFS_FT_BLK,
					  [8] = EROFS_FT_REG, [10] = EROFS_FT_LINK, [12] = EROFS_FT_SOCK};
	return types[mode >> 12 & 15];
}

#endif
