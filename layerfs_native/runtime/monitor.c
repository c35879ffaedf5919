/* The monitor's start, its loop and its end; see monitor.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { EXIT_NOT_STARTED = 125, FIXED = 7 };

int64_t lfs_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* By a descriptor of the directory: the path of a store may be longer than a socket's name. */
static int listen_there(int dir)
{
	struct sockaddr_un place = { .sun_family = AF_UNIX };
	LFS_AUTO_FD sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return -errno;
	snprintf(place.sun_path, sizeof place.sun_path, "/proc/self/fd/%d/socket", dir);
	unlinkat(dir, "socket", 0);
	mode_t before = umask(0077);
	int rc = bind(sock, (struct sockaddr *)&place, sizeof place) < 0 || listen(sock, 64) < 0 ? -errno : 0;
	umask(before);
	return rc < 0 ? rc : lfs_steal_fd(&sock);
}

static int open_files(struct lfs_monitor *self)
{
	mkdirat(self->dir, "monitor", 0700);
	self->state_dir = openat(self->dir, "monitor", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (self->state_dir < 0)
		return -errno;
	self->spare = open("/dev/null", O_PATH | O_CLOEXEC);
	self->listener = listen_there(self->state_dir);
	if (self->listener < 0 || self->spec.monitor_flags & LFS_MONITOR_NO_LOG)
		return self->listener < 0 ? self->listener : 0;
	mkdirat(self->dir, "log", 0700);
	int log_dir = openat(self->dir, "log", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return log_dir < 0 ? -errno : lfs_log_open(&self->log, log_dir);
}

/* Not a parent's child any more, nor in its session; streams go nowhere. */
static void detach(void)
{
	LFS_AUTO_FD null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t child = fork();
	if (child != 0)
		_exit(child < 0 ? EXIT_NOT_STARTED : 0);
	setsid();
	for (int fd = 0; fd <= 2; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	prctl(PR_SET_NAME, "layerfs-monitor", 0, 0, 0);
	if (chdir("/") < 0)
		return;
}

/* The program's report is read before it is reaped: it may have ended at once. */
static void reap(struct lfs_monitor *self)
{
	for (;;) {
		siginfo_t info = { 0 };
		int status;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		if (info.si_pid == self->pid && self->report >= 0)
			lfs_program_report(self);
		if (waitpid(info.si_pid, &status, 0) != info.si_pid)
			return;
		if (info.si_pid == self->pid)
			lfs_program_ended(self, status);
		else if (info.si_pid == self->health.pid)
			lfs_health_reaped(self, status);
	}
}

static void read_signals(struct lfs_monitor *self)
{
	struct signalfd_siginfo info;
	while (read(self->signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			reap(self);
		if (info.ssi_signo == SIGTERM) { /* the machine goes down */
			bool by_user = self->stopped_by_user;
			lfs_program_stop(self, (int)self->spec.end_signal, self->spec.end_ms);
			self->stopped_by_user = by_user;
		}
	}
}

static int64_t earlier(int64_t one, int64_t other)
{
	return !one ? other : !other ? one : one < other ? one : other;
}

static int patience(const struct lfs_monitor *self)
{
	int64_t at = earlier(earlier(self->kill_at, self->restart_at), lfs_health_next(self));
	if (!at)
		return -1;
	int64_t left = at - lfs_now_ms();
	return left <= 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

/* The mount may have lost its server while the program ran: then somebody has to mount it again, who can. statfs, since
 * attributes are cached. */
static bool root_is_lost(const struct lfs_monitor *self)
{
	struct statfs info;
	return statfs(self->spec.root, &info) < 0;
}

/* 0 when the program runs again (or its failure is told later), 1 when the container is to be started anew by Python. */
static int start_again(struct lfs_monitor *self)
{
	self->restart_at = 0;
	if (root_is_lost(self))
		return 1;
	if (lfs_program_start(self) < 0) {
		self->phase = LFS_PHASE_EXITED;
		self->code = EXIT_NOT_STARTED;
		lfs_status_write(self);
	}
	return 0;
}

static void tick(struct lfs_monitor *self)
{
	int64_t now = lfs_now_ms();
	if (self->kill_at && now >= self->kill_at) {
		self->kill_at = 0;
		lfs_program_signal(self, SIGKILL);
	}
	lfs_health_tick(self, now);
}

/* Its next packet may be input, and there is room for one: not read before the program has taken the last one, also when
 * the client has gone meanwhile. */
static bool is_held(const struct lfs_monitor *self, const struct lfs_client *client)
{
	return self->typed_size && client->flags & LFS_ATTACH_STDIN;
}

/* A client that is held is not looked at: its POLLHUP, which cannot be masked, would wake us for ever. */
static struct pollfd client_events(const struct lfs_monitor *self, const struct lfs_client *client)
{
	short wanted = (short)((is_held(self, client) ? 0 : POLLIN) | (client->behind ? POLLOUT : 0));
	return (struct pollfd){ wanted ? client->fd : -1, wanted, 0 };
}

static void wait_for_something(struct lfs_monitor *self, struct pollfd *events)
{
	bool busy = self->chunk_size || self->report >= 0; /* somebody has not taken the last piece; nobody was told of the start */
	int input = self->typed_size ? self->input : -1;
	events[0] = (struct pollfd){ self->report, POLLIN, 0 };
	events[1] = (struct pollfd){ busy ? -1 : self->output[0], POLLIN, 0 };
	events[2] = (struct pollfd){ busy ? -1 : self->output[1], POLLIN, 0 };
	events[3] = (struct pollfd){ self->signals, POLLIN, 0 };
	events[4] = (struct pollfd){ self->listener, POLLIN, 0 };
	events[5] = (struct pollfd){ input, POLLOUT, 0 };
	events[6] = (struct pollfd){ self->health.output, POLLIN, 0 };
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		events[FIXED + i] = client_events(self, &self->clients[i]);
	if (lfs_sys_poll(events, FIXED + LFS_CLIENTS_MAX, patience(self)) < 0)
		memset(events, 0, (FIXED + LFS_CLIENTS_MAX) * sizeof *events);
}

static void serve_clients(struct lfs_monitor *self, const struct pollfd *events)
{
	for (int i = 0; i < LFS_CLIENTS_MAX; i++) {
		struct lfs_client *client = &self->clients[i];
		short got = events[i].revents;
		if (client->fd < 0 || client->fd != events[i].fd || !got)
			continue;
		if (got & (POLLIN | POLLHUP | POLLERR) && !is_held(self, client)) /* another may have typed since */
			lfs_clients_read(self, client);
	}
	if (self->chunk_size)
		lfs_streams_deliver(self);
}

static void step(struct lfs_monitor *self)
{
	struct pollfd events[FIXED + LFS_CLIENTS_MAX];
	wait_for_something(self, events);
	tick(self);
	if (events[0].revents && self->report >= 0)
		lfs_program_report(self);
	for (int which = 0; which < 2; which++)
		if (events[1 + which].revents && self->output[which] >= 0 && !self->chunk_size)
			lfs_streams_read(self, which);
	if (events[5].revents)
		lfs_streams_type(self);
	if (events[6].revents)
		lfs_health_read(self);
	serve_clients(self, events + FIXED);
	if (events[4].revents)
		lfs_clients_accept(self);
	if (events[3].revents)
		read_signals(self);
}

/* Until the container has ended for good. Whether its end has to be followed by a start through Python. */
static bool live(struct lfs_monitor *self)
{
	while (self->phase != LFS_PHASE_EXITED) {
		step(self);
		if (self->phase == LFS_PHASE_RESTARTING && lfs_now_ms() >= self->restart_at && start_again(self) != 0)
			return true;
	}
	return false;
}

static void let_go(struct lfs_monitor *self)
{
	unlinkat(self->state_dir, "socket", 0);
	close(self->listener);
	for (int i = 0; i < 2; i++)
		close(self->locks[i]);
}

static void become_after(struct lfs_monitor *self, const char *why)
{
	sigset_t none;
	char *words[16] = { 0 };
	size_t count = self->spec.after_count < 14 ? self->spec.after_count : 14;
	if (!count)
		return;
	memcpy(words, self->spec.after, count * sizeof *words);
	words[count] = (char *)why;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(words[0], words);
}

static int end(struct lfs_monitor *self, bool again)
{
	if (!again)
		lfs_status_write(self);
	let_go(self);
	if (!self->was_started && self->failure.stage) {
		lfs_clients_failed(self);
		self->clients[0].flags |= LFS_ATTACH_CLEANS;
	}
	bool cleaned = !again && lfs_clients_finish(self);
	if (!cleaned)
		become_after(self, again ? "again" : "ended");
	return 0;
}

static int run(struct lfs_monitor *self)
{
	self->signals = lfs_sys_watch_signals(SFD_NONBLOCK);
	int rc = self->signals < 0 ? self->signals : open_files(self);
	if (rc < 0)
		lfs_failed(&self->failure, LFS_STAGE_SPEC, rc, "preparing the monitor");
	while (rc == 0 && self->clients[0].fd >= 0 && poll(&(struct pollfd){ self->clients[0].fd, POLLIN, 0 }, 1, 0) > 0)
		lfs_clients_read(self, &self->clients[0]);
	if (rc == 0)
		rc = lfs_program_start(self);
	if (rc < 0) {
		lfs_clients_failed(self);
		return EXIT_NOT_STARTED;
	}
	return end(self, live(self));
}

static void prepare(struct lfs_monitor *self)
{
	self->pid = self->pidfd = self->report = self->console = self->input = self->listener = self->spare = -1;
	self->output[0] = self->output[1] = self->log.fd = self->health.output = -1;
	self->lines[1].error = 1;
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		self->clients[i].fd = -1;
}

static bool to_fd(const char *text, int *fd)
{
	char *end_of_number;
	long value = strtol(text, &end_of_number, 10);
	*fd = (int)value;
	return *end_of_number == '\0' && value > 2 && value < 1 << 20 && fcntl(*fd, F_SETFD, FD_CLOEXEC) == 0;
}

static int by_number(const void *one, const void *other)
{
	return *(const int *)one - *(const int *)other;
}

/* What other threads of the starter may have leaked into this process goes. */
static void keep_only(int *known, int count)
{
	qsort(known, (size_t)count, sizeof *known, by_number);
	int next = 3;
	for (int i = 0; i < count; i++) {
		if (known[i] > next)
			lfs_sys_close_range((unsigned)next, (unsigned)known[i] - 1, false);
		next = known[i] + 1;
	}
	lfs_sys_close_range((unsigned)next, ~0u, false);
}

int lfs_monitor_main(int count, char **words)
{
	static struct lfs_monitor self;
	int spec_fd, client;
	prepare(&self);
	if (count != 7 || !to_fd(words[2], &spec_fd) || !to_fd(words[3], &client) || !to_fd(words[4], &self.dir)
	    || !to_fd(words[5], &self.locks[0]) || !to_fd(words[6], &self.locks[1])) {
		fputs("layerfs-run monitor SPEC_FD CLIENT_FD DIR_FD LOCK_FD LOCK_FD\n", stderr);
		return EXIT_NOT_STARTED;
	}
	keep_only((int[]){ spec_fd, client, self.dir, self.locks[0], self.locks[1] }, 5);
	detach();
	lfs_clients_add(&self, client);
	int rc = lfs_spec_read(spec_fd, &self.spec, &self.failure);
	close(spec_fd);
	if (rc < 0) {
		lfs_clients_failed(&self);
		return EXIT_NOT_STARTED;
	}
	self.rows = self.spec.rows;
	self.columns = self.spec.columns;
	self.log.max_size = self.spec.log_size;
	self.log.max_files = self.spec.log_files;
	return run(&self);
}
