/* layerfs-run: see run.h for what it is given and what it answers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "monitor.h"

enum { EXIT_NOT_STARTED = 125 };

static bool to_number(const char *text, int *number)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	*number = (int)value;
	return errno == 0 && end != text && *end == '\0' && value >= 0 && value < INT32_MAX;
}

static int give_up(int control, const struct lfs_failure *failure)
{
	uint8_t packet[512];
	size_t size = lfs_packet_failed(failure, packet, sizeof packet);
	send(control, packet, size, MSG_NOSIGNAL);
	return EXIT_NOT_STARTED;
}

/* A pidfd of the caller; when it is not our parent any more it has died already. */
static int watch_caller(int caller)
{
	int fd = (int)syscall(SYS_pidfd_open, caller, 0);
	if (fd < 0)
		return -errno;
	if (getppid() == caller)
		return fd;
	close(fd);
	return -ESRCH;
}

/* The streams are the container's: the helper must not keep a pipe open that the container has closed. */
static void let_streams_go(void)
{
	LFS_AUTO_FD null = open("/dev/null", O_RDWR | O_CLOEXEC);
#ifdef __SANITIZE_ADDRESS__
	int last = 1;
#else
	int last = 2;
#endif
	for (int fd = 0; fd <= last; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
}

static int make_channels(const struct lfs_spec *spec, struct lfs_launch *launch, struct lfs_supervisor *self)
{
	int report[2], console[2] = { -1, -1 };
	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	self->report = report[0];
	launch->report = report[1];
	if (spec->terminal && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, console) < 0)
		return -errno;
	self->console = console[0];
	launch->console = console[1];
	return 0;
}

/* Its children become ours; it has started the program when it returns. */
static pid_t spawn_by_other(const struct lfs_spec *spec, struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (int fd = 0; fd <= 2; fd++)
		launch->streams[fd] = fd;
	return lfs_oci_spawn(spec, launch, pidfd, failure);
}

static int start(const struct lfs_spec *spec, struct lfs_supervisor *self, struct lfs_failure *failure)
{
	struct lfs_launch launch = { -1, -1, { -1, -1, -1 }, -1, NULL };
	int rc = make_channels(spec, &launch, self);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, rc, "making a pipe");
	if (spec->join_pid && (launch.target = lfs_join_pids(spec, failure)) < 0)
		return launch.target;
	rc = lfs_namespaces_enter(spec, true, failure);
	if (rc < 0)
		return rc;
	self->pid = spec->runtime_count ? spawn_by_other(spec, &launch, &self->pidfd, failure)
		: lfs_container_spawn(spec, &launch, &self->pidfd, failure);
	lfs_close_fd(&launch.report);
	lfs_close_fd(&launch.console);
	lfs_close_fd(&launch.target);
	return self->pid < 0 ? self->pid : 0;
}

static int run(int spec_fd, struct lfs_supervisor *self)
{
	struct lfs_spec spec;
	struct lfs_failure failure = { 0 };
	int rc = lfs_spec_read(spec_fd, &spec, &failure);
	close(spec_fd);
	if (rc == 0)
		rc = start(&spec, self, &failure);
	lfs_spec_free(&spec);
	if (rc < 0)
		return give_up(self->control, &failure);
	let_streams_go();
	return lfs_supervise(self);
}

/* Closes what other threads of the caller may have leaked into this process. An absent standard stream becomes
 * /dev/null, so that no descriptor of ours takes its number and reaches the container. */
static int keep_only(int one, int other)
{
	unsigned low = (unsigned)(one < other ? one : other), high = (unsigned)(one < other ? other : one);
	if (low < 3 || low == high)
		return -EBADF;
	if (low > 3)
		lfs_sys_close_range(3, low - 1, false);
	if (high > low + 1)
		lfs_sys_close_range(low + 1, high - 1, false);
	lfs_sys_close_range(high + 1, ~0u, false);
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return -EBADF;
	lfs_sys_close_range(3, ~0u, true);
	return 0;
}

int main(int count, char **words)
{
	signal(SIGCHLD, SIG_DFL); /* who ignores it hands that on, and then the kernel tells of no end */
	if (count > 1 && strcmp(words[1], "monitor") == 0)
		return lfs_monitor_main(count, words);
	int only;
	if (count == 3 && strcmp(words[1], "namespaces") == 0 && to_number(words[2], &only))
		return lfs_namespaces_main(only);
	struct lfs_supervisor self = { .pidfd = -1, .report = -1, .console = -1, .control = -1, .caller = -1, .signals = -1,
		.terminal = -1 };
	int spec_fd, caller;
	if (count != 4 || !to_number(words[1], &spec_fd) || !to_number(words[2], &self.control) || !to_number(words[3], &caller)) {
		fputs("layerfs-run is started by layerfs; it takes SPEC_FD CONTROL_FD CALLER_PID\n", stderr);
		return EXIT_NOT_STARTED;
	}
	if (keep_only(spec_fd, self.control) < 0)
		return EXIT_NOT_STARTED;
	if (caller == 0) { /* nobody's child */
		pid_t child = fork();
		if (child != 0)
			_exit(child < 0 ? EXIT_NOT_STARTED : 0);
		self.detached = true;
	}
	setsid(); /* a terminal's Ctrl-C is for the caller, who passes it on */
	self.caller = self.detached ? -1 : watch_caller(caller);
	self.signals = lfs_sys_watch_signals(0);
	if ((self.caller < 0 && !self.detached) || self.signals < 0)
		return EXIT_NOT_STARTED;
	return run(spec_fd, &self);
}
