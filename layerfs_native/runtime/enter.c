/* Namespaces that are not the container's own: those of another container, or made before it, by their files; mounts of
 * another container; and the clocks of a time namespace. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "run.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static int enter(const struct lfs_entered *entered, struct lfs_failure *failure)
{
	LFS_AUTO_FD file = open(entered->path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "opening the namespace \"%s\"", entered->path);
	if (setns(file, (int)entered->type) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "entering the namespace \"%s\"", entered->path);
	return 0;
}

/* In the parent: what only its children are in. `pids`: that of processes; else the others, in the child. */
int lfs_namespaces_enter(const struct lfs_spec *spec, bool pids, struct lfs_failure *failure)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < spec->entered_count; i++)
		if (spec->entered[i].type != CLONE_NEWUSER && (spec->entered[i].type == CLONE_NEWPID) == pids)
			rc = enter(&spec->entered[i], failure);
	return rc;
}

static int copy_in_here(const char *path)
{
	LFS_AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	LFS_AUTO_FD found = lfs_sys_open_in(root, path, O_PATH | O_DIRECTORY, true);
	return found < 0 ? found : lfs_sys_open_tree(found, "", false);
}

/* setns took us to that namespace's root; ours may have been another directory (chroot). */
static int come_back(int own, int root, int here)
{
	return setns(own, CLONE_NEWNS) < 0 || fchdir(root) < 0 || chroot(".") < 0 || fchdir(here) < 0 ? -errno : 0;
}

int lfs_foreign_tree(const char *namespace, const char *path)
{
	LFS_AUTO_FD own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	LFS_AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	LFS_AUTO_FD here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	LFS_AUTO_FD there = open(namespace, O_RDONLY | O_CLOEXEC);
	if (own < 0 || root < 0 || here < 0 || there < 0 || setns(there, CLONE_NEWNS) < 0)
		return -errno;
	LFS_AUTO_FD tree = copy_in_here(path);
	int rc = come_back(own, root, here);
	return tree < 0 || rc == 0 ? lfs_steal_fd(&tree) : rc;
}

/* In the child, while /proc is the host's: a time namespace counts for who comes after, so this one joins it by hand. */
int lfs_clocks_set(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (!spec->clock_count)
		return 0;
	if (unshare(CLONE_NEWTIME) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "making the time namespace");
	LFS_AUTO_FD offsets = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	if (offsets < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "opening the clocks' offsets");
	for (size_t i = 0; i < spec->clock_count; i++)
		if (dprintf(offsets, "%u %lld 0\n", spec->clocks[i].clock, (long long)spec->clocks[i].seconds) < 0)
			return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "setting a clock %lld seconds off",
				(long long)spec->clocks[i].seconds);
	LFS_AUTO_FD made = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	if (made < 0 || setns(made, CLONE_NEWTIME) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "entering the time namespace");
	return 0;
}
