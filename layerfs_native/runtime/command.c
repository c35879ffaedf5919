/* Finds the command in the container's PATH and becomes it. The rules are those of Go's LookPath, as in docker. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run.h"

static int runnable(const char *path)
{
	struct stat info;
	if (stat(path, &info) < 0)
		return -errno;
	if (S_ISDIR(info.st_mode))
		return -EISDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

static const char *search_path(const struct lfs_spec *spec)
{
	const char *found = "";
	for (size_t i = 0; i < spec->environment_count; i++)
		if (strncmp(spec->environment[i], "PATH=", 5) == 0)
			found = spec->environment[i] + 5; /* the last one counts */
	return found;
}

static int find(const struct lfs_spec *spec, const char *name, char found[PATH_MAX])
{
	if (strchr(name, '/')) {
		if ((size_t)snprintf(found, PATH_MAX, "%s", name) >= PATH_MAX)
			return -ENAMETOOLONG;
		return runnable(found);
	}
	for (const char *dir = search_path(spec); *name && *dir;) {
		size_t length = strcspn(dir, ":");
		int written = snprintf(found, PATH_MAX, "%.*s%s%s", (int)length, dir, length ? "/" : "./", name);
		if (written > 0 && written < PATH_MAX && runnable(found) == 0)
			return 0;
		dir += length + (dir[length] == ':');
	}
	return -ENOENT;
}

int lfs_command_exec(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	char path[PATH_MAX];
	const char *name = spec->arguments[0];
	int rc = find(spec, name, path);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_LOOKUP, rc, "%s", name);
	lfs_sys_close_range(3, ~0u, true);
	execve(path, spec->arguments, spec->environment);
	return lfs_failed(failure, LFS_STAGE_EXEC, -errno, "%s", path);
}
