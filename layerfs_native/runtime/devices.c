/* Device nodes and links of /dev, and the null device that masks files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <linux/mount.h>

#include "run.h"

/* The directory of `path` (made when missing) and the name in it. Owned O_PATH fd or -errno. */
static int open_parent(int root, const char *path, const char **name)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	*name = slash ? slash + 1 : path;
	if (!**name || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0)
		return -EINVAL;
	if ((size_t)snprintf(parent, sizeof parent, "/%.*s", slash ? (int)(slash - path) : 0, path) >= sizeof parent)
		return -ENAMETOOLONG;
	return lfs_target_open(root, parent, true, false);
}

static bool is_device(int fd, mode_t type, dev_t device)
{
	struct stat info;
	return fstat(fd, &info) == 0 && (info.st_mode & S_IFMT) == type && info.st_rdev == device;
}

/* Where nodes cannot be made (user namespaces), the host's own node of the same path, checked, is bound in. */
static int bind_host_device(int parent, const char *name, const struct lfs_step *step, dev_t device)
{
	LFS_AUTO_FD source = open(*step->source ? step->source : step->target, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (source < 0)
		return -errno;
	if (!is_device(source, step->mode & S_IFMT, device))
		return -ENODEV;
	LFS_AUTO_FD mount = lfs_sys_open_tree(source, "", false);
	if (mount < 0)
		return mount;
	LFS_AUTO_FD made = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (made < 0)
		return -errno;
	LFS_AUTO_FD target = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return -errno;
	return lfs_sys_attach(mount, target);
}

/* Binds the node over itself. Without a device cgroup this is what keeps devices in hand: the file systems of the
 * container are nodev, and only these mounts are not. */
static int confine(int *node)
{
	LFS_AUTO_FD mount = lfs_sys_open_tree(*node, "", false);
	if (mount < 0)
		return mount;
	int rc = lfs_sys_clear_mount(mount, MOUNT_ATTR_NODEV); /* outside of /dev the copy is one of a nodev mount */
	if (rc == 0)
		rc = lfs_sys_attach(mount, *node);
	if (rc < 0)
		return rc;
	close(*node);
	*node = lfs_steal_fd(&mount);
	return 0;
}

int lfs_device_make(struct lfs_scene *scene, const struct lfs_step *step)
{
	const char *name;
	dev_t device = makedev(step->major, step->minor);
	LFS_AUTO_FD parent = open_parent(scene->root, step->target, &name);
	if (parent < 0)
		return parent;
	int rc = mknodat(parent, name, (mode_t)step->mode, device) < 0 ? -errno : 0;
	if (rc == -EPERM)
		rc = bind_host_device(parent, name, step, device);
	if (rc == -EEXIST)
		rc = 0;
	if (rc < 0)
		return rc;
	LFS_AUTO_FD node = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node < 0)
		return -errno;
	if (!is_device(node, step->mode & S_IFMT, device))
		return -ENODEV;
	rc = step->flags & LFS_STEP_CONFINED ? confine(&node) : 0;
	if (rc < 0)
		return rc;
	if (scene->null < 0 && is_device(node, S_IFCHR, makedev(1, 3)))
		scene->null = lfs_steal_fd(&node);
	return 0;
}

int lfs_link_make(struct lfs_scene *scene, const struct lfs_step *step)
{
	const char *name;
	LFS_AUTO_FD parent = open_parent(scene->root, step->target, &name);
	if (parent < 0)
		return parent;
	if (symlinkat(step->source, parent, name) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

/* Without a /dev of ours (a volume lies there) the host's node serves, read-only so that a chmod cannot reach it. */
static int clone_host_null(void)
{
	LFS_AUTO_FD host = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (host < 0)
		return -errno;
	if (!is_device(host, S_IFCHR, makedev(1, 3)))
		return -ENODEV;
	LFS_AUTO_FD mount = lfs_sys_open_tree(host, "", false);
	if (mount < 0)
		return mount;
	int rc = lfs_sys_set_mount(mount, "", false, MOUNT_ATTR_RDONLY, 0);
	return rc < 0 ? rc : lfs_steal_fd(&mount);
}

int lfs_null_clone(const struct lfs_scene *scene)
{
	if (scene->null < 0)
		return clone_host_null();
	if (!is_device(scene->null, S_IFCHR, makedev(1, 3)))
		return -ENODEV;
	return lfs_sys_open_tree(scene->null, "", false);
}
