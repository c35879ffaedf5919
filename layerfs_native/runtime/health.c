/* Health checks: a probe joins the container from time to time; what it says is a file as `inspect` shows it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { OUTPUT_ENOUGH = 1 << 20 };

static const char STARTING[] = "starting", HEALTHY[] = "healthy", UNHEALTHY[] = "unhealthy";

static size_t put_probe(char *out, const struct lfs_probe *probe)
{
	char began[LFS_TIME_SIZE], ended[LFS_TIME_SIZE];
	lfs_json_time(began, &probe->began);
	lfs_json_time(ended, &probe->ended);
	int size = sprintf(out, "{\"Start\":\"%s\",\"End\":\"%s\",\"ExitCode\":%d,\"Output\":\"", began, ended, probe->code);
	char *end = lfs_json_escape(out + size, probe->output, probe->size);
	memcpy(end, "\"}", 2);
	return (size_t)(end + 2 - out);
}

static void write_state(struct lfs_monitor *self)
{
	struct lfs_health *health = &self->health;
	char *text = malloc(512 + LFS_PROBES_KEPT * (6 * LFS_PROBE_OUTPUT + 256));
	if (!text)
		return;
	size_t size = (size_t)sprintf(text, "{\"Status\":\"%s\",\"FailingStreak\":%u,\"Log\":[", health->status, health->streak);
	for (uint32_t i = 0; i < health->kept; i++) {
		if (i)
			text[size++] = ',';
		size += put_probe(text + size, &health->past[i]);
	}
	memcpy(text + size, "]}\n", 3);
	lfs_file_replace(self->state_dir, "health", text, size + 3);
	free(text);
}

static void set_status(struct lfs_monitor *self, const char *status)
{
	char action[64];
	if (self->health.status == status)
		return;
	self->health.status = status;
	snprintf(action, sizeof action, "health_status: %s", status);
	if (status != STARTING)
		lfs_event(self, action, NULL, NULL);
}

/* Probes come faster until the first that succeeds within the start period. */
static int64_t next_interval(const struct lfs_monitor *self, int64_t now)
{
	bool begins = !self->health.healthy_once && now - self->health.started < (int64_t)self->spec.probe_start_period;
	return (int64_t)(begins ? self->spec.probe_start_interval : self->spec.probe_interval);
}

void lfs_health_begin(struct lfs_monitor *self)
{
	struct lfs_health *health = &self->health;
	if (!self->spec.probe_count)
		return;
	if (!health->past && !(health->past = calloc(LFS_PROBES_KEPT, sizeof *health->past)))
		return;
	health->streak = health->kept = 0;
	health->healthy_once = false;
	health->started = lfs_now_ms();
	health->next = health->started + next_interval(self, health->started);
	health->status = NULL;
	set_status(self, STARTING);
	write_state(self);
}

/* The program has ended, and with its namespace the probe; docker shows the last state as unhealthy then. */
void lfs_health_end(struct lfs_monitor *self)
{
	struct lfs_health *health = &self->health;
	if (!health->status)
		return;
	health->next = health->deadline = 0;
	if (health->pid > 0)
		kill(health->pid, SIGKILL);
	if (health->output >= 0)
		close(lfs_steal_fd(&health->output));
	health->status = UNHEALTHY;
	write_state(self);
	health->status = NULL;
}

int64_t lfs_health_next(const struct lfs_monitor *self)
{
	return self->health.pid > 0 ? self->health.deadline : self->health.next;
}

