/* PID 1 of the container, from its birth to the exec of the program. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

/* Dies with the supervisor, also when that one was gone before the kernel was told. */
static int follow_supervisor(int report)
{
	struct pollfd gone = { .fd = report, .events = 0 };
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	return poll(&gone, 1, 0) > 0 && gone.revents & POLLERR ? -EPIPE : 0;
}

static int take_streams(const struct lfs_launch *launch)
{
	for (int fd = 0; fd <= 2; fd++)
		if (launch->streams[fd] >= 0 && dup2(launch->streams[fd], fd) < 0)
			return -errno;
	return 0;
}

/* A directory as standard stream would be a door to the host (fchdir(0), openat(0, "..")). */
static int check_streams(struct lfs_failure *failure)
{
	struct stat info;
	for (int fd = 0; fd <= 2; fd++)
		if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode))
			return lfs_failed(failure, LFS_STAGE_NAMESPACE, -EISDIR, "standard stream %d is a directory of the host", fd);
	return 0;
}

static int build_root(const struct lfs_spec *spec, const struct lfs_launch *launch, struct lfs_failure *failure)
{
	struct lfs_scene scene;
	umask(0);
	int rc = lfs_scene_open(&scene, spec, launch->trees, failure);
	if (rc == 0)
		rc = lfs_steps_perform(&scene, spec, failure);
	if (rc == 0)
		rc = lfs_workdir_make(scene.root, spec->workdir, failure);
	if (rc == 0)
		rc = lfs_scene_enter(&scene, spec->options & LFS_OPTION_READ_ONLY, failure);
	umask(022);
	return rc; /* the scene's descriptors close at exec, or with this process */
}

static int no_new_privs(struct lfs_failure *failure)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return lfs_failed(failure, LFS_STAGE_CAPABILITIES, -errno, "setting no_new_privs");
	return 0;
}

/* Root may enter directories that the user may not, so the directory is entered first; where even root may not (a FUSE
 * mount of the user's own), once more as the user. */
static int become_user(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	bool late_filter = spec->options & LFS_OPTION_NO_NEW_PRIVS;
	int rc = lfs_limits_set(spec, failure);
	int entered = rc == 0 ? lfs_workdir_enter(spec->workdir, failure) : rc;
	if (rc == 0 && entered < 0 && entered != -EACCES)
		rc = entered;
	if (rc == 0 && !late_filter)
		rc = lfs_seccomp_install(spec, failure);
	if (rc == 0)
		rc = lfs_capabilities_bound(spec->capabilities, failure);
	if (rc == 0)
		rc = lfs_identity_become(spec, failure);
	if (rc == 0)
		rc = lfs_capabilities_set(spec, failure);
	if (rc == 0 && entered < 0)
		rc = lfs_workdir_enter(spec->workdir, failure);
	if (rc == 0 && late_filter)
		rc = no_new_privs(failure);
	if (rc == 0 && late_filter)
		rc = lfs_seccomp_install(spec, failure);
	return rc;
}

/* What a process in a user namespace cannot do any more; there the one before has done it. */
static int leave_host(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	int rc = lfs_namespaces_enter(spec, false, failure);
	if (rc == 0)
		rc = lfs_cgroups_enter(spec, failure);
	if (rc == 0)
		rc = lfs_oom_score_set(spec, failure);
	return rc == 0 ? lfs_clocks_set(spec, failure) : rc;
}

static int make_container(const struct lfs_spec *spec, const struct lfs_launch *launch, struct lfs_failure *failure)
{
	int rc = lfs_userns_own(spec) ? 0 : leave_host(spec, failure);
	if (rc == 0)
		rc = lfs_cgroup_namespace_make(spec, failure);
	if (rc == 0)
		rc = lfs_names_set(spec, failure);
	return rc == 0 ? build_root(spec, launch, failure) : rc;
}

static int set_up(const struct lfs_spec *spec, const struct lfs_launch *launch, struct lfs_failure *failure)
{
	lfs_sys_reset_signals();
	setsid(); /* no controlling terminal of the host: nothing can be typed into it */
	int rc = follow_supervisor(launch->report);
	if (rc == 0)
		rc = take_streams(launch);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, rc, "taking the standard streams");
	rc = check_streams(failure);
	if (rc == 0)
		rc = spec->join_pid ? lfs_join_rest(spec, launch->target, failure) : make_container(spec, launch, failure);
	umask(022);
	if (rc == 0 && spec->terminal)
		rc = lfs_terminal_open(spec, launch->console, !spec->join_pid, failure);
	return rc;
}

void lfs_container_main(const struct lfs_spec *spec, const struct lfs_launch *launch)
{
	struct lfs_failure failure = { 0 };
	uint8_t packet[512];
	int rc = set_up(spec, launch, &failure);
	if (rc == 0)
		rc = become_user(spec, &failure);
	if (rc == 0 && spec->options & LFS_OPTION_INIT)
		rc = lfs_init_split(spec, &failure);
	if (rc == 0)
		lfs_command_exec(spec, &failure);
	size_t size = lfs_packet_failed(&failure, packet, sizeof packet);
	if (write(launch->report, packet, size) < 0)
		_exit(125);
	_exit(125);
}
