/* A container with a user namespace: its root is an ordinary user of the host.
 *
 * What only the host's root may do (join cgroups, take mounts, show them with other ids) is done by a process in between,
 * which then enters the namespace and makes the container's first process as a sibling (CLONE_PARENT), so that all the
 * container's namespaces belong to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/nsfs.h>

#include "run.h"

enum { MAP_TEXT = 16384, NO_ID = 65534 };

bool lfs_userns_own(const struct lfs_spec *spec)
{
	return spec->uid_map_count && !spec->join_pid;
}

uint32_t lfs_userns_outside(const struct lfs_range *map, size_t count, uint32_t id)
{
	for (size_t i = 0; i < count; i++)
		if (id >= map[i].inside && id - map[i].inside < map[i].size)
			return map[i].outside + (id - map[i].inside);
	return count ? NO_ID : id;
}

static int write_map(pid_t pid, const char *name, const struct lfs_range *map, size_t count)
{
	char path[64], text[MAP_TEXT];
	size_t used = 0;
	for (size_t i = 0; i < count && used < sizeof text; i++)
		used += (size_t)snprintf(text + used, sizeof text - used, "%u %u %u\n", map[i].inside, map[i].outside, map[i].size);
	if (used >= sizeof text)
		return -E2BIG;
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	LFS_AUTO_FD file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0)
		return -errno;
	return write(file, text, used) < 0 ? -errno : 0; /* the kernel takes it in one piece or not at all */
}

static int open_of(pid_t pid, const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A process that sleeps in a new user namespace with the spec's maps (and in other new namespaces of it); -errno. */
static pid_t make_holder(const struct lfs_spec *spec, uint64_t others)
{
	LFS_AUTO_FD pidfd = -1;
	pid_t holder = lfs_sys_clone(CLONE_NEWUSER | others, &pidfd);
	if (holder == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			pause();
	}
	if (holder < 0)
		return holder;
	int rc = write_map(holder, "uid_map", spec->uid_map, spec->uid_map_count);
	if (rc == 0)
		rc = write_map(holder, "gid_map", spec->gid_map, spec->gid_map_count);
	if (rc == 0)
		return holder;
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	return rc;
}

/* The one that a namespace belongs to which was made before (a network's). */
static int owner_of(const char *path)
{
	LFS_AUTO_FD file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -errno;
	int fd = ioctl(file, NS_GET_USERNS);
	return fd < 0 ? -errno : fd;
}

int lfs_userns_open(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	for (size_t i = 0; i < spec->entered_count; i++)
		if (spec->entered[i].type == CLONE_NEWUSER) {
			int fd = owner_of(spec->entered[i].path);
			return fd < 0 ? lfs_failed(failure, LFS_STAGE_NAMESPACE, fd, "opening the owner of \"%s\"", spec->entered[i].path) : fd;
		}
	pid_t holder = make_holder(spec, 0);
	if (holder < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, holder, "making the user namespace");
	int fd = open_of(holder, "user");
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	return fd < 0 ? lfs_failed(failure, LFS_STAGE_NAMESPACE, fd, "opening the user namespace") : fd;
}

static int take_mounts(const struct lfs_spec *spec, int users, struct lfs_trees *trees, struct lfs_failure *failure)
{
	trees->binds = calloc(spec->step_count + 1, sizeof *trees->binds);
	if (!trees->binds)
		return lfs_failed(failure, LFS_STAGE_MOUNT, -ENOMEM, "taking the mounts");
	LFS_AUTO_FD root = lfs_sys_open_tree(AT_FDCWD, spec->root, true);
	int rc = root < 0 ? root : lfs_sys_set_mount(root, "", true, 0, MS_PRIVATE);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, rc, "opening the root \"%s\"", spec->root);
	rc = lfs_sys_map_mount(root, users);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_ROOT, rc, "showing the root with the ids of the user namespace "
			"(it takes the engine native and Linux 6.12)");
	trees->root = lfs_steal_fd(&root);
	for (size_t i = 0; i < spec->step_count; i++) {
		const struct lfs_step *step = &spec->steps[i];
		trees->binds[i] = step->kind == LFS_STEP_BIND ? lfs_bind_take(step, users) : -1;
		if (step->kind == LFS_STEP_BIND && trees->binds[i] < 0)
			return lfs_failed(failure, LFS_STAGE_MOUNT, trees->binds[i], "mounting \"%s\" to rootfs at \"%s\"", step->source,
				step->target);
	}
	return 0;
}

/* From no id of the namespace's to its root, with all its capabilities. */
int lfs_userns_settle(struct lfs_failure *failure)
{
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
		return lfs_failed(failure, LFS_STAGE_IDENTITY, -errno, "becoming the user namespace's root");
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	return 0;
}

