/* Extended attributes of PAX records: SCHILY.xattr.NAME raw, LIBARCHIVE.xattr.NAME encoded. */
#include <errno.h>
#include <stdlib.h>

#include "pax.h"
#include "text.h"

static int hex_digit(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The result is never longer than the input; the caller has reserved that. */
static bool percent_decode(struct lfs_bytes in, struct lfs_buffer *out, struct lfs_bytes *result)
{
	const uint8_t *at = in.data, *end = at + in.size;
	uint8_t *start = out->data + out->size, *to = start;
	while (at < end) {
		if (*at != '%') {
			*to++ = *at++;
			continue;
		}
		int high = end - at > 2 ? hex_digit(at[1]) : -1, low = high >= 0 ? hex_digit(at[2]) : -1;
		if (low < 0 || (high == 0 && low == 0))
			return false;
		*to++ = (uint8_t)(high << 4 | low);
		at += 3;
	}
	*result = (struct lfs_bytes){start, (size_t)(to - start)};
	out->size += result->size;
	return true;
}

static int base64_digit(uint8_t byte)
{
	if (byte >= 'A' && byte <= 'Z')
		return byte - 'A';
	if (byte >= 'a' && byte <= 'z')
		return byte - 'a' + 26;
	if (byte >= '0' && byte <= '9')
		return byte - '0' + 52;
	return byte == '+' ? 62 : byte == '/' ? 63 : -1;
}

static bool base64_decode(struct lfs_bytes in, struct lfs_buffer *out, struct lfs_bytes *result)
{
	const uint8_t *at = in.data;
	size_t size = in.size, padding = 0;
	uint8_t *start = out->data + out->size, *to = start;
	uint32_t bits = 0;
	for (; size && at[size - 1] == '=' && padding < 2; padding++)
		size--;
	if (size % 4 == 1 || (padding && (size + padding) % 4 != 0))
		return false;
	for (size_t i = 0; i < size; i++) {
		int digit = base64_digit(at[i]);
		if (digit < 0)
			return false;
		bits = bits << 6 | (uint32_t)digit;
		if (i % 4) /* 2nd, 3rd and 4th digit each complete a byte */
			*to++ = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	*result = (struct lfs_bytes){start, (size_t)(to - start)};
	out->size += result->size;
	return true;
}

static int decode_all(struct lfs_pax_xattr *list, size_t count, struct lfs_buffer *decoded, struct lfs_error *error)
{
	size_t room = 0;
	for (size_t i = 0; i < count; i++)
		if (list[i].libarchive)
			room += list[i].key.size + list[i].value.size;
	int rc = lfs_buffer_reserve(decoded, room); /* at once: results point into it */
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++)
		if (list[i].libarchive && (!percent_decode(list[i].key, decoded, &list[i].key) ||
					   !base64_decode(list[i].value, decoded, &list[i].value)))
			return lfs_fail(error, -EBADMSG, "bad LIBARCHIVE.xattr record");
	return 0;
}

static int compare_bytes(struct lfs_bytes a, struct lfs_bytes b)
{
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common ? memcmp(a.data, b.data, common) : 0;
	return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

/* Spelling by spelling, later after earlier. */
static int compare_keys(const void *left, const void *right)
{
	const struct lfs_pax_xattr *a = left, *b = right;
	int order = a->libarchive != b->libarchive ? a->libarchive - b->libarchive : compare_bytes(a->key, b->key);
	return order ? order : a->order < b->order ? -1 : 1;
}

/* By name; SCHILY after LIBARCHIVE, later after earlier. */
static int compare_names(const void *left, const void *right)
{
	const struct lfs_pax_xattr *a = left, *b = right;
	int order = compare_bytes(a->key, b->key);
	if (order == 0)
		order = b->libarchive - a->libarchive;
	return order ? order : a->order < b->order ? -1 : 1;
}

/* Leaves the last of each spelling, as far as it counts: an empty LIBARCHIVE value takes the key away. */
static size_t keep_last(struct lfs_pax_xattr *list, size_t count)
{
	size_t kept = 0;
	qsort(list, count, sizeof *list, compare_keys);
	for (size_t i = 0; i < count; i++) {
		bool again = i + 1 < count && list[i].libarchive == list[i + 1].libarchive &&
			     compare_bytes(list[i].key, list[i + 1].key) == 0;
		if (!again && !(list[i].libarchive && list[i].value.size == 0))
			list[kept++] = list[i];
	}
	return kept;
}

int lfs_pax_xattrs(struct lfs_pax_view *view, struct lfs_error *error)
{
	struct lfs_pax_xattr *list = (struct lfs_pax_xattr *)view->found.data;
	size_t count = view->found.size / sizeof *list;
	if (!count)
		return 0;
	count = keep_last(list, count);
	int rc = decode_all(list, count, &view->decoded, error);
	if (rc < 0)
		return rc;
	qsort(list, count, sizeof *list, compare_names);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct lfs_xattr xattr = {list[i].key, list[i].value};
		if (i + 1 == count || compare_bytes(list[i].key, list[i + 1].key) != 0)
			rc = lfs_buffer_append(&view->xattrs, &xattr, sizeof xattr);
	}
	return rc;
}
