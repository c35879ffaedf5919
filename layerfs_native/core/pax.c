#include "pax.h"

#include <errno.h>
#include <stdlib.h>

#include "text.h"

#define GLOBAL_RECORDS_MAX 256u /* in force at once; git archive writes one */
#define GLOBAL_TEXT_MAX (1u << 20)

static const struct lfs_bytes SCHILY = LFS_LITERAL("SCHILY.xattr."), LIBARCHIVE = LFS_LITERAL("LIBARCHIVE.xattr.");
static const struct lfs_bytes PAIR_OFFSET = LFS_LITERAL("GNU.sparse.offset"), PAIR_SIZE = LFS_LITERAL("GNU.sparse.numbytes"),
			      MAP = LFS_LITERAL("GNU.sparse.map");

static const struct {
	struct lfs_bytes key;
	size_t field;
	bool name; /* must not hold NUL */
} known[] = {
	{LFS_LITERAL("path"), offsetof(struct lfs_pax_view, path), true},
	{LFS_LITERAL("linkpath"), offsetof(struct lfs_pax_view, linkpath), true},
	{LFS_LITERAL("size"), offsetof(struct lfs_pax_view, size), false},
	{LFS_LITERAL("uid"), offsetof(struct lfs_pax_view, uid), false},
	{LFS_LITERAL("gid"), offsetof(struct lfs_pax_view, gid), false},
	{LFS_LITERAL("mtime"), offsetof(struct lfs_pax_view, mtime), false},
	{LFS_LITERAL("GNU.sparse.major"), offsetof(struct lfs_pax_view, sparse_major), false},
	{LFS_LITERAL("GNU.sparse.minor"), offsetof(struct lfs_pax_view, sparse_minor), false},
	{LFS_LITERAL("GNU.sparse.name"), offsetof(struct lfs_pax_view, sparse_name), true},
	{LFS_LITERAL("GNU.sparse.size"), offsetof(struct lfs_pax_view, sparse_size), false},
	{LFS_LITERAL("GNU.sparse.realsize"), offsetof(struct lfs_pax_view, sparse_realsize), false},
	{LFS_LITERAL("GNU.sparse.numblocks"), offsetof(struct lfs_pax_view, sparse_numblocks), false},
	{LFS_LITERAL("GNU.sparse.map"), offsetof(struct lfs_pax_view, sparse_map), false},
};
#define KNOWN_COUNT (sizeof known / sizeof *known)

static size_t find_known(struct lfs_bytes key)
{
	size_t i = 0;
	while (i < KNOWN_COUNT && !lfs_bytes_equal(known[i].key, key))
		i++;
	return i;
}

static const struct lfs_pax_record *records(const struct lfs_pax *pax, size_t *count)
{
	*count = pax->records.size / sizeof(struct lfs_pax_record);
	return (const struct lfs_pax_record *)pax->records.data;
}

static struct lfs_bytes key_of(const struct lfs_pax *pax, const struct lfs_pax_record *record)
{
	return (struct lfs_bytes){pax->text.data + record->key, record->key_size};
}

static struct lfs_bytes value_of(const struct lfs_pax *pax, const struct lfs_pax_record *record)
{
	return (struct lfs_bytes){pax->text.data + record->value, record->value_size};
}

static bool has_nul(struct lfs_bytes bytes)
{
	return bytes.size && memchr(bytes.data, 0, bytes.size);
}

static int check_nul(struct lfs_bytes key, struct lfs_bytes value, struct lfs_error *error)
{
	size_t which = find_known(key);
	if (which < KNOWN_COUNT && known[which].name && has_nul(value))
		return lfs_fail(error, -EBADMSG, "NUL in a PAX %.*s", (int)key.size, (const char *)key.data);
	if ((lfs_bytes_start(key, SCHILY) || lfs_bytes_start(key, LIBARCHIVE)) && has_nul(key))
		return lfs_fail(error, -EBADMSG, "NUL in the name of an extended attribute");
	return 0;
}

/* One record at `at`; returns its length, or 0 when it is bad. */
static size_t parse_record(const uint8_t *text, size_t at, size_t end, struct lfs_pax_record *record)
{
	const uint8_t *space = memchr(text + at, ' ', end - at < 20 ? end - at : 20);
	uint64_t size;
	if (!space || !lfs_decimal((struct lfs_bytes){text + at, (size_t)(space - text) - at}, &size) || size > end - at)
		return 0;
	size_t key = (size_t)(space - text) + 1, last = at + (size_t)size - 1;
	if (key > last || text[last] != '\n')
		return 0;
	const uint8_t *equals = memchr(text + key, '=', last - key);
	if (!equals || equals == text + key)
		return 0;
	size_t value = (size_t)(equals - text) + 1;
	*record = (struct lfs_pax_record){(uint32_t)key, (uint32_t)(value - 1 - key), (uint32_t)value, (uint32_t)(last - value)};
	return (size_t)size;
}

