/* Making the mount, unmounting it on SIGTERM, and stepping out of the caller's mount namespace: a server that stayed in it would keep it,
 * and with it its own mount, alive for ever. What the server needs of the file system it has open by then. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mount_calls.h"
#include "server.h"

/* --- made before the caller has written down that there will be a mount, attached afterwards: who is killed in between leaves none --- */

static uint32_t attributes(unsigned long flags)
{
	static const struct {
		unsigned long flag;
		uint32_t attribute;
	} known[] = {{MS_RDONLY, 0x01}, {MS_NOSUID, 0x02}, {MS_NODEV, 0x04}, {MS_NOEXEC, 0x08}, {MS_NOATIME, 0x10}, {MS_STRICTATIME, 0x20}, {MS_NODIRATIME, 0x80}};
	uint32_t found = 0;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		found |= flags & known[i].flag ? known[i].attribute : 0;
	return found;
}

static int configure(int context, const struct lfs_server *server)
{
	const struct lfs_options *options = &server->options;
	char device[16], user[16], group[16], max_read[16];
	snprintf(device, sizeof device, "%d", server->device);
	snprintf(user, sizeof user, "%u", geteuid());
	snprintf(group, sizeof group, "%u", getegid());
	snprintf(max_read, sizeof max_read, "%u", server->max_write);
	const struct {
		const char *key, *value;
		bool left_out;
	} settings[] = {{"source", options->name, false}, {"subtype", "layerfs", false},
			{"fd", device, false}, {"rootmode", "40000", false},
			{"user_id", user, false}, {"group_id", group, false},
			{"max_read", max_read, false}, {"default_permissions", NULL, false},
			{"allow_other", NULL, options->private_}, {"ro", NULL, !(options->mount_flags & MS_RDONLY)}};
	for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
		if (!settings[i].left_out &&
		    syscall(SYS_fsconfig, context, settings[i].value ? CONFIG_STRING : CONFIG_FLAG, settings[i].key, settings[i].value, 0) < 0)
			return -errno;
	return syscall(SYS_fsconfig, context, CONFIG_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

/* Linux 5.2, and who may mount; whatever fails is told by lfs_mount, which does it the old way then. */
void lfs_mount_begin(struct lfs_server *server)
{
	LFS_AUTO_FD context = (int)syscall(SYS_fsopen, "fuse", OPEN_CLOEXEC);
	if (context < 0 || (server->device = open("/dev/fuse", O_RDWR | O_CLOEXEC)) < 0)
		return;
	if (configure(context, server) >= 0)
		server->detached = (int)syscall(SYS_fsmount, context, MOUNT_CLOEXEC, attributes(server->options.mount_flags));
	if (server->detached >= 0)
		return;
	lfs_close_fd(&server->device);
	server->device = server->detached = LFS_NO_FD;
}

static int attach(struct lfs_server *server, struct lfs_error *error)
{
	const char *target = server->options.target;
	if (syscall(SYS_move_mount, server->detached, "", AT_FDCWD, target, MOVE_EMPTY_PATH | MOVE_TO_LINKED) < 0)
		return lfs_fail(error, errno == EPERM ? -ENOTSUP : -errno, "mounting at %s: %s", target, strerror(errno));
	lfs_close_fd(&server->detached);
	server->detached = LFS_NO_FD;
	return 0;
}

/* Root, also that of a user namespace, mounts by itself; who may not asks the program that may. */
int lfs_mount(struct lfs_server *server, struct lfs_error *error)
{
	const struct lfs_options *options = &server->options;
	char data[160];
	if (server->detached >= 0)
		return attach(server, error);
	server->device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (server->device < 0 && server->rights.uid && errno == EACCES)
		return lfs_fail(error, -ENOTSUP, "/dev/fuse is not for ordinary users here (its mode should be 0666)");
	if (server->device < 0)
		return lfs_fail(error, errno == EACCES || errno == ENOENT || errno == ENODEV ? -ENOTSUP : -errno, "/dev/fuse: %s", strerror(errno));
	snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,max_read=%u%s", server->device,
		 geteuid(), getegid(), server->max_write, options->private_ ? "" : ",allow_other");
	if (mount(options->name, options->target, "fuse.layerfs", options->mount_flags, data) == 0)
		return 0;
	if (errno == EPERM && server->rights.uid) {
		lfs_close_fd(&server->device);
		server->device = LFS_NO_FD;
		server->by_program = true;
		return lfs_fusermount(server, error);
	}
	return lfs_fail(error, errno == ENODEV || errno == EPERM ? -ENOTSUP : -errno, "mounting at %s: %s", options->target, strerror(errno));
}

/* --- leaving the namespace: the other one is made before the mount, while the library writes down what is mounted; it takes as long --- */

static uint64_t namespace_of(int process)
{
	char text[64] = {0};
	if (readlinkat(process, "ns/mnt", text, sizeof text - 1) < 0)
		return 0;
	const char *number = strchr(text, '['); /* mnt:[4026531840] */
	return number ? strtoull(number + 1, NULL, 10) : 0;
}

/* Everything of the new namespace but an empty root is detached: it must not keep other people's mounts alive. */
static int empty_root(void)
{
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("layerfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "size=4k") < 0)
		return -errno;
	if (chdir("/proc") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return -errno;
	return 0;
}

/* Into the caller's namespace, with the root that we had in it. */
static int go_back(int back, int root)
{
	return setns(back, CLONE_NEWNS) < 0 || fchdir(root) < 0 || chroot(".") < 0 ? -errno : 0;
}

/* A new namespace is entered, made empty, and left again for `back`; there is none where that is not allowed. */
static int make_namespace(struct lfs_server *server, int self, int back, int root)
{
	if (unshare(CLONE_NEWNS) < 0)
		return 0;
	server->own_namespace = openat(self, "ns/mnt", O_RDONLY | O_CLOEXEC);
	if (server->own_namespace < 0 || empty_root() < 0) { /* a root that cannot be left (an initramfs): rather the caller's than a copy of all its mounts */
		lfs_close_fd(&server->own_namespace);
		server->own_namespace = LFS_NO_FD;
	}
	return go_back(back, root);
}

int lfs_namespace_make(struct lfs_server *server, struct lfs_error *error)
{
	server->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	LFS_AUTO_FD self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	LFS_AUTO_FD back = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	LFS_AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	server->namespace_id = self < 0 ? 0 : namespace_of(self);
	if (!server->namespace_id || back < 0 || root < 0 || go_back(back, root) < 0) /* tried while nothing depends on it */
		return 0;
	int rc = make_namespace(server, self, back, root);
	return rc < 0 ? lfs_fail(error, rc, "the way back to the caller's mount namespace: %s", strerror(-rc)) : 0;
}

void lfs_namespace_leave(struct lfs_server *server)
{
	if (server->own_namespace >= 0 && setns(server->own_namespace, CLONE_NEWNS) < 0) {
		lfs_close_fd(&server->own_namespace);
		server->own_namespace = LFS_NO_FD;
	}
	(void)!fchdir(server->upper.links);
}

/* --- back into it, to unmount --- */

static int open_namespace(const struct lfs_server *server)
{
	int copy = openat(server->proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = -ESRCH;
	DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	if (!stream) {
		lfs_close_fd(&copy);
		return -errno;
	}
	for (struct dirent *entry; found < 0 && (entry = readdir(stream));) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
			continue;
		LFS_AUTO_FD process = openat(server->proc, entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (process >= 0 && namespace_of(process) == server->namespace_id)
			found = openat(process, "ns/mnt", O_RDONLY | O_CLOEXEC);
	}
	closedir(stream);
	return found;
}

static int unmount_here(struct lfs_server *server, bool lazy)
{
	int rc = umount2(server->options.target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
	return rc < 0 && errno != EINVAL ? -errno : 0; /* EINVAL: somebody was faster */
}

int lfs_unmount(struct lfs_server *server, bool lazy)
{
	if (server->by_program)
		return lfs_fusermount_undo(server, lazy);
	if (server->own_namespace < 0) /* never left */
		return unmount_here(server, lazy);
	LFS_AUTO_FD namespace = open_namespace(server);
	if (namespace < 0)
		return namespace;
	if (unshare(CLONE_FS) < 0 || setns(namespace, CLONE_NEWNS) < 0)
		return -errno;
	int rc = unmount_here(server, lazy);
	setns(server->own_namespace, CLONE_NEWNS); /* a thread that stayed would keep the caller's alive */
	(void)!fchdir(server->upper.links);
	return rc;
}
