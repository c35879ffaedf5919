/* What the new namespaces need: cgroups joined before anything else runs, a name, a loopback, a keyring. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/keyctl.h>

#include "run.h"

/* A cgroup.procs file, or (version 1) the `tasks` beside it: we are a single thread, and to move the writer's own thread
 * is the one move for which the kernel does not hold up every fork and exit of the machine: 0.03 ms instead of about 10,
 * an RCU grace period. */
static int open_members(const char *procs)
{
	char tasks[PATH_MAX];
	const char *slash = strrchr(procs, '/');
	int length = slash ? (int)(slash - procs) : 0;
	if (snprintf(tasks, sizeof(tasks), "%.*s/tasks", length, procs) < (int)sizeof(tasks)) {
		int file = open(tasks, O_WRONLY | O_CLOEXEC);
		if (file >= 0 || errno != ENOENT)
			return file;
	}
	return open(procs, O_WRONLY | O_CLOEXEC);
}

static int join(const char *procs)
{
	LFS_AUTO_FD file = open_members(procs);
	if (file < 0)
		return -errno;
	return write(file, "0", 1) < 0 ? -errno : 0; /* 0: the writer itself */
}

int lfs_cgroups_enter(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	for (size_t i = 0; i < spec->cgroup_count; i++) {
		int rc = join(spec->cgroups[i]);
		if (rc < 0)
			return lfs_failed(failure, LFS_STAGE_CGROUP, rc, "joining the cgroup \"%s\"", spec->cgroups[i]);
	}
	return 0;
}

/* The cgroup namespace comes after: its root is the cgroup one is in when it is made. */
int lfs_cgroup_namespace_make(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (spec->namespaces & CLONE_NEWCGROUP && unshare(CLONE_NEWCGROUP) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "making the cgroup namespace");
	return 0;
}

static int loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	LFS_AUTO_FD sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	return ioctl(sock, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/* A session keyring of its own: keys of the caller's session are not the container's. */
int lfs_keyring_new(struct lfs_failure *failure)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "joining a new session keyring");
	return 0;
}

int lfs_names_set(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (spec->hostname && sethostname(spec->hostname, strlen(spec->hostname)) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "setting the host name \"%s\"", spec->hostname);
	int rc = spec->namespaces & CLONE_NEWNET ? loopback_up() : 0;
	if (rc < 0 && rc != -EAFNOSUPPORT)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, rc, "bringing up the loopback interface");
	return lfs_keyring_new(failure);
}
