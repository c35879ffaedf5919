/* Entering a container that runs: `exec` and health probes. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

/* A pidfd of the container's PID 1, proved by its start time to be that process. */
static int open_target(const struct lfs_spec *spec)
{
	LFS_AUTO_FD fd = (int)syscall(SYS_pidfd_open, spec->join_pid, 0);
	if (fd < 0)
		return -errno;
	if (lfs_start_ticks((pid_t)spec->join_pid) != spec->join_start)
		return -ESRCH;
	return lfs_steal_fd(&fd);
}

/* In the helper: its children are born in the container's PID namespace; it stays outside itself. Owned pidfd or -errno. */
int lfs_join_pids(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	LFS_AUTO_FD target = open_target(spec);
	if (target < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, target, "finding the container's process %u", spec->join_pid);
	if (setns(target, CLONE_NEWPID) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "entering the container");
	return lfs_steal_fd(&target);
}

/* In the child. Not dumpable first: until the exec a process of the container must neither trace it nor look at its
 * descriptors (CVE-2016-9962). */
int lfs_join_rest(const struct lfs_spec *spec, int target, struct lfs_failure *failure)
{
	int rc = lfs_cgroups_enter(spec, failure);
	if (rc < 0)
		return rc;
	rc = lfs_oom_score_set(spec, failure);
	if (rc < 0)
		return rc;
	rc = lfs_limits_set(spec, failure); /* a user namespace's root could not raise them */
	if (rc < 0)
		return rc;
	bool foreign = lfs_userns_foreign((pid_t)spec->join_pid);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "hiding from the container");
	if (setns(target, (int)((spec->namespaces & ~(uint32_t)CLONE_NEWPID) | (foreign ? CLONE_NEWUSER : 0))) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "entering the container");
	rc = foreign ? lfs_userns_settle(failure) : 0;
	return rc < 0 ? rc : lfs_keyring_new(failure);
}