static bool is_pair(struct lfs_bytes key)
{
	return lfs_bytes_equal(key, PAIR_OFFSET) || lfs_bytes_equal(key, PAIR_SIZE);
}

/* Offset and size come in turn. */
static int check_turn(struct lfs_bytes key, unsigned *turn, struct lfs_error *error)
{
	if (!is_pair(key))
		return 0;
	bool size = lfs_bytes_equal(key, PAIR_SIZE);
	return size == ((*turn)++ % 2 == 1) ? 0 : lfs_fail(error, -EBADMSG, "sparse map out of turn");
}

int lfs_pax_parse(struct lfs_pax *pax, struct lfs_error *error)
{
	unsigned turn = 0;
	pax->records.size = 0;
	for (size_t at = 0; at < pax->text.size;) {
		struct lfs_pax_record record;
		size_t size = parse_record(pax->text.data, at, pax->text.size, &record);
		if (!size)
			return lfs_fail(error, -EBADMSG, "bad PAX record");
		int rc = check_nul(key_of(pax, &record), value_of(pax, &record), error);
		if (rc == 0)
			rc = check_turn(key_of(pax, &record), &turn, error);
		if (rc == 0)
			rc = lfs_buffer_append(&pax->records, &record, sizeof record);
		if (rc < 0)
			return rc;
		at += size;
	}
	pax->pairs = turn > 0;
	return 0;
}

/* Whether an empty value says something, rather than taking the key away. */
static bool may_be_empty(struct lfs_bytes key)
{
	return lfs_bytes_start(key, SCHILY);
}

static int put_record(struct lfs_pax *pax, struct lfs_bytes key, struct lfs_bytes value)
{
	struct lfs_pax_record record = {(uint32_t)pax->text.size, (uint32_t)key.size, (uint32_t)(pax->text.size + key.size),
					(uint32_t)value.size};
	int rc = lfs_buffer_append(&pax->text, key.data, key.size);
	if (rc == 0)
		rc = lfs_buffer_append(&pax->text, value.data, value.size);
	return rc < 0 ? rc : lfs_buffer_append(&pax->records, &record, sizeof record);
}

static bool has_key(const struct lfs_pax *pax, struct lfs_bytes key)
{
	size_t count;
	const struct lfs_pax_record *list = records(pax, &count);
	for (size_t i = 0; i < count; i++)
		if (lfs_bytes_equal(key_of(pax, &list[i]), key))
			return true;
	return false;
}

static bool remove_key(struct lfs_pax *pax, struct lfs_bytes key)
{
	size_t count;
	records(pax, &count);
	struct lfs_pax_record *list = (struct lfs_pax_record *)pax->records.data;
	for (size_t i = 0; i < count; i++)
		if (lfs_bytes_equal(key_of(pax, &list[i]), key)) {
			memmove(&list[i], &list[i + 1], (count - i - 1) * sizeof *list);
			pax->records.size -= sizeof *list;
			return true;
		}
	return false;
}

/* Copies the records in force, leaving the text of those that are not. */
static int compact(struct lfs_pax *pax)
{
	struct lfs_pax fresh = {.pairs = pax->pairs};
	size_t count;
	const struct lfs_pax_record *list = records(pax, &count);
	for (size_t i = 0; i < count; i++) {
		int rc = put_record(&fresh, key_of(pax, &list[i]), value_of(pax, &list[i]));
		if (rc < 0) {
			lfs_pax_free(&fresh);
			return rc;
		}
	}
	lfs_pax_free(pax);
	*pax = fresh;
	return 0;
}

