#include "path.h"

#include <errno.h>

#include "text.h"

static size_t parent_size(const char *path, size_t size)
{
	while (size && path[size - 1] != '/')
		size--;
	return size ? size - 1 : 0;
}

static int append_part(const char *part, size_t size, char *out, size_t *used, struct lfs_error *error)
{
	if (size > LFS_NAME_MAX)
		return lfs_fail(error, -EBADMSG, "name over %u bytes", LFS_NAME_MAX);
	if (*used + (*used > 0) + size > LFS_PATH_MAX)
		return lfs_fail(error, -EBADMSG, "path over %u bytes", LFS_PATH_MAX);
	if (*used)
		out[(*used)++] = '/';
	memcpy(out + *used, part, size);
	*used += size;
	return 0;
}

int lfs_path_clean(struct lfs_bytes name, char *out, struct lfs_bytes *clean, struct lfs_error *error)
{
	const char *at = name.data, *end = at + name.size;
	size_t used = 0;
	if (name.size && memchr(at, 0, name.size))
		return lfs_fail(error, -EBADMSG, "NUL in a name");
	while (at < end) {
		const char *slash = memchr(at, '/', (size_t)(end - at));
		size_t size = (size_t)((slash ? slash : end) - at);
		int rc = 0;
		if (size == 2 && memcmp(at, "..", 2) == 0)
			used = parent_size(out, used);
		else if (size && !(size == 1 && *at == '.'))
			rc = append_part(at, size, out, &used, error);
		if (rc < 0)
			return rc;
		at += size + 1;
	}
	*clean = (struct lfs_bytes){out, used};
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

int lfs_path_classify(struct lfs_bytes clean, struct lfs_path_parts *parts, struct lfs_error *error)
{
	const char *path = clean.data;
	size_t directory = parent_size(path, clean.size), at = 0;
	size_t last = directory ? directory + 1 : 0;
	while (at < last) {
		const char *slash = memchr(path + at, '/', clean.size - at);
		struct lfs_bytes part = {path + at, (size_t)(slash - path) - at};
		if (lfs_bytes_start(part, RESERVED))
			return LFS_PATH_SKIPPED;
		if (lfs_bytes_start(part, MARK))
			return lfs_fail(error, -EBADMSG, "name below a whiteout");
		at += part.size + 1;
	}
	parts->directory = (struct lfs_bytes){path, directory};
	parts->name = (struct lfs_bytes){path + last, clean.size - last};
	return classify_last(parts, error);
}
