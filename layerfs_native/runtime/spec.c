/* Reads the spec: every length is checked, strings stay in the buffer that was read. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <linux/sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "run.h"

struct cursor {
	uint8_t *at, *end;
	bool broken;
};

int lfs_failed(struct lfs_failure *failure, enum lfs_stage stage, int negative_errno, const char *format, ...)
{
	va_list arguments;
	failure->stage = stage;
	failure->error = -negative_errno;
	va_start(arguments, format);
	vsnprintf(failure->text, sizeof failure->text, format, arguments);
	va_end(arguments);
	return negative_errno;
}

static uint8_t *take(struct cursor *cursor, size_t size)
{
	if (cursor->broken || (size_t)(cursor->end - cursor->at) < size) {
		cursor->broken = true;
		return NULL;
	}
	uint8_t *taken = cursor->at;
	cursor->at += size;
	return taken;
}

static uint16_t take_u16(struct cursor *cursor)
{
	uint16_t value = 0;
	const uint8_t *at = take(cursor, sizeof value);
	if (at)
		memcpy(&value, at, sizeof value);
	return le16toh(value);
}

static uint32_t take_u32(struct cursor *cursor)
{
	uint32_t value = 0;
	const uint8_t *at = take(cursor, sizeof value);
	if (at)
		memcpy(&value, at, sizeof value);
	return le32toh(value);
}

static uint64_t take_u64(struct cursor *cursor)
{
	uint64_t value = 0;
	const uint8_t *at = take(cursor, sizeof value);
	if (at)
		memcpy(&value, at, sizeof value);
	return le64toh(value);
}

static char *take_string(struct cursor *cursor)
{
	size_t left = (size_t)(cursor->end - cursor->at);
	const uint8_t *end = cursor->broken || !left ? NULL : memchr(cursor->at, '\0', left);
	if (!end) {
		cursor->broken = true;
		return (char *)"";
	}
	return (char *)take(cursor, (size_t)(end - cursor->at) + 1);
}

/* Room for one more element; a NULL (or zero) element always follows the last. */
static void *grow(void *pointer_to_array, size_t *count, size_t size)
{
	void **array = pointer_to_array;
	uint8_t *bigger = *array;
	if ((*count & (*count + 1)) == 0) { /* 0, 1, 3, 7 ... : room for twice as many */
		bigger = realloc(bigger, (2 * *count + 3) * size);
		if (!bigger)
			return NULL;
		*array = bigger;
	}
	memset(bigger + *count * size, 0, 2 * size);
	return bigger + (*count)++ * size;
}

static int add_string(struct cursor *cursor, void *array, size_t *count)
{
	char **place = grow(array, count, sizeof *place);
	if (!place)
		return -ENOMEM;
	*place = take_string(cursor);
	return 0;
}

static int add_identity(struct cursor *cursor, struct lfs_spec *spec)
{
	spec->uid = take_u32(cursor);
	spec->gid = take_u32(cursor);
	while (!cursor->broken && cursor->at < cursor->end) {
		uint32_t *group = grow(&spec->groups, &spec->group_count, sizeof *group);
		if (!group)
			return -ENOMEM;
		*group = take_u32(cursor);
	}
	return 0;
}

static int add_step(struct cursor *cursor, struct lfs_spec *spec)
{
	struct lfs_step *step = grow(&spec->steps, &spec->step_count, sizeof *step);
	if (!step)
		return -ENOMEM;
	step->kind = take_u32(cursor);
	step->flags = take_u32(cursor);
	step->mode = take_u32(cursor);
	step->major = take_u32(cursor);
	step->minor = take_u32(cursor);
	step->attributes = take_u64(cursor);
	step->type = take_string(cursor);
	step->source = take_string(cursor);
	step->target = take_string(cursor);
	step->options = take_string(cursor);
	return 0;
}

static int add_limit(struct cursor *cursor, struct lfs_spec *spec)
{
	struct lfs_limit *limit = grow(&spec->limits, &spec->limit_count, sizeof *limit);
	if (!limit)
		return -ENOMEM;
	limit->resource = take_u32(cursor);
	limit->soft = take_u64(cursor);
	limit->hard = take_u64(cursor);
	return 0;
}