static int prepare(const struct lfs_spec *spec, struct lfs_trees *trees, struct lfs_failure *failure)
{
	int rc = lfs_cgroups_enter(spec, failure);
	if (rc == 0)
		rc = lfs_oom_score_set(spec, failure);
	if (rc == 0)
		rc = lfs_limits_set(spec, failure);
	if (rc == 0)
		rc = lfs_clocks_set(spec, failure);
	if (rc == 0)
		rc = lfs_namespaces_enter(spec, false, failure);
	if (rc < 0)
		return rc;
	LFS_AUTO_FD users = lfs_userns_open(spec, failure);
	if (users < 0)
		return users;
	rc = take_mounts(spec, users, trees, failure);
	if (rc < 0)
		return rc;
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || setns(users, CLONE_NEWUSER) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "entering the user namespace");
	return lfs_userns_settle(failure);
}

struct answer {
	pid_t pid;
	struct lfs_failure failure;
};

__attribute__((noreturn)) static void go_between(const struct lfs_spec *spec, const struct lfs_launch *launch, int sock)
{
	struct answer answer = { 0 };
	struct lfs_trees trees = { -1, NULL };
	struct lfs_launch mine = *launch;
	int pidfd;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (prepare(spec, &trees, &answer.failure) == 0) {
		mine.trees = &trees;
		answer.pid = lfs_sys_clone((spec->namespaces & ~(uint64_t)CLONE_NEWCGROUP) | CLONE_PARENT, &pidfd);
		if (answer.pid == 0)
			lfs_container_main(spec, &mine);
		if (answer.pid < 0)
			lfs_failed(&answer.failure, LFS_STAGE_NAMESPACE, answer.pid, "making the namespaces");
	}
	if (write(sock, &answer, sizeof answer) < 0)
		_exit(125);
	_exit(0);
}

static pid_t spawn_mapped(const struct lfs_spec *spec, const struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure)
{
	int ends[2];
	struct answer answer = { 0 };
	if (pipe2(ends, O_CLOEXEC) < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "making a pipe");
	LFS_AUTO_FD ours = ends[0], theirs = ends[1];
	pid_t between = fork();
	if (between == 0)
		go_between(spec, launch, theirs);
	close(lfs_steal_fd(&theirs));
	ssize_t got = between < 0 ? -1 : read(ours, &answer, sizeof answer);
	while (between > 0 && waitpid(between, NULL, 0) < 0 && errno == EINTR)
		;
	if (got != (ssize_t)sizeof answer)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -ECHILD, "making the user namespace");
	if (answer.failure.stage) {
		*failure = answer.failure;
		return -failure->error;
	}
	*pidfd = (int)syscall(SYS_pidfd_open, answer.pid, 0); /* a child that nobody has reaped: no other has its number */
	return *pidfd < 0 ? lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "opening the container's process") : answer.pid;
}

pid_t lfs_container_spawn(const struct lfs_spec *spec, const struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure)
{
	if (lfs_userns_own(spec))
		return spawn_mapped(spec, launch, pidfd, failure);
	uint64_t namespaces = spec->join_pid ? 0 : spec->namespaces & ~(uint32_t)CLONE_NEWCGROUP; /* that one after joining the cgroup */
	pid_t pid = lfs_sys_clone(namespaces, pidfd);
	if (pid == 0)
		lfs_container_main(spec, launch);
	return pid < 0 ? lfs_failed(failure, LFS_STAGE_NAMESPACE, pid, "making the namespaces") : pid;
}

/* Whether the process has a user namespace that is not ours. */
bool lfs_userns_foreign(pid_t pid)
{
	struct stat ours, theirs;
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	return stat("/proc/self/ns/user", &ours) == 0 && stat(path, &theirs) == 0
		&& (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev);
}

/* layerfs-run namespaces SPEC_FD: a network namespace in a user namespace with the spec's maps. Says the pid of who is
 * in it, and keeps it until stdin ends: by then the caller has a hold of its own. */
int lfs_namespaces_main(int spec_fd)
{
	struct lfs_spec spec;
	struct lfs_failure failure = { 0 };
	char byte;
	int rc = lfs_spec_read(spec_fd, &spec, &failure);
	pid_t holder = rc < 0 ? rc : make_holder(&spec, CLONE_NEWNET);
	lfs_spec_free(&spec);
	if (holder < 0) {
		fprintf(stderr, "%s\n", strerror(-holder));
		return 125;
	}
	dprintf(STDOUT_FILENO, "%d\n", holder);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	return 0;
}