/* In a process of its own, since what enters a PID namespace stays there. */
__attribute__((noreturn)) static void probe(const struct lfs_spec *all, pid_t pid, uint64_t ticks, int output)
{
	struct lfs_spec spec = *all;
	struct lfs_failure failure = { 0 };
	struct lfs_launch launch = { -1, -1, { -1, output, output }, -1, NULL };
	int status, ends[2];
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	spec.join_pid = (uint32_t)pid;
	spec.join_start = ticks;
	spec.arguments = all->probe;
	spec.terminal = false;
	spec.options &= ~(uint32_t)LFS_OPTION_INIT;
	launch.target = lfs_join_pids(&spec, &failure);
	if (launch.target < 0 || pipe2(ends, O_CLOEXEC) < 0)
		_exit(125);
	launch.report = ends[1];
	int pidfd;
	pid_t child = lfs_sys_clone(0, &pidfd);
	if (child == 0)
		lfs_container_main(&spec, &launch);
	close(ends[1]);
	uint8_t packet[512];
	ssize_t said = child > 0 ? read(ends[0], packet, sizeof packet) : -1;
	if (said > 9 && write(output, packet + 9, (size_t)said - 9) < 0)
		_exit(125);
	if (child < 0 || waitpid(child, &status, 0) != child || said > 0)
		_exit(126);
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void start_probe(struct lfs_monitor *self, int64_t now)
{
	struct lfs_health *health = &self->health;
	int ends[2];
	health->next = now + next_interval(self, now);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	health->now.size = 0;
	health->timed_out = false;
	clock_gettime(CLOCK_REALTIME, &health->now.began);
	health->pid = fork();
	if (health->pid == 0)
		probe(&self->spec, self->pid, self->start_ticks, ends[1]);
	close(ends[1]);
	if (health->output >= 0)
		close(health->output);
	health->output = ends[0];
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	health->deadline = now + (int64_t)self->spec.probe_timeout;
}

void lfs_health_tick(struct lfs_monitor *self, int64_t now)
{
	struct lfs_health *health = &self->health;
	if (!health->status || self->phase != LFS_PHASE_RUNNING)
		return;
	if (health->pid <= 0 && health->next && now >= health->next)
		start_probe(self, now);
	else if (health->pid > 0 && health->deadline && now >= health->deadline) {
		health->timed_out = true;
		health->deadline = 0;
		kill(health->pid, SIGKILL);
	}
}

/* The first 4096 bytes are kept, the rest is read away. */
void lfs_health_read(struct lfs_monitor *self)
{
	static char rest[4096];
	struct lfs_health *health = &self->health;
	for (int budget = OUTPUT_ENOUGH; health->output >= 0 && budget > 0;) {
		size_t room = sizeof health->now.output - health->now.size;
		ssize_t got = room ? read(health->output, health->now.output + health->now.size, room) : read(health->output, rest, sizeof rest);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return;
		if (got <= 0)
			close(lfs_steal_fd(&health->output));
		else if (room)
			health->now.size += (size_t)got;
		budget -= 4096;
	}
}

static void keep(struct lfs_health *health)
{
	if (health->kept == LFS_PROBES_KEPT)
		memmove(health->past, health->past + 1, (LFS_PROBES_KEPT - 1) * sizeof *health->past);
	else
		health->kept++;
	health->past[health->kept - 1] = health->now;
}

static void judge(struct lfs_monitor *self, int64_t now)
{
	struct lfs_health *health = &self->health;
	if (health->now.code == 0) {
		health->streak = 0;
		health->healthy_once = true;
		set_status(self, HEALTHY);
		return;
	}
	if (!health->healthy_once && now - health->started < (int64_t)self->spec.probe_start_period)
		return; /* it may still be starting */
	if (++health->streak >= self->spec.probe_retries)
		set_status(self, UNHEALTHY);
}

void lfs_health_reaped(struct lfs_monitor *self, int status)
{
	struct lfs_health *health = &self->health;
	int64_t now = lfs_now_ms();
	health->pid = 0;
	if (!health->status)
		return;
	lfs_health_read(self);
	clock_gettime(CLOCK_REALTIME, &health->now.ended);
	health->now.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (health->timed_out) {
		health->now.code = -1;
		health->now.size = (size_t)snprintf(health->now.output, sizeof health->now.output,
						    "Health check exceeded timeout (%llums)", (unsigned long long)self->spec.probe_timeout);
	}
	keep(health);
	judge(self, now);
	health->next = now + next_interval(self, now);
	write_state(self);
}