static int add_filter(struct cursor *cursor, struct lfs_spec *spec)
{
	spec->filter_flags = take_u32(cursor);
	size_t size = (size_t)(cursor->end - cursor->at);
	if (size == 0 || size % 8 || size / 8 > 4096) /* BPF_MAXINSNS */
		cursor->broken = true;
	spec->filter_count = size / 8;
	spec->filter = take(cursor, size);
	return 0;
}

static void set_terminal(struct cursor *cursor, struct lfs_spec *spec)
{
	spec->terminal = true;
	spec->rows = take_u16(cursor);
	spec->columns = take_u16(cursor);
}

static void set_monitor(struct cursor *cursor, struct lfs_spec *spec)
{
	spec->monitor_flags = take_u32(cursor);
	spec->restart = take_u32(cursor);
	spec->restart_max = take_u32(cursor);
	spec->log_size = take_u64(cursor);
	spec->log_files = take_u32(cursor);
	spec->end_signal = take_u32(cursor);
	spec->end_ms = (int32_t)take_u32(cursor);
}

static void set_health(struct cursor *cursor, struct lfs_spec *spec)
{
	spec->probe_interval = take_u64(cursor);
	spec->probe_timeout = take_u64(cursor);
	spec->probe_start_period = take_u64(cursor);
	spec->probe_start_interval = take_u64(cursor);
	spec->probe_retries = take_u32(cursor);
}

static int add_life(unsigned tag, struct cursor *cursor, struct lfs_spec *spec)
{
	switch (tag) {
	case LFS_TAG_TERMINAL: set_terminal(cursor, spec); return 0;
	case LFS_TAG_JOIN:
		spec->join_pid = take_u32(cursor);
		spec->join_start = take_u64(cursor);
		return 0;
	case LFS_TAG_MONITOR: set_monitor(cursor, spec); return 0;
	case LFS_TAG_AFTER: return add_string(cursor, &spec->after, &spec->after_count);
	case LFS_TAG_EVENTS:
		spec->events = take_string(cursor);
		spec->event_attributes = take_string(cursor);
		return 0;
	case LFS_TAG_HEALTH: set_health(cursor, spec); return 0;
	case LFS_TAG_PROBE: return add_string(cursor, &spec->probe, &spec->probe_count);
	case LFS_TAG_RUNTIME: return add_string(cursor, &spec->runtime, &spec->runtime_count);
	default: return -EBADMSG;
	}
}

static int add_entered(struct cursor *cursor, struct lfs_spec *spec)
{
	struct lfs_entered *entered = grow(&spec->entered, &spec->entered_count, sizeof *entered);
	if (!entered)
		return -ENOMEM;
	entered->type = take_u32(cursor);
	entered->path = take_string(cursor);
	return 0;
}

static int add_range(struct cursor *cursor, struct lfs_range **map, size_t *count)
{
	struct lfs_range *range = grow(map, count, sizeof *range);
	if (!range)
		return -ENOMEM;
	range->inside = take_u32(cursor);
	range->outside = take_u32(cursor);
	range->size = take_u32(cursor);
	return 0;
}

static int add_clock(struct cursor *cursor, struct lfs_spec *spec)
{
	struct lfs_clock *clock = grow(&spec->clocks, &spec->clock_count, sizeof *clock);
	if (!clock)
		return -ENOMEM;
	clock->clock = take_u32(cursor);
	clock->seconds = (int64_t)take_u64(cursor);
	return 0;
}

static int add_record(unsigned tag, struct cursor *cursor, struct lfs_spec *spec)
{
	switch (tag) {
	case LFS_TAG_ROOT: spec->root = take_string(cursor); return 0;
	case LFS_TAG_NAMESPACES: spec->namespaces = take_u32(cursor); return 0;
	case LFS_TAG_OPTIONS: spec->options = take_u32(cursor); return 0;
	case LFS_TAG_ARGUMENT: return add_string(cursor, &spec->arguments, &spec->argument_count);
	case LFS_TAG_ENVIRONMENT: return add_string(cursor, &spec->environment, &spec->environment_count);
	case LFS_TAG_IDENTITY: return add_identity(cursor, spec);
	case LFS_TAG_WORKDIR: spec->workdir = take_string(cursor); return 0;
	case LFS_TAG_HOSTNAME: spec->hostname = take_string(cursor); return 0;
	case LFS_TAG_STEP: return add_step(cursor, spec);
	case LFS_TAG_CAPABILITIES: spec->capabilities = take_u64(cursor); return 0;
	case LFS_TAG_RLIMIT: return add_limit(cursor, spec);
	case LFS_TAG_CGROUP: return add_string(cursor, &spec->cgroups, &spec->cgroup_count);
	case LFS_TAG_SECCOMP: return add_filter(cursor, spec);
	case LFS_TAG_ENTER: return add_entered(cursor, spec);
	case LFS_TAG_CLOCK: return add_clock(cursor, spec);
	case LFS_TAG_UID_MAP: return add_range(cursor, &spec->uid_map, &spec->uid_map_count);
	case LFS_TAG_GID_MAP: return add_range(cursor, &spec->gid_map, &spec->gid_map_count);
	case LFS_TAG_OOM_SCORE: spec->oom_score = (int32_t)take_u32(cursor); return 0;
	default: return add_life(tag, cursor, spec);
	}
}

