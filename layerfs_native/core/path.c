#include "path.h"

#include <errno.h>

#include "text.h"

static size_t parent_size(const char *path, size_t size)
{
	while (size && path[size - 1] != '/')
		size--;
	return size ? size - 1 : 0;
}

/* Puts a part before those that out ends with; *start is where they begin. */
static int prepend_part(struct lfs_bytes part, char *out, size_t *start, struct lfs_error *error)
{
	bool first = *start == LFS_PATH_MAX;
	if (part.size > LFS_NAME_MAX)
		return lfs_fail(error, -EBADMSG, "name over %u bytes", LFS_NAME_MAX);
	if (part.size + !first > *start)
		return lfs_fail(error, -EBADMSG, "path over %u bytes", LFS_PATH_MAX);
	if (!first)
		out[--*start] = '/';
	*start -= part.size;
	memcpy(out + *start, part.data, part.size);
	return 0;
}

/* A part that is no "..": gone when a ".." to its right takes it away. */
static int take_part(struct lfs_bytes part, size_t *up, char *out, size_t *start, struct lfs_error *error)
{
	if (*up) {
		--*up;
		return 0;
	}
	return prepend_part(part, out, start, error);
}

int lfs_path_clean(struct lfs_bytes name, char *out, struct lfs_bytes *clean, struct lfs_error *error)
{
	const char *path = name.data;
	size_t end = name.size, start = LFS_PATH_MAX, up = 0;
	if (name.size && memchr(path, 0, name.size))
		return lfs_fail(error, -EBADMSG, "NUL in a name");
	while (end) { /* from the end: each ".." takes away the next part to its left, if there is one */
		size_t at = end;
		while (at && path[at - 1] != '/')
			at--;
		struct lfs_bytes part = {path + at, end - at};
		int rc = 0;
		if (lfs_bytes_equal(part, LFS_LITERAL("..")))
			up++;
		else if (part.size && !lfs_bytes_equal(part, LFS_LITERAL(".")))
			rc = take_part(part, &up, out, &start, error);
		if (rc < 0)
			return rc;
		end = at ? at - 1 : 0;
	}
	*clean = (struct lfs_bytes){out + start, LFS_PATH_MAX - start};
	return 0;
}

static const struct lfs_bytes MARK = LFS_LITERAL(".wh."), RESERVED = LFS_LITERAL(".wh..wh."), OPAQUE = LFS_LITERAL(".wh..wh..opq");

static int classify_last(struct lfs_path_parts *parts, struct lfs_error *error)
{
	struct lfs_bytes name = parts->name;
	if (!lfs_bytes_start(name, MARK))
		return LFS_PATH_PLAIN;
	if (lfs_bytes_equal(name, OPAQUE))
		return LFS_PATH_OPAQUE;
	if (lfs_bytes_start(name, RESERVED))
		return LFS_PATH_SKIPPED;
	parts->name = (struct lfs_bytes){(const char *)name.data + MARK.size, name.size - MARK.size};
	if (parts->name.size == 0 || lfs_bytes_equal(parts->name, LFS_LITERAL(".")) || lfs_bytes_equal(parts->name, LFS_LITERAL("..")))
		return lfs_fail(error, -EBADMSG, "whiteout of nothing");
	return LFS_PATH_WHITEOUT;
}

/* Whether a part of the directory begins with the mark. */
static bool part_starts(struct lfs_bytes directory, struct lfs_bytes mark)
{
	const char *path = directory.data;
	for (size_t at = 0; at < directory.size; at++)
		if ((at == 0 || path[at - 1] == '/') && lfs_bytes_start((struct lfs_bytes){path + at, directory.size - at}, mark))
			return true;
	return false;
}

int lfs_path_classify(struct lfs_bytes clean, struct lfs_path_parts *parts, struct lfs_error *error)
{
	const char *path = clean.data;
	size_t directory = parent_size(path, clean.size), last = directory ? directory + 1 : 0;
	parts->directory = (struct lfs_bytes){path, directory};
	parts->name = (struct lfs_bytes){path + last, clean.size - last};
	if (part_starts(parts->directory, RESERVED))
		return LFS_PATH_SKIPPED;
	if (part_starts(parts->directory, MARK))
		return lfs_fail(error, -EBADMSG, "name below a whiteout");
	return classify_last(parts, error);
}
