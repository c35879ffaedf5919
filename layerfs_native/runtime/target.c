/* Where a mount goes. A target that is missing is made the way a mkdir -p inside the root would, and a dangling
 * symbolic link is followed to the place it names inside the root. Nothing is ever looked up outside it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "run.h"

enum { DIRECTORY_MODE = 0755, FILE_MODE = 0755, LINKS_MAX = 40 }; /* files 0755: as docker's init layer */

/* `path` = prefix/link/rest, where link is dangling: puts prefix/TEXT/rest (or TEXT/rest when absolute) into `path`. */
static int splice_link(int parent, char *path, size_t name_at, size_t name_end)
{
	char name[NAME_MAX + 1], text[PATH_MAX], joined[PATH_MAX];
	snprintf(name, sizeof name, "%.*s", (int)(name_end - name_at), path + name_at);
	ssize_t length = readlinkat(parent, name, text, sizeof text - 1);
	if (length < 0)
		return -errno;
	text[length] = '\0';
	int prefix = text[0] == '/' ? 0 : (int)name_at;
	int written = snprintf(joined, sizeof joined, "%.*s%s%s", prefix, path, text, path + name_end);
	if (written < 0 || (size_t)written >= sizeof joined)
		return -ENAMETOOLONG;
	memcpy(path, joined, (size_t)written + 1);
	return 0;
}

/* Makes the entry path[name_at:name_end] in `parent`. 0 when made, -EEXIST when something (a dangling link) is there. */
static int make_entry(int parent, const char *path, size_t name_at, size_t name_end, bool directory)
{
	char name[NAME_MAX + 1];
	if (name_end - name_at > NAME_MAX)
		return -ENAMETOOLONG;
	snprintf(name, sizeof name, "%.*s", (int)(name_end - name_at), path + name_at);
	if (directory)
		return mkdirat(parent, name, DIRECTORY_MODE) < 0 ? -errno : 0;
	LFS_AUTO_FD file = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
	return file < 0 ? -errno : 0;
}

/* Opens path[:end], which exists; the empty prefix is the root itself. */
static int open_prefix(int root, const char *path, size_t end, uint64_t flags, bool strict)
{
	char prefix[PATH_MAX];
	snprintf(prefix, sizeof prefix, "%.*s", (int)end, path);
	return lfs_sys_open_in(root, prefix[0] ? prefix : ".", flags, strict);
}

/* One walk over `path`: makes the first component that is missing. 1 when everything is there, 0 to walk again. */
static int make_next(int root, char *path, bool directory, bool strict, int *links)
{
	size_t name_at = strspn(path, "/");
	while (path[name_at]) {
		size_t name_end = name_at + strcspn(path + name_at, "/");
		size_t next = name_end + strspn(path + name_end, "/");
		LFS_AUTO_FD there = open_prefix(root, path, name_end, O_PATH, strict);
		if (there == -ENOENT) {
			LFS_AUTO_FD parent = open_prefix(root, path, name_at, O_PATH | O_DIRECTORY, strict);
			if (parent < 0)
				return parent;
			int rc = make_entry(parent, path, name_at, name_end, directory || path[next]);
			if (rc != -EEXIST)
				return rc;
			if (++*links > LINKS_MAX)
				return -ELOOP;
			rc = strict ? 0 : splice_link(parent, path, name_at, name_end);
			return rc == -EINVAL ? 0 : rc; /* no link: another run in the same root made it meanwhile */
		}
		if (there < 0)
			return there;
		name_at = next;
	}
	return 1;
}

int lfs_target_open(int root, const char *path, bool directory, bool strict)
{
	char wanted[PATH_MAX];
	uint64_t flags = O_PATH | (directory ? O_DIRECTORY : 0);
	int fd = lfs_sys_open_in(root, path, flags, strict);
	if (fd != -ENOENT)
		return fd;
	if ((size_t)snprintf(wanted, sizeof wanted, "%s", path) >= sizeof wanted)
		return -ENAMETOOLONG;
	int rc = 0, links = 0;
	for (int walks = 0; rc == 0 && walks < PATH_MAX; walks++)
		rc = make_next(root, wanted, directory, strict, &links);
	return rc < 0 ? rc : lfs_sys_open_in(root, wanted, flags, strict);
}