/* Without a mount and a pid namespace what follows would be done to the host; the same for its name. Sharing PIDs is
 * asked for by an option of its own. */
static bool is_contained(const struct lfs_spec *spec)
{
	const uint32_t needed = CLONE_NEWNS | (spec->hostname ? CLONE_NEWUTS : 0) |
		(spec->options & LFS_OPTION_SHARED_PIDS ? 0 : CLONE_NEWPID);
	const uint32_t known = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
	return (spec->namespaces & needed) == needed && (spec->namespaces & ~known) == 0;
}

static bool is_complete(const struct lfs_spec *spec)
{
	bool place = spec->join_pid ? !spec->step_count : spec->root && spec->root[0] == '/';
	return place && spec->workdir && spec->argument_count && !spec->uid_map_count == !spec->gid_map_count
		&& (!spec->runtime_count || spec->runtime_count == (spec->uid_map_count ? 5 : 4));
}

static int parse(struct cursor *all, struct lfs_spec *spec)
{
	const uint8_t *magic = take(all, sizeof LFS_RUN_MAGIC - 1);
	if (!magic || memcmp(magic, LFS_RUN_MAGIC, sizeof LFS_RUN_MAGIC - 1) != 0)
		return -EBADMSG;
	while (all->at < all->end) {
		unsigned tag = take_u16(all);
		uint32_t length = take_u32(all);
		uint8_t *payload = take(all, length);
		if (!payload)
			return -EBADMSG;
		struct cursor record = { payload, payload + length, false };
		int rc = add_record(tag, &record, spec);
		if (rc < 0)
			return rc;
		if (record.broken || record.at != record.end)
			return -EBADMSG;
	}
	return is_complete(spec) && is_contained(spec) ? 0 : -EBADMSG;
}

static int read_file(int fd, uint8_t **bytes, size_t *size)
{
	struct stat info;
	if (fstat(fd, &info) < 0)
		return -errno;
	if (info.st_size > (off_t)LFS_SPEC_MAX)
		return -E2BIG;
	*bytes = malloc((size_t)info.st_size + 1);
	if (!*bytes)
		return -ENOMEM;
	for (*size = 0; *size < (size_t)info.st_size;) {
		ssize_t got = pread(fd, *bytes + *size, (size_t)info.st_size - *size, (off_t)*size);
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		*size += (size_t)got;
	}
	return 0;
}

int lfs_spec_read(int fd, struct lfs_spec *spec, struct lfs_failure *failure)
{
	size_t size = 0;
	*spec = (struct lfs_spec){ 0 };
	int rc = read_file(fd, &spec->bytes, &size);
	if (rc == 0)
		rc = parse(&(struct cursor){ spec->bytes, spec->bytes + size, false }, spec);
	if (rc == 0 && !spec->environment && !(spec->environment = calloc(1, sizeof *spec->environment)))
		rc = -ENOMEM;
	return rc < 0 ? lfs_failed(failure, LFS_STAGE_SPEC, rc, "reading the container's spec") : 0;
}

void lfs_spec_free(struct lfs_spec *spec)
{
	free(spec->bytes);
	free(spec->arguments);
	free(spec->environment);
	free(spec->cgroups);
	free(spec->groups);
	free(spec->steps);
	free(spec->limits);
	free(spec->entered);
	free(spec->clocks);
	free(spec->uid_map);
	free(spec->gid_map);
	free(spec->after);
	free(spec->probe);
	free(spec->runtime);
}
