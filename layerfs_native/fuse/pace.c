/* How many readers there are, and where they run.
 *
 * A request is two wake-ups. On the caller's own processor they are switches between two threads; on another that has gone to sleep each
 * takes ten times as long. The kernel prefers the latter: when we reply, it moves the caller to a processor that idles, because ours is busy
 * with us. One that runs nothing but SCHED_IDLE counts as idle, though, and is taken over at once. So while all requests come from one
 * thread, one reader serves it, *alone*: on its processor, with that policy; the other readers park (two would take turns, a switch for
 * every request). Whoever has that policy starves beside others that compute. So it ends when requests come no faster than before, is tried again later and later then,
 * and a watch looks every two milliseconds whether they come at all. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

#define STEP 16u		/* requests between two looks at the clock, and at where the caller is */
#define FOLLOW_EVERY 64u /* looks into /proc */
#define COMPARED 3u /* steps before, and */
#define JUDGED 8u   /* alone, at least: few tell nothing where a caller's requests are of many kinds */
#define ALONE_AFTER ((1 + COMPARED) * STEP) /* requests of one caller */
#define ALONE_AFTER_MOST 65536u /* when it has been in vain again and again */
#define ALONE_FOR 4096u		/* requests, then it is compared with its absence again */
#define WATCH_MILLISECONDS 2
#define QUIET_LOOKS 5u /* without a request, then there is nothing to watch any more */

static bool stat_of(const struct lfs_server *server, const char *path, char *text, size_t room, const char **rest)
{
	LFS_AUTO_FD fd = openat(server->proc, path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, room - 1);
	if (size <= 0)
		return false;
	text[size] = 0;
	*rest = strrchr(text, ')'); /* the name may hold anything; this is the end of field 2 */
	return *rest;
}

static int processor_of(const struct lfs_server *server, uint32_t thread)
{
	char path[48], text[1024];
	const char *at;
	snprintf(path, sizeof path, "%u/task/%u/stat", thread, thread);
	if (!stat_of(server, path, text, sizeof text, &at))
		return -1;
	for (unsigned field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at) : -1;
}

/* 'S' sleeps, 'R' runs or would like to, 'D' waits for a disk. */
static char state_of(const struct lfs_server *server, int thread)
{
	char path[48], text[1024];
	const char *at;
	snprintf(path, sizeof path, "self/task/%d/stat", thread);
	return stat_of(server, path, text, sizeof text, &at) && at[1] ? at[2] : 'S';
}

static void bind_to(struct lfs_server *server, struct lfs_reader *reader, int processor)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	if (processor >= 0 && processor < CPU_SETSIZE)
		CPU_SET((unsigned)processor, &set);
	else
		set = server->processors;
	if (!reader->fixed && sched_setaffinity(reader->thread, sizeof set, &set) == 0)
		atomic_store(&reader->processor, processor);
}

static bool give_way(int thread, bool yes)
{
	return sched_setscheduler(thread, yes ? SCHED_IDLE : SCHED_OTHER, &(struct sched_param){0}) == 0;
}

/* --- with the lock --- */

static void end_alone(struct lfs_server *server, bool in_vain)
{
	struct lfs_pace *pace = &server->pace;
	struct lfs_reader *reader = atomic_load(&pace->alone);
	if (!reader)
		return;
	give_way(reader->thread, false);
	atomic_store(&pace->alone, NULL);
	lfs_count(LFS_COUNT_alone_in_vain, in_vain);
	if (in_vain && pace->after < ALONE_AFTER_MOST)
		pace->after *= 2;
	else if (!in_vain && atomic_load(&reader->served) - pace->began >= ALONE_FOR)
		pace->after = ALONE_AFTER;
	pthread_cond_broadcast(&pace->unpark);
}

static void look(struct lfs_server *server)
{
	struct lfs_pace *pace = &server->pace;
	struct lfs_reader *reader = atomic_load(&pace->alone);
	unsigned served = atomic_load(&reader->served);
	if (served != pace->seen) {
		pace->seen = served;
		pace->quiet = 0;
	} else if (atomic_load(&reader->waits)) {
		end_alone(server, state_of(server, reader->thread) == 'R'); /* the disk takes its time (or we starve): the others read again */
	} else if (state_of(server, reader->thread) != 'S') {
		bind_to(server, reader, -1);
		end_alone(server, true);
	} else if (++pace->quiet >= QUIET_LOOKS) {
		end_alone(server, false);
	}
}

