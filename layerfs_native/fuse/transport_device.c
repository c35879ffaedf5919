/* Requests by read(2) and replies by writev(2) on /dev/fuse; each thread has a descriptor of its own, cloned from the first. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server.h"

#define FRONT 4096u /* room for header and arguments before a write's data, which so is on whole pages: they are copied one by one */

#define FORGET_MICROSECONDS 1000u

struct worker {
	struct lfs_server *server;
	pthread_t thread;
	struct lfs_reader reader;
	int device;
	uint8_t *map, *in, *out;
	size_t size;
	bool started;
};

void lfs_thread_start(struct lfs_server *server)
{
	lfs_meter_start(server);
	lfs_pace_leave(server);
	if (unshare(CLONE_FS) == 0) /* else all threads share them: one identity at a time would be wrong, see main() */
		(void)!fchdir(server->upper.links);
}

static int map_buffers(struct worker *worker)
{
	worker->size = worker->server->max_write + FRONT;
	worker->map = mmap(NULL, worker->size * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (worker->map == MAP_FAILED)
		return worker->map = NULL, -ENOMEM;
	worker->in = worker->map + FRONT - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in);
	worker->out = worker->map + worker->size;
	return 0;
}

static int reply(struct worker *worker, struct lfs_request *request, int error)
{
	size_t size = error ? 0 : request->out_size;
	struct fuse_out_header header = {(uint32_t)(sizeof header + size), error, request->header.unique};
	struct iovec parts[2] = {{&header, sizeof header}, {request->out, size}};
	ssize_t done = writev(worker->device, parts, size ? 2 : 1);
	return done < 0 ? -errno : 0;
}

/* --- one is always reading: who is about to take long has another thread read meanwhile --- */

struct spare {
	struct lfs_job job;
	struct worker worker;
};

static int serve_one(struct worker *worker);

/* Whether there are more readers than wanted without this one, which is not counted any more then. */
static bool superfluous(struct lfs_server *server)
{
	unsigned readers = atomic_load(&server->readers);
	while (readers > server->readers_wanted)
		if (atomic_compare_exchange_weak(&server->readers, &readers, readers - 1))
			return true;
	return false;
}

static void read_meanwhile(struct lfs_job *job)
{
	struct spare *spare = (struct spare *)job;
	struct worker *worker = &spare->worker;
	bool more = map_buffers(worker) == 0;
	lfs_pace_start(&worker->reader, -1);
	while (more && !atomic_load(&worker->server->ending) && !serve_one(worker))
		more = !superfluous(worker->server);
	if (more || !worker->map)
		atomic_fetch_sub(&worker->server->readers, 1);
	if (worker->map)
		munmap(worker->map, worker->size * 2);
	free(spare);
}

static void stop_reading(struct worker *worker)
{
	struct lfs_server *server = worker->server;
	bool others = lfs_pace_spread(server, &worker->reader);
	if (atomic_fetch_sub(&server->readers, 1) > 1 || others)
		return;
	struct spare *spare = calloc(1, sizeof *spare);
	if (!spare)
		return; /* then all wait */
	spare->job.run = read_meanwhile;
	spare->worker = (struct worker){.server = server, .device = server->device, .reader = {.extra = true}};
	atomic_fetch_add(&server->readers, 1);
	if (lfs_aside(server, &spare->job) < 0) {
		atomic_fetch_sub(&server->readers, 1);
		free(spare);
	}
}

