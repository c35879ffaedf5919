/* System calls that the C library may not know, each with a plain -errno result. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "run.h"

#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif

static int checked(long result)
{
	return result < 0 ? -errno : (int)result;
}

/* fork() into new namespaces: 0 in the child, the pid in the parent. */
int lfs_sys_clone(uint64_t flags, int *pidfd)
{
	struct clone_args arguments = {
		.flags = flags | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD, /* a sibling has the caller's own */
	};
	return checked(syscall(SYS_clone3, &arguments, sizeof arguments));
}

int lfs_sys_open_in(int root, const char *path, uint64_t flags, bool strict)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (strict ? RESOLVE_NO_SYMLINKS : 0),
	};
	int fd;
	do /* EAGAIN: something was renamed while ".." was resolved */
		fd = checked(syscall(SYS_openat2, root, path, &how, sizeof how));
	while (fd == -EAGAIN);
	return fd;
}

int lfs_sys_open_tree(int dir, const char *path, bool recursive)
{
	unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0) | (*path ? 0 : AT_EMPTY_PATH);
	return checked(syscall(SYS_open_tree, dir, path, flags));
}

static int configure(int fs, char *option)
{
	char *value = strchr(option, '=');
	if (value)
		*value++ = '\0';
	unsigned command = value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
	return checked(syscall(SYS_fsconfig, fs, command, option, value, 0));
}

static int configure_all(int fs, const char *source, const char *options)
{
	int rc = *source ? checked(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", source, 0)) : 0;
	char *copy = strdup(options), *rest = NULL;
	if (!copy)
		return -ENOMEM;
	for (char *option = strtok_r(copy, ",", &rest); rc == 0 && option; option = strtok_r(NULL, ",", &rest))
		rc = configure(fs, option);
	free(copy);
	return rc < 0 ? rc : checked(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
}

int lfs_sys_new_mount(const char *type, const char *source, const char *options, uint64_t attributes)
{
	LFS_AUTO_FD fs = checked(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
	if (fs < 0)
		return fs;
	int rc = configure_all(fs, source, options);
	if (rc < 0)
		return rc;
	return checked(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, (unsigned)attributes));
}

int lfs_sys_attach(int mount, int target)
{
	return checked(syscall(SYS_move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

int lfs_sys_set_mount(int dir, const char *path, bool recursive, uint64_t attributes, uint64_t propagation)
{
	struct mount_attr how = { .attr_set = attributes, .propagation = propagation };
	unsigned flags = (recursive ? AT_RECURSIVE : 0) | (*path ? 0 : AT_EMPTY_PATH);
	return checked(syscall(SYS_mount_setattr, dir, path, flags, &how, sizeof how));
}

int lfs_sys_clear_mount(int mount, uint64_t attributes)
{
	struct mount_attr how = { .attr_clr = attributes };
	return checked(syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &how, sizeof how));
}

int lfs_sys_map_mount(int mount, int users)
{
	struct mount_attr how = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)users };
	return checked(syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &how, sizeof how));
}

/* The current directory becomes the root, and the old root is let go with all that is mounted in it. */
int lfs_sys_pivot_here(void)
{
	int rc = checked(syscall(SYS_pivot_root, ".", "."));
	if (rc < 0)
		return rc;
	return checked(syscall(SYS_umount2, ".", MNT_DETACH)); /* "." is the old root, stacked on the new one */
}

int lfs_sys_watch_signals(int flags)
{
	sigset_t all;
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGABRT);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		return -errno;
	int fd = signalfd(-1, &all, SFD_CLOEXEC | flags);
	return fd < 0 ? -errno : fd;
}

int lfs_sys_poll(struct pollfd *events, size_t count, int timeout)
{
	while (count && events[count - 1].fd < 0)
		events[--count].revents = 0;
	return poll(events, count, timeout);
}

void lfs_sys_close_range(unsigned first, unsigned last, bool on_exec_only)
{
	syscall(SYS_close_range, first, last, on_exec_only ? CLOSE_RANGE_CLOEXEC : 0);
}

/* The program starts with default signals: a caller that ignores some (nohup) does not hand that on.
 * By the raw call, since libc keeps signals 32 and 33 to itself. */
void lfs_sys_reset_signals(void)
{
	static const struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} normal; /* the kernel's struct sigaction: all zero is SIG_DFL */
	sigset_t none;
	for (int number = 1; number < NSIG; number++)
		syscall(SYS_rt_sigaction, number, &normal, NULL, sizeof(normal.mask));
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}
