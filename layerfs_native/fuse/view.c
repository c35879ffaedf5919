/* Host directories are opened through mounts of our own, which nobody else sees. The kernel and the host take access times by the rules of
 * the mount that a file was opened through, also where the kernel reads a backing file without us: so these have our mount's rules, whatever
 * the host's mount says, and reading never changes the store. Where such mounts cannot be had, the host's own do. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server.h"

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* linux/mount.h, which does not go with sys/mount.h */
enum { VIEW_CLONE = 1, VIEW_RDONLY = 0x1, VIEW_ATIME = 0x70, VIEW_NOATIME = 0x10, VIEW_STRICTATIME = 0x20, VIEW_NODIRATIME = 0x80 };
struct view_attributes {
	uint64_t set, clear, propagation, userns;
};

static uint64_t access_times(const struct lfs_options *options)
{
	uint64_t rule = options->mount_flags & MS_NOATIME ? VIEW_NOATIME : options->mount_flags & MS_STRICTATIME ? VIEW_STRICTATIME : 0;
	return rule | (options->mount_flags & MS_NODIRATIME ? VIEW_NODIRATIME : 0);
}

/* The directory at the root of a mount of its own: an owned descriptor, or -errno. What others mount below it does not come into it. */
static int open_view(const char *path, uint64_t attributes)
{
	const struct view_attributes wanted = {attributes, VIEW_ATIME | VIEW_NODIRATIME, MS_PRIVATE, 0};
	LFS_AUTO_FD fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, VIEW_CLONE | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &wanted, sizeof wanted) < 0)
		return -errno;
	return lfs_steal_fd(&fd);
}

int lfs_view_store(const char *path)
{
	int fd = open_view(path, VIEW_RDONLY | VIEW_NOATIME);
	if (fd < 0)
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The length of the directory that both paths are below of, without its last slash. */
static size_t common_part(const char *first, const char *second)
{
	size_t common = 0;
	for (size_t i = 0; first[i] && first[i] == second[i]; i++)
		if (first[i] == '/')
			common = i;
	return common;
}

/* What `path` is below the first `size` bytes, if it is the same directory there: a mount in between is not seen. */
static int open_below(int view, const char *path, size_t size)
{
	struct stat inside, outside;
	LFS_AUTO_FD fd = openat(view, path + size + 1, DIR_FLAGS);
	if (fd < 0 || fstat(fd, &inside) < 0 || stat(path, &outside) < 0)
		return -errno;
	return inside.st_dev == outside.st_dev && inside.st_ino == outside.st_ino ? lfs_steal_fd(&fd) : -EXDEV;
}

/* All through one mount, as entries are moved between them. It is kept open: closing it would wait for the kernel to detach it. */
static int open_together(const struct lfs_options *options, const char *const *paths, int *fds, size_t count, int *kept)
{
	char real[3][PATH_MAX];
	size_t size = PATH_MAX;
	for (size_t i = 0; i < count; i++) {
		if (!realpath(paths[i], real[i]))
			return -errno;
		size_t common = common_part(real[0], real[i]);
		size = i && common < size ? common : size;
	}
	char *parent = strndup(real[0], size ? size : 1);
	LFS_AUTO_FD view = parent ? open_view(parent, access_times(options)) : -ENOMEM;
	free(parent);
	int rc = view < 0 ? view : 0;
	for (size_t i = 0; i < count && rc >= 0; i++)
		rc = fds[i] = open_below(view, real[i], size);
	for (size_t i = 0; i < count && rc < 0; i++) {
		lfs_close_fd(&fds[i]);
		fds[i] = LFS_NO_FD;
	}
	if (rc >= 0)
		*kept = lfs_steal_fd(&view);
	return rc < 0 ? rc : 0;
}

static int open_plainly(const struct lfs_options *options, struct lfs_upper *upper, struct lfs_error *error)
{
	upper->root = open(options->upper, DIR_FLAGS);
	if (upper->root < 0)
		return lfs_fail(error, -errno, "%s: %s", options->upper, strerror(errno));
	upper->work = options->work ? open(options->work, DIR_FLAGS) : LFS_NO_FD;
	if (options->work && upper->work < 0)
		return lfs_fail(error, -errno, "%s: %s", options->work, strerror(errno));
	upper->uppers = options->uppers ? open(options->uppers, DIR_FLAGS) : LFS_NO_FD;
	return 0;
}

int lfs_view_upper(const struct lfs_options *options, struct lfs_upper *upper, struct lfs_error *error)
{
	const char *paths[] = {options->upper, options->work, options->uppers};
	int fds[3] = {LFS_NO_FD, LFS_NO_FD, LFS_NO_FD};
	if (options->work && !options->read_only && mkdir(options->work, 0700) < 0 && errno != EEXIST)
		return lfs_fail(error, -errno, "%s: %s", options->work, strerror(errno));
	int rc = options->work && options->uppers ? open_together(options, paths, fds, 3, &upper->view) : -ENOENT;
	if (rc < 0 && options->work)
		rc = open_together(options, paths, fds, 2, &upper->view);
	upper->root = fds[0];
	upper->work = fds[1];
	upper->uppers = fds[2];
	return rc < 0 ? open_plainly(options, upper, error) : 0;
}

int lfs_view_place(const struct lfs_server *server, const char *name, struct lfs_place *place)
{
	struct stat old, new;
	*place = (struct lfs_place){LFS_NO_FD, LFS_NO_FD, LFS_NO_FD};
	if (server->upper.uppers < 0)
		return -EOPNOTSUPP;
	LFS_AUTO_FD home = openat(server->upper.uppers, name, DIR_FLAGS);
	if (home < 0 || (mkdirat(home, "work", 0700) < 0 && errno != EEXIST))
		return -errno;
	place->upper = openat(home, "upper", DIR_FLAGS);
	place->work = openat(home, "work", DIR_FLAGS);
	if (place->upper < 0 || place->work < 0 || (mkdirat(place->work, "scratch", 0700) < 0 && errno != EEXIST))
		return -errno;
	place->scratch = openat(place->work, "scratch", DIR_FLAGS);
	if (place->scratch < 0 || fstat(server->upper.root, &old) < 0 || fstat(place->upper, &new) < 0)
		return -errno;
	return old.st_dev == new.st_dev ? 0 : -EXDEV;
}