int lfs_pax_merge(struct lfs_pax *global, const struct lfs_pax *more, struct lfs_error *error)
{
	size_t count;
	const struct lfs_pax_record *list = records(more, &count);
	if (more->pairs || has_key(more, MAP)) {
		while (remove_key(global, PAIR_OFFSET) || remove_key(global, PAIR_SIZE))
			;
		global->pairs = more->pairs;
	}
	for (size_t i = 0; i < count; i++) {
		struct lfs_bytes key = key_of(more, &list[i]), value = value_of(more, &list[i]);
		if (!is_pair(key)) /* those repeat */
			remove_key(global, key);
		bool counts = value.size || may_be_empty(key) || is_pair(key);
		int rc = counts ? put_record(global, key, value) : 0;
		if (rc < 0)
			return rc;
		if (global->records.size > GLOBAL_RECORDS_MAX * sizeof *list)
			return lfs_fail(error, -EBADMSG, "more than %u global PAX records", GLOBAL_RECORDS_MAX);
	}
	int rc = compact(global);
	if (rc == 0 && global->text.size > GLOBAL_TEXT_MAX)
		rc = lfs_fail(error, -EBADMSG, "global PAX records over 1 MiB");
	return rc;
}

static int look_at(struct lfs_pax_view *view, struct lfs_bytes key, struct lfs_bytes value)
{
	size_t which = find_known(key);
	if (which < KNOWN_COUNT) {
		struct lfs_bytes *field = (struct lfs_bytes *)((char *)view + known[which].field);
		*field = value.size ? value : (struct lfs_bytes){0};
		return 0;
	}
	if (is_pair(key))
		return lfs_buffer_append(&view->pairs, &value, sizeof value);
	bool schily = lfs_bytes_start(key, SCHILY);
	if (!schily && !lfs_bytes_start(key, LIBARCHIVE))
		return 0;
	size_t prefix = schily ? SCHILY.size : LIBARCHIVE.size;
	struct lfs_pax_xattr xattr = {{(const uint8_t *)key.data + prefix, key.size - prefix}, value, !schily,
				      (uint32_t)(view->found.size / sizeof xattr)};
	return lfs_buffer_append(&view->found, &xattr, sizeof xattr);
}

static void view_clear(struct lfs_pax_view *view)
{
	struct lfs_pax_view fresh = {.pairs = view->pairs, .xattrs = view->xattrs, .found = view->found, .decoded = view->decoded};
	fresh.pairs.size = fresh.xattrs.size = fresh.found.size = fresh.decoded.size = 0;
	*view = fresh;
}

int lfs_pax_look(struct lfs_pax_view *view, const struct lfs_pax *global, const struct lfs_pax *local)
{
	const struct lfs_pax *both[] = {global, local};
	view_clear(view);
	for (int which = 0; which < 2; which++) {
		size_t count;
		const struct lfs_pax_record *list = records(both[which], &count);
		if (both[which]->pairs || has_key(both[which], MAP))
			view->pairs.size = 0;
		for (size_t i = 0; i < count; i++) {
			int rc = look_at(view, key_of(both[which], &list[i]), value_of(both[which], &list[i]));
			if (rc < 0)
				return rc;
		}
	}
	const struct lfs_bytes *first = (const struct lfs_bytes *)view->pairs.data;
	if (view->pairs.size == sizeof *first && !first->size) { /* an empty map: no map */
		view->pairs.size = 0;
		view->sparse_map = (struct lfs_bytes){0};
	}
	return 0;
}

void lfs_pax_clear(struct lfs_pax *pax)
{
	pax->text.size = pax->records.size = 0;
	pax->pairs = false;
}

void lfs_pax_free(struct lfs_pax *pax)
{
	lfs_buffer_free(&pax->text);
	lfs_buffer_free(&pax->records);
}

void lfs_pax_view_free(struct lfs_pax_view *view)
{
	lfs_buffer_free(&view->pairs);
	lfs_buffer_free(&view->xattrs);
	lfs_buffer_free(&view->found);
	lfs_buffer_free(&view->decoded);
}

bool lfs_pax_time(struct lfs_bytes text, int64_t *seconds, uint32_t *nanoseconds)
{
	const char *at = text.data;
	bool negative = text.size && at[0] == '-';
	const char *digits = at + negative, *end = at + text.size;
	const char *point = memchr(digits, '.', (size_t)(end - digits));
	uint64_t whole;
	if (!lfs_decimal((struct lfs_bytes){digits, (size_t)((point ? point : end) - digits)}, &whole))
		return false;

	uint32_t part = 0, scale = 100000000;
	for (const char *digit = point ? point + 1 : end; digit < end; digit++, scale /= 10) {
		if (*digit < '0' || *digit > '9')
			return false;
		part += scale * (uint32_t)(*digit - '0');
	}
	*seconds = negative ? -(int64_t)whole - (part > 0) : (int64_t)whole;
	*nanoseconds = negative && part ? 1000000000 - part : part;
	return true;
}
