/* Resource limits and the user: after this the process is the container's user. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

/* While /proc is the host's. */
int lfs_oom_score_set(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (!spec->oom_score)
		return 0;
	LFS_AUTO_FD file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (file < 0 || dprintf(file, "%d", spec->oom_score) < 0)
		return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "setting the OOM score to %d", spec->oom_score);
	return 0;
}

int lfs_limits_set(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	for (size_t i = 0; i < spec->limit_count; i++) {
		const struct lfs_limit *limit = &spec->limits[i];
		struct rlimit value = { .rlim_cur = limit->soft, .rlim_max = limit->hard };
		if (setrlimit((int)limit->resource, &value) < 0)
			return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "setting the resource limit %u", limit->resource);
	}
	return 0;
}

/* The raw calls, since this process has one thread and the C library's would look for others. */
int lfs_identity_become(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (syscall(SYS_setgroups, spec->group_count, spec->groups) < 0)
		return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "setting the groups");
	if (syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0)
		return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "becoming group %u", spec->gid);
	if (syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid) < 0)
		return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "becoming user %u", spec->uid);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* a change of user cleared it */
	return 0;
}
