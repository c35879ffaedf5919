/* The life of the monitored program: started, signalled, ended, started again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { DELAY_FIRST = 100, DELAY_MOST = 60000, LASTED_MS = 10000, PIPE_BYTES = 1 << 20 };

static void close_all(int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(lfs_steal_fd(&fds[i]));
}

/* A pipe whose end `ours` does not block. The program's end belongs to its user, as it does with runc, so that
 * /dev/stdout can be opened. */
static int make_pipe(struct lfs_monitor *self, int *theirs, int *ours, bool to_program)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	*theirs = ends[to_program ? 0 : 1];
	*ours = ends[to_program ? 1 : 0];
	if (!to_program)
		fcntl(*ours, F_SETPIPE_SZ, PIPE_BYTES);
	uid_t user = lfs_userns_outside(self->spec.uid_map, self->spec.uid_map_count, self->spec.uid);
	gid_t group = lfs_userns_outside(self->spec.gid_map, self->spec.gid_map_count, self->spec.gid);
	if (fchown(*theirs, user, group) < 0 && errno != EPERM)
		return -errno;
	return fcntl(*ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int make_streams(struct lfs_monitor *self, int theirs[3])
{
	bool open_input = self->spec.monitor_flags & LFS_MONITOR_STDIN;
	if (self->spec.terminal)
		return 0;
	int rc = open_input ? make_pipe(self, &theirs[0], &self->input, true) : 0;
	if (!open_input && (theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		rc = -errno;
	if (rc == 0)
		rc = make_pipe(self, &theirs[1], &self->output[0], false);
	return rc == 0 ? make_pipe(self, &theirs[2], &self->output[1], false) : rc;
}

static int make_channels(struct lfs_monitor *self, struct lfs_launch *launch)
{
	int report[2], console[2] = { -1, -1 };
	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	launch->report = report[1];
	self->report = report[0];
	if (self->spec.terminal && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, console) < 0)
		return -errno;
	self->console = console[0];
	launch->console = console[1];
	return make_streams(self, launch->streams);
}

static void clear(struct lfs_monitor *self)
{
	if (self->input == self->output[0])
		self->input = -1;
	close_all(self->output, 2);
	lfs_streams_close(self);
	close_all((int[]){ self->report, self->console, self->pidfd }, 3);
	self->report = self->console = self->pidfd = -1;
	self->lines[0].size = self->lines[1].size = 0;
}

int lfs_program_start(struct lfs_monitor *self)
{
	struct lfs_launch launch = { -1, -1, { -1, -1, -1 }, -1, NULL };
	self->failure = (struct lfs_failure){ 0 };
	self->phase = LFS_PHASE_STARTING;
	int rc = make_channels(self, &launch);
	if (rc == 0)
		rc = lfs_namespaces_enter(&self->spec, true, &self->failure);
	if (rc == 0) {
		self->pid = self->spec.runtime_count ? lfs_oci_spawn(&self->spec, &launch, &self->pidfd, &self->failure)
			: lfs_container_spawn(&self->spec, &launch, &self->pidfd, &self->failure);
		rc = self->pid < 0 ? self->pid : 0;
	}
	close_all((int[]){ launch.report, launch.console, launch.streams[0], launch.streams[1], launch.streams[2] }, 5);
	if (rc < 0) {
		if (!self->failure.stage)
			lfs_failed(&self->failure, LFS_STAGE_NAMESPACE, rc, "making the namespaces");
		self->pid = -1;
		clear(self);
	}
	return rc;
}

static void take_terminal(struct lfs_monitor *self)
{
	int master = lfs_terminal_receive(self->console);
	if (master < 0)
		return;
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
	self->input = self->output[0] = master;
	if (self->rows || self->columns)
		lfs_program_resize(self, self->rows, self->columns);
}

/* The exec has happened (the pipe ends), or has failed. Called before the program is reaped, so /proc knows it. */
void lfs_program_report(struct lfs_monitor *self)
{
	uint8_t packet[512];
	ssize_t got = read(self->report, packet, sizeof packet);
	if (got < 0 && errno == EINTR)
		return;
	close(lfs_steal_fd(&self->report));
	if (got > 9) {
		uint32_t numbers[2];
		memcpy(numbers, packet + 1, sizeof numbers);
		lfs_failed(&self->failure, numbers[0], -(int)numbers[1], "%.*s", (int)(got - 9), (char *)packet + 9);
		return; /* its end follows */
	}
	if (got < 0)
		return;
	self->start_ticks = lfs_start_ticks(self->pid);
	self->phase = LFS_PHASE_RUNNING;
	self->was_started = true;
	self->started_at = lfs_now_ms();
	clock_gettime(CLOCK_REALTIME, &self->started);
	if (self->spec.terminal)
		take_terminal(self);
	lfs_health_begin(self);
	lfs_status_write(self);
	lfs_event(self, "start", NULL, NULL);
	lfs_clients_tell(self, 'B', (uint32_t[]){ (uint32_t)self->pid }, 1, self->pidfd);
	if (self->stopped)
		lfs_program_signal(self, SIGKILL); /* stopped while it was being started */
}

void lfs_program_signal(struct lfs_monitor *self, int number)
{
	if (self->pidfd >= 0 && self->phase == LFS_PHASE_RUNNING)
		syscall(SYS_pidfd_send_signal, self->pidfd, number, NULL, 0);
}

void lfs_program_stop(struct lfs_monitor *self, int number, int32_t milliseconds)
{
	self->stopped = self->stopped_by_user = true;
	if (self->phase == LFS_PHASE_RESTARTING) {
		self->restart_at = 0;
		self->phase = LFS_PHASE_EXITED;
		return;
	}
	lfs_program_signal(self, number);
	self->kill_at = milliseconds < 0 ? 0 : lfs_now_ms() + milliseconds + (milliseconds == 0);
}

void lfs_program_resize(struct lfs_monitor *self, uint16_t rows, uint16_t columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };
	self->rows = rows;
	self->columns = columns;
	if (!self->spec.terminal || self->input < 0 || ioctl(self->input, TIOCSWINSZ, &size) < 0)
		return;
	char both[48]; /* docker's two attributes, as one that holds the other */
	snprintf(both, sizeof both, "%u\",\"width\":\"%u", rows, columns);
	lfs_event(self, "resize", "height", both);
}

static bool wants_restart(const struct lfs_monitor *self)
{
	if (self->stopped)
		return false;
	if (self->spec.restart == LFS_RESTART_ON_FAILURE)
		return self->code != 0 && (!self->spec.restart_max || self->restarts < self->spec.restart_max);
	return self->spec.restart != LFS_RESTART_NO;
}

/* docker's: 100 ms, doubling to a minute; from the start again when the program lasted ten seconds. */
static void plan_restart(struct lfs_monitor *self)
{
	int64_t now = lfs_now_ms();
	if (now - self->started_at >= LASTED_MS || !self->delay)
		self->delay = DELAY_FIRST;
	else if ((self->delay *= 2) > DELAY_MOST)
		self->delay = DELAY_MOST;
	self->restart_at = now + self->delay;
	self->phase = LFS_PHASE_RESTARTING;
	self->restarts++;
}

static uint32_t failure_code(const struct lfs_failure *failure)
{
	if (failure->stage != LFS_STAGE_LOOKUP && failure->stage != LFS_STAGE_EXEC)
		return 125;
	switch (failure->error) {
	case ENOENT: case ENOTDIR: return 127;
	case EACCES: case EISDIR: case ENOEXEC: case EPERM: case ETXTBSY: return 126;
	default: return 125;
	}
}

static void set_code(struct lfs_monitor *self, int status)
{
	self->signal_number = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
	self->code = self->signal_number ? 128 + self->signal_number : (uint32_t)WEXITSTATUS(status);
	if (self->failure.stage)
		self->code = failure_code(&self->failure);
}

/* How often the kernel has killed something in the container's groups for want of memory. */
static uint64_t oom_kills(const struct lfs_spec *spec)
{
	uint64_t most = 0;
	for (size_t i = 0; i < 2 * spec->cgroup_count; i++) {
		char path[PATH_MAX], text[2048] = "";
		const char *procs = spec->cgroups[i / 2], *slash = strrchr(procs, '/');
		snprintf(path, sizeof path, "%.*s/%s", slash ? (int)(slash - procs) : 0, procs, i % 2 ? "memory.events" : "memory.oom_control");
		LFS_AUTO_FD file = open(path, O_RDONLY | O_CLOEXEC);
		const char *line = file >= 0 && read(file, text, sizeof text - 1) > 0 ? strstr(text, "oom_kill ") : NULL;
		uint64_t count = line ? strtoull(line + strlen("oom_kill "), NULL, 10) : 0;
		most = count > most ? count : most;
	}
	return most;
}

static void tell_oom(struct lfs_monitor *self)
{
	uint64_t count = oom_kills(&self->spec);
	if (count > self->oom_kills)
		lfs_event(self, "oom", NULL, NULL);
	self->oom_kills = count;
}

static void tell_death(struct lfs_monitor *self)
{
	char text[16];
	snprintf(text, sizeof text, "%u", self->code);
	lfs_event(self, "die", "exitCode", text);
}

void lfs_program_ended(struct lfs_monitor *self, int status)
{
	self->pid = -1;
	self->kill_at = 0;
	clock_gettime(CLOCK_REALTIME, &self->finished);
	set_code(self, status);
	lfs_health_end(self);
	bool again = self->was_started && !self->failure.stage && wants_restart(self);
	self->phase = LFS_PHASE_EXITED;
	if (again)
		plan_restart(self);
	if (self->was_started)
		lfs_status_write(self);
	lfs_streams_drain(self);
	if (self->was_started) {
		tell_oom(self);
		tell_death(self);
	}
	clear(self);
}