/* 0 to go on; 1 when the connection is gone. */
static int serve_one(struct worker *worker)
{
	struct lfs_request request = {.server = worker->server, .out = worker->out, .out_room = worker->size};
	ssize_t size = read(worker->device, worker->in, worker->size - (size_t)(worker->in - worker->map));
	if (size < 0)
		return errno == ENOENT || errno == EINTR || errno == EAGAIN ? 0 : 1;
	if ((size_t)size < sizeof request.header)
		return 0;
	memcpy(&request.header, worker->in, sizeof request.header);
	if (request.header.len != (size_t)size)
		return 0;
	lfs_pace_request(worker->server, &worker->reader, request.header.pid);
	request.args = worker->in + sizeof request.header;
	request.args_size = (size_t)size - sizeof request.header;
	bool takes_long = lfs_takes_long(&request), alone = takes_long && lfs_pace_waits(worker->server, &worker->reader, request.header.opcode);
	if (takes_long && !alone)
		stop_reading(worker);
	int error = lfs_dispatch(&request);
	if (takes_long)
		lfs_pace_waited(worker->server, &worker->reader);
	if (takes_long && !alone)
		atomic_fetch_add(&worker->server->readers, 1);
	if (request.silent)
		return worker->server->uring ? usleep(FORGET_MICROSECONDS), 0 : 0; /* then there are more to read at once */
	int rc = reply(worker, &request, error);
	if (rc == -ENOENT)
		lfs_undelivered(&request);
	return rc == -ENODEV ? 1 : 0;
}

static void *work(void *context)
{
	struct worker *worker = context;
	lfs_thread_start(worker->server);
	lfs_pace_start(&worker->reader, -1);
	while (!atomic_load(&worker->server->ending) && !serve_one(worker))
		if (lfs_pace_parks(worker->server, &worker->reader))
			lfs_pace_park(worker->server, &worker->reader);
	return NULL;
}

int lfs_notify_attr(struct lfs_server *server, const struct lfs_node *node)
{
	struct fuse_notify_inval_inode_out out = {lfs_node_id(node), -1, 0};
	struct fuse_out_header header = {(uint32_t)(sizeof header + sizeof out), FUSE_NOTIFY_INVAL_INODE, 0};
	struct iovec parts[2] = {{&header, sizeof header}, {&out, sizeof out}};
	return writev(server->device, parts, 2) < 0 ? -errno : 0;
}

static int clone_device(const struct lfs_server *server)
{
	uint32_t original = (uint32_t)server->device;
	LFS_AUTO_FD fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, FUSE_IOC_CLONE, &original) < 0)
		return -errno;
	return lfs_steal_fd(&fd);
}

static int start_workers(struct lfs_server *server, struct worker *workers, unsigned count)
{
	int rc = 0;
	for (unsigned i = 0; !rc && i < count; i++) {
		workers[i].server = server;
		workers[i].reader.extra = i > 0;
		workers[i].device = i ? server->clones[i - 1] : server->device;
		if (workers[i].device < 0)
			continue;
		rc = map_buffers(&workers[i]);
		if (!rc && i) /* the first one is this thread */
			workers[i].started = pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
	}
	return rc;
}

void lfs_clone_devices(struct lfs_server *server)
{
	for (unsigned i = 0; i < LFS_THREADS_MAX - 1; i++)
		server->clones[i] = i + 1 < server->options.threads ? clone_device(server) : LFS_NO_FD;
}

/* Only the first request, INIT, so that nothing else has started yet. */
int lfs_serve_init(struct lfs_server *server)
{
	struct worker worker = {.server = server, .device = server->device};
	int rc = map_buffers(&worker);
	while (!rc && !server->ready)
		rc = serve_one(&worker) ? -ENODEV : 0;
	if (worker.map)
		munmap(worker.map, worker.size * 2);
	return rc;
}

int lfs_serve_device(struct lfs_server *server)
{
	struct worker workers[LFS_THREADS_MAX] = {0};
	unsigned count = lfs_uring_start(server) ? 1 : server->options.threads;
	atomic_store(&server->readers, count);
	server->readers_wanted = count;
	int rc = start_workers(server, workers, count);
	if (!rc)
		work(&workers[0]);
	atomic_store(&server->ending, true);
	lfs_pace_end(server);
	for (unsigned i = 0; i < count; i++) {
		if (workers[i].started)
			pthread_join(workers[i].thread, NULL);
		if (workers[i].map)
			munmap(workers[i].map, workers[i].size * 2);
	}
	lfs_uring_join(server);
	lfs_aside_end(server); /* before its rings go: who woke one up last may still be at it */
	lfs_uring_end(server);
	return rc;
}