static void await(struct lfs_pace *pace)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WATCH_MILLISECONDS * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&pace->watch, &pace->lock, &until);
}

/* Not every user may take the policy back: tried here, by a thread that nobody waits for. */
static void *watch(void *context)
{
	struct lfs_server *server = context;
	struct lfs_pace *pace = &server->pace;
	lfs_thread_start(server);
	bool possible = sched_getscheduler(0) == SCHED_OTHER && give_way(0, true) && give_way(0, false);
	pthread_mutex_lock(&pace->lock);
	atomic_store(&pace->possible, possible);
	while (possible && !pace->ending) {
		if (!atomic_load(&pace->alone)) {
			pthread_cond_wait(&pace->watch, &pace->lock);
			continue;
		}
		await(pace);
		if (atomic_load(&pace->alone))
			look(server);
	}
	pthread_mutex_unlock(&pace->lock);
	return NULL;
}

static void begin_alone(struct lfs_server *server, struct lfs_reader *reader)
{
	struct lfs_pace *pace = &server->pace;
	pthread_mutex_lock(&pace->lock);
	if (!pace->watched)
		pace->watched = !pace->ending && pthread_create(&pace->watcher, NULL, watch, server) == 0;
	if (atomic_load(&pace->alone) != reader)
		end_alone(server, false);
	if (atomic_load(&pace->possible) && !pace->ending && !atomic_load(&pace->alone) && give_way(reader->thread, true)) {
		pace->seen = atomic_load(&reader->served);
		atomic_store(&pace->began, pace->seen);
		pace->quiet = 0;
		atomic_store(&pace->alone, reader);
		pthread_cond_signal(&pace->watch);
		lfs_count(LFS_COUNT_alone, 1);
	}
	pthread_mutex_unlock(&pace->lock);
}

/* Unless somebody has ended it meanwhile. */
static void resume(struct lfs_server *server, struct lfs_reader *reader)
{
	pthread_mutex_lock(&server->pace.lock);
	if (atomic_load(&server->pace.alone) == reader)
		give_way(reader->thread, true);
	pthread_mutex_unlock(&server->pace.lock);
}

/* --- what readers say --- */

void lfs_pace_leave(struct lfs_server *server)
{
	sched_setaffinity(0, sizeof server->processors, &server->processors);
	if (atomic_load(&server->pace.possible) && sched_getscheduler(0) == SCHED_IDLE)
		give_way(0, false);
}

void lfs_pace_start(struct lfs_reader *reader, int processor)
{
	reader->thread = gettid();
	reader->fixed = processor >= 0;
	atomic_store(&reader->processor, processor);
}

static bool leave(struct lfs_server *server, bool in_vain)
{
	pthread_mutex_lock(&server->pace.lock);
	bool others = server->pace.parked;
	end_alone(server, in_vain);
	pthread_mutex_unlock(&server->pace.lock);
	return others;
}

bool lfs_pace_spread(struct lfs_server *server, const struct lfs_reader *reader)
{
	struct lfs_reader *alone = atomic_load(&server->pace.alone);
	return alone && (alone != reader || leave(server, false));
}

/* The only caller waits for what he has written, mostly for less time than waking a reader and parking it again take. If it takes longer the
 * watch has others read, if there are any who do nothing else. The time does not count when steps are compared: that is the disk's. Who gives
 * way is woken late by a disk: one time in twenty only by the timer's next tick, up to 10 ms (measured on Linux 6.18). */
bool lfs_pace_waits(struct lfs_server *server, struct lfs_reader *reader, uint32_t opcode)
{
	struct lfs_pace *pace = &server->pace;
	bool alone = (opcode == FUSE_FSYNC || opcode == FUSE_FSYNCDIR) && atomic_load(&pace->alone) == reader;
	reader->waits_since = lfs_now();
	if (alone) {
		pthread_mutex_lock(&pace->lock);
		alone = pace->parked && atomic_load(&pace->alone) == reader;
		pthread_mutex_unlock(&pace->lock);
	}
	if (alone)
		give_way(reader->thread, false);
	atomic_store(&reader->waits, alone);
	return alone;
}

