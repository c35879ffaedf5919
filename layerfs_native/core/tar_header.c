/* Decoding a header block. Numbers and names follow Go's archive/tar, which docker and containerd read layers with. */
#include <errno.h>

#include "tar.h"
#include "text.h"

struct field {
	uint16_t at, size;
};
static const struct field NAME = {0, 100}, MODE = {100, 8}, UID = {108, 8}, GID = {116, 8}, SIZE = {124, 12}, MTIME = {136, 12},
			  CHECKSUM = {148, 8}, LINK = {157, 100}, MAJOR = {329, 8}, MINOR = {337, 8}, PREFIX = {345, 155},
			  STAR_PREFIX = {345, 131}, GNU_ATIME = {345, 12}, GNU_CTIME = {357, 12}, GNU_REAL_SIZE = {483, 12};

enum format { V7, USTAR, STAR, GNU };

static enum format find_format(const uint8_t *block)
{
	if (memcmp(block + 257, "ustar", 5) != 0)
		return V7;
	if (block[262] == ' ')
		return GNU;
	return memcmp(block + 508, "tar", 3) == 0 ? STAR : USTAR;
}

static bool base256(const uint8_t *at, size_t size, int64_t *value)
{
	uint8_t flip = at[0] & 0x40 ? 0xff : 0;
	uint64_t result = (at[0] ^ flip) & 0x7f;
	for (size_t i = 1; i < size; i++) {
		if (result >> 55)
			return false;
		result = result << 8 | (at[i] ^ flip);
	}
	if (result >> 63)
		return false;
	*value = flip ? (int64_t)~result : (int64_t)result;
	return true;
}

static bool is_filler(uint8_t byte)
{
	return byte == ' ' || byte == '\0';
}

static bool octal(const uint8_t *at, size_t size, int64_t *value)
{
	while (size && is_filler(at[size - 1]))
		size--;
	while (size && is_filler(*at))
		at++, size--;
	*value = 0;
	for (; size && *at; at++, size--) {
		if (*at < '0' || *at > '7')
			return false;
		*value = *value << 3 | (*at - '0');
	}
	return true;
}

bool lfs_tar_number(const uint8_t *field, size_t size, int64_t *value)
{
	return field[0] & 0x80 ? base256(field, size, value) : octal(field, size, value);
}

static bool number(const uint8_t *block, struct field field, int64_t *value)
{
	return lfs_tar_number(block + field.at, field.size, value);
}

static int checksum(const uint8_t *block, struct lfs_error *error)
{
	int64_t stored, plain = 0, with_sign = 0;
	if (!octal(block + CHECKSUM.at, CHECKSUM.size, &stored))
		return lfs_fail(error, -EBADMSG, "not a tar header");
	for (size_t i = 0; i < LFS_TAR_BLOCK; i++) {
		uint8_t byte = i - CHECKSUM.at < CHECKSUM.size ? ' ' : block[i];
		plain += byte;
		with_sign += (int8_t)byte;
	}
	if (stored != plain && stored != with_sign)
		return lfs_fail(error, -EBADMSG, "bad header checksum");
	return 0;
}

static size_t text(const uint8_t *block, struct field field, char *out)
{
	size_t size = strnlen((const char *)block + field.at, field.size);
	memcpy(out, block + field.at, size);
	return size;
}

/* Go before 1.8 put a prefix into GNU headers; atime and ctime are there otherwise. */
static bool gnu_prefix(const uint8_t *block)
{
	int64_t ignored;
	bool times = (!block[GNU_ATIME.at] || number(block, GNU_ATIME, &ignored)) &&
		     (!block[GNU_CTIME.at] || number(block, GNU_CTIME, &ignored));
	if (times)
		return false;
	size_t size = strnlen((const char *)block + PREFIX.at, PREFIX.size);
	for (size_t i = 0; i < size; i++)
		if (block[PREFIX.at + i] & 0x80)
			return false;
	return true;
}

static void decode_names(const uint8_t *block, enum format format, struct lfs_tar_header *header)
{
	size_t size = 0;
	if (format == USTAR || (format == GNU && gnu_prefix(block)))
		size = text(block, PREFIX, header->name_text);
	else if (format == STAR)
		size = text(block, STAR_PREFIX, header->name_text);
	if (size)
		header->name_text[size++] = '/';
	size += text(block, NAME, header->name_text + size);
	header->name = (struct lfs_bytes){header->name_text, size};
	header->link = (struct lfs_bytes){header->link_text, text(block, LINK, header->link_text)};
}

static int decode_device(const uint8_t *block, enum format format, struct lfs_tar_header *header, struct lfs_error *error)
{
	int64_t major = 0, minor = 0;
	if (format != V7 && (!number(block, MAJOR, &major) || !number(block, MINOR, &minor)))
		return lfs_fail(error, -EBADMSG, "device number cannot be read");
	if (major < 0 || major > 4095 || minor < 0 || minor > 1048575)
		return lfs_fail(error, -EBADMSG, "device number out of range");
	header->major = (uint32_t)major;
	header->minor = (uint32_t)minor;
	return 0;
}

static int decode_numbers(const uint8_t *block, struct lfs_tar_header *header, struct lfs_error *error)
{
	int64_t mode, uid, gid, size;
	if (!number(block, MODE, &mode) || !number(block, UID, &uid) || !number(block, GID, &gid) ||
	    !number(block, SIZE, &size) || !number(block, MTIME, &header->mtime))
		return lfs_fail(error, -EBADMSG, "a number in the header cannot be read");
	if (size < 0)
		return lfs_fail(error, -EBADMSG, "negative size");
	if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX)
		return lfs_fail(error, -EBADMSG, "owner out of range");
	header->mode = mode & 07777;
	header->uid = (uint32_t)uid;
	header->gid = (uint32_t)gid;
	header->size = (uint64_t)size;
	return 0;
}

int lfs_tar_decode(const uint8_t block[LFS_TAR_BLOCK], struct lfs_tar_header *header, struct lfs_error *error)
{
	static const uint8_t zeros[LFS_TAR_BLOCK];
	if (block[0] == 0 && memcmp(block, zeros, sizeof zeros) == 0)
		return 1;
	int rc = checksum(block, error);
	if (rc < 0)
		return rc;

	enum format format = find_format(block);
	int64_t real_size = 0;
	header->type = block[156];
	header->major = header->minor = 0;
	decode_names(block, format, header);
	rc = decode_numbers(block, header, error);
	if (rc == 0 && (header->type == '3' || header->type == '4'))
		rc = decode_device(block, format, header, error);
	if (rc == 0 && header->type == 'S' && (!number(block, GNU_REAL_SIZE, &real_size) || real_size < 0))
		rc = lfs_fail(error, -EBADMSG, "bad size of a sparse file");
	header->real_size = (uint64_t)real_size;
	return rc;
}
