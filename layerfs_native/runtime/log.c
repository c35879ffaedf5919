/* The log: docker's json-file lines. What a program writes is cut at newlines and at 16 KiB; the rest of a line waits for
 * its end. Written once for each piece that was read, and rotated by renaming. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor.h"

static const char LOG_NAME[] = "json.log";

int lfs_log_open(struct lfs_log *log, int dir)
{
	struct stat info;
	log->dir = dir;
	log->fd = openat(dir, LOG_NAME, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (log->fd < 0)
		return -errno;
	log->size = fstat(log->fd, &info) == 0 ? (uint64_t)info.st_size : 0;
	return 0;
}

/* json.log becomes json.log.1, that one json.log.2, and so on; the oldest goes. */
static void rotate(struct lfs_log *log)
{
	char from[32], to[32];
	for (uint32_t number = log->max_files; number > 1; number--) {
		snprintf(to, sizeof to, "%s.%u", LOG_NAME, number - 1);
		snprintf(from, sizeof from, number > 2 ? "%s.%u" : "%s", LOG_NAME, number - 2);
		renameat(log->dir, from, log->dir, to);
	}
	if (log->max_files <= 1)
		unlinkat(log->dir, LOG_NAME, 0);
	close(lfs_steal_fd(&log->fd));
	lfs_log_open(log, log->dir);
}

/* A full disk loses lines, never the container. */
void lfs_log_flush(struct lfs_log *log)
{
	size_t done = 0;
	while (done < log->used && log->fd >= 0) {
		ssize_t wrote = write(log->fd, log->out + done, log->used - done);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			break;
		done += (size_t)wrote;
	}
	log->size += done;
	log->used = 0;
}

static void put_line(struct lfs_log *log, const struct lfs_lines *lines, const char *data, size_t size)
{
	size_t most = 6 * size + 160;
	if (log->used + most > sizeof log->out)
		lfs_log_flush(log);
	if (log->max_size && log->size + log->used >= log->max_size) {
		lfs_log_flush(log);
		rotate(log);
	}
	char *out = log->out + log->used;
	memcpy(out, "{\"log\":\"", 8);
	out = lfs_json_escape(out + 8, data, size);
	memcpy(out, log->tail[lines->error], log->tail_size[lines->error]);
	log->used = (size_t)(out - log->out) + log->tail_size[lines->error];
}

/* What follows the text is the same for all lines of one piece, its time too. */
static void make_tails(struct lfs_log *log)
{
	static const char *const names[] = { "stdout", "stderr" };
	char text[LFS_TIME_SIZE];
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	lfs_json_time(text, &now);
	for (int i = 0; i < 2; i++)
		log->tail_size[i] = (size_t)snprintf(log->tail[i], sizeof log->tail[i], "\",\"stream\":\"%s\",\"time\":\"%s\"}\n", names[i], text);
}

/* Puts the beginning of the piece behind what waits. Returns how much was taken. */
static size_t complete_waiting(struct lfs_log *log, struct lfs_lines *lines, const char *data, size_t size)
{
	size_t room = LFS_LINE_MAX - lines->size;
	const char *newline = memchr(data, '\n', size < room ? size : room);
	size_t taken = newline ? (size_t)(newline - data) + 1 : size < room ? size : room;
	memcpy(lines->waiting + lines->size, data, taken);
	lines->size += taken;
	if (newline || lines->size == LFS_LINE_MAX) {
		put_line(log, lines, lines->waiting, lines->size);
		lines->size = 0;
	}
	return taken;
}

void lfs_log_write(struct lfs_log *log, struct lfs_lines *lines, const char *data, size_t size)
{
	if (log->fd < 0)
		return;
	make_tails(log);
	for (size_t at = 0; at < size;) {
		size_t left = size - at, most = left < LFS_LINE_MAX ? left : LFS_LINE_MAX;
		const char *newline = lines->size ? NULL : memchr(data + at, '\n', most);
		if (newline || (!lines->size && most == LFS_LINE_MAX)) {
			size_t length = newline ? (size_t)(newline - data) - at + 1 : LFS_LINE_MAX;
			put_line(log, lines, data + at, length);
			at += length;
		} else {
			at += complete_waiting(log, lines, data + at, left);
		}
	}
	lfs_log_flush(log);
}

/* The end of a stream: what waits is a line without a newline. */
void lfs_log_end(struct lfs_log *log, struct lfs_lines *lines)
{
	if (log->fd < 0 || !lines->size)
		return;
	make_tails(log);
	put_line(log, lines, lines->waiting, lines->size);
	lines->size = 0;
	lfs_log_flush(log);
}