void lfs_pace_waited(struct lfs_server *server, struct lfs_reader *reader)
{
	reader->stamp += lfs_now() - reader->waits_since;
	if (atomic_exchange(&reader->waits, false))
		resume(server, reader);
}

static void follow(struct lfs_server *server, struct lfs_reader *reader)
{
	int processor = reader->fixed ? -1 : processor_of(server, reader->caller);
	if (processor >= 0 && processor != atomic_load(&reader->processor))
		bind_to(server, reader, processor);
}

/* Nanoseconds that a step took since `reader->stamp`, the caller's own work in between included. */
static uint64_t step_time(struct lfs_reader *reader, uint64_t now)
{
	return (now - reader->stamp) / ++reader->steps;
}

static void restart_clock(struct lfs_reader *reader, uint64_t now)
{
	reader->stamp = now;
	reader->steps = 0;
}

static void stay_or_leave(struct lfs_server *server, struct lfs_reader *reader, uint64_t now)
{
	bool in_vain = step_time(reader, now) > reader->before && reader->steps >= JUDGED;
	if (!in_vain && atomic_load(&reader->served) - server->pace.began < ALONE_FOR)
		return;
	leave(server, in_vain);
	reader->streak = 0;
}

static void step(struct lfs_server *server, struct lfs_reader *reader)
{
	struct lfs_pace *pace = &server->pace;
	uint64_t now = lfs_now();
	if (reader->streak == STEP) { /* now it is worth looking */
		restart_clock(reader, now);
	} else if (atomic_load(&pace->alone) == reader) {
		stay_or_leave(server, reader, now);
	} else {
		reader->before = step_time(reader, now);
		if (!reader->extra && reader->streak >= atomic_load_explicit(&pace->after, memory_order_relaxed)) {
			begin_alone(server, reader);
			restart_clock(reader, now);
		}
	}
	if (reader->streak % FOLLOW_EVERY == STEP)
		follow(server, reader);
}

void lfs_pace_request(struct lfs_server *server, struct lfs_reader *reader, uint32_t caller)
{
	atomic_store_explicit(&reader->served, reader->served + 1, memory_order_relaxed);
	if (server->options.no_follow || !caller)
		return;
	if (caller == reader->caller) {
		if (++reader->streak % STEP == 0)
			step(server, reader);
		return;
	}
	reader->caller = caller; /* several callers: let the scheduler spread us */
	reader->streak = 0;
	if (atomic_load(&server->pace.alone) == reader)
		leave(server, false);
	if (!reader->fixed && atomic_load(&reader->processor) >= 0)
		bind_to(server, reader, -1);
}

bool lfs_pace_parks(const struct lfs_server *server, const struct lfs_reader *reader)
{
	return reader->extra && atomic_load_explicit(&server->pace.alone, memory_order_relaxed);
}

/* Until there are several callers again; the caller is not counted as a reader meanwhile. */
void lfs_pace_park(struct lfs_server *server, struct lfs_reader *reader)
{
	struct lfs_pace *pace = &server->pace;
	pthread_mutex_lock(&pace->lock);
	if (atomic_load(&server->readers) > 1) {
		atomic_fetch_sub(&server->readers, 1);
		pace->parked++;
		while (atomic_load(&pace->alone) && !pace->ending)
			pthread_cond_wait(&pace->unpark, &pace->lock);
		pace->parked--;
		atomic_fetch_add(&server->readers, 1);
	}
	pthread_mutex_unlock(&pace->lock);
	reader->streak = 0;
}

void lfs_pace_init(struct lfs_server *server)
{
	struct lfs_pace *pace = &server->pace;
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&pace->lock, NULL);
	pthread_cond_init(&pace->watch, &monotonic);
	pthread_cond_init(&pace->unpark, NULL);
	pthread_condattr_destroy(&monotonic);
	atomic_store(&pace->after, ALONE_AFTER);
}

/* The connection is gone: nobody parks any more. */
void lfs_pace_end(struct lfs_server *server)
{
	struct lfs_pace *pace = &server->pace;
	pthread_mutex_lock(&pace->lock);
	pace->ending = true;
	end_alone(server, false);
	pthread_cond_broadcast(&pace->unpark);
	pthread_cond_signal(&pace->watch);
	bool watched = pace->watched;
	pace->watched = false;
	pthread_mutex_unlock(&pace->lock);
	if (watched)
		pthread_join(pace->watcher, NULL);
}
