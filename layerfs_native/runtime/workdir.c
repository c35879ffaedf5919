/* The working directory: made when missing, entered by a descriptor, and proved to be inside the container. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

static int outside(struct lfs_failure *failure, const char *path, int rc)
{
	return lfs_failed(failure, LFS_STAGE_WORKDIR, rc, "chdir to cwd (\"%s\") set in config.json failed", path);
}

int lfs_workdir_make(int root, const char *path, struct lfs_failure *failure)
{
	LFS_AUTO_FD dir = lfs_target_open(root, path, true, false);
	return dir < 0 ? lfs_failed(failure, LFS_STAGE_WORKDIR, dir, "mkdir \"%s\"", path) : 0;
}

/* A descriptor that leaked from the host (/proc/self/fd/7) shows as "(unreachable)" here; magic links are refused before. */
static int inside(int root)
{
	char path[PATH_MAX];
	struct stat here, there;
	long length = syscall(SYS_getcwd, path, sizeof path);
	if (length < 0)
		return -errno;
	if (path[0] != '/')
		return -EXDEV;
	if (stat(".", &here) < 0)
		return -errno;
	LFS_AUTO_FD again = lfs_sys_open_in(root, path, O_PATH | O_DIRECTORY, true);
	if (again == -EACCES)
		return 0;
	if (again < 0)
		return again;
	if (fstat(again, &there) < 0)
		return -errno;
	return here.st_dev == there.st_dev && here.st_ino == there.st_ino ? 0 : -EXDEV;
}

int lfs_workdir_enter(const char *path, struct lfs_failure *failure)
{
	LFS_AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return outside(failure, path, -errno);
	LFS_AUTO_FD dir = lfs_sys_open_in(root, path, O_PATH | O_DIRECTORY, false);
	if (dir < 0)
		return outside(failure, path, dir);
	if (fchdir(dir) < 0)
		return outside(failure, path, -errno);
	int rc = inside(root);
	return rc < 0 ? outside(failure, path, rc) : 0;
}
