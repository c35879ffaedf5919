/* What the monitor tells those who are not connected: files of the container's directory, each replaced by a rename, and
 * lines of the store's events. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

static ssize_t read_small(const char *path, char *text, size_t size)
{
	LFS_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
	text[got < 0 ? 0 : got] = '\0';
	return got;
}

/* Clock ticks from boot to the start of a process (proc(5), field 22 of stat); 0 when it is gone. */
uint64_t lfs_start_ticks(pid_t pid)
{
	char path[32], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (read_small(path, text, sizeof text) < 0)
		return 0;
	const char *field = strrchr(text, ')');
	for (int number = 2; field && number < 22; number++)
		field = strchr(field + 1, ' ');
	return field ? strtoull(field + 1, NULL, 10) : 0;
}

void lfs_file_replace(int dir, const char *name, const char *text, size_t size)
{
	char temporary[64];
	snprintf(temporary, sizeof temporary, ".%s.new", name);
	int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return;
	bool whole = write(fd, text, size) == (ssize_t)size;
	close(fd);
	if (whole)
		renameat(dir, temporary, dir, name);
}

static int64_t nanoseconds(const struct timespec *when)
{
	return (int64_t)when->tv_sec * 1000000000 + when->tv_nsec;
}

int lfs_status_write(struct lfs_monitor *self)
{
	static const char *const phases[] = { "starting", "running", "restarting", "exited" };
	char boot[64], text[1024];
	if (read_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot) > 0)
		boot[strcspn(boot, "\n")] = '\0';
	int size = snprintf(text, sizeof text,
			    "boot %s\nphase %s\npid %d\nstart %" PRIu64 "\nstarted %" PRId64 "\nfinished %" PRId64
			    "\ncode %u\nrestarts %u\nstopped %d\n",
			    boot, phases[self->phase], self->phase == LFS_PHASE_RUNNING ? (int)self->pid : 0, self->start_ticks,
			    nanoseconds(&self->started), nanoseconds(&self->finished), self->code, self->restarts, self->stopped_by_user);
	if (self->failure.stage && size < (int)sizeof text)
		size += snprintf(text + size, sizeof text - (size_t)size, "failed %u %d %s\n", self->failure.stage,
				 self->failure.error, self->failure.text);
	lfs_file_replace(self->state_dir, "status", text, size < (int)sizeof text ? (size_t)size : sizeof text - 1);
	return 0;
}

/* One line, one write: appended whole, whoever else writes there. */
void lfs_event(struct lfs_monitor *self, const char *action, const char *key, const char *value)
{
	char fixed[512], *text = NULL;
	struct timespec now;
	if (!self->spec.events || !self->spec.event_attributes)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(fixed, sizeof fixed, "{\"timeNano\":%" PRId64 ",\"Type\":\"container\",\"Action\":\"%s\",", nanoseconds(&now), action);
	int size = key ? asprintf(&text, "%s%s,\"%s\":\"%s\"}}}\n", fixed, self->spec.event_attributes, key, value)
		       : asprintf(&text, "%s%s}}}\n", fixed, self->spec.event_attributes);
	int fd = open(self->spec.events, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd >= 0 && size > 0 && write(fd, text, (size_t)size) < 0)
		size = -1; /* a full disk loses events */
	if (fd >= 0)
		close(fd);
	free(text);
}
