/* Requests and replies over io_uring, where the host has it switched on (fuse.enable_uring): one ring and one thread a processor, which the
 * kernel asks on the processor of the caller, so that a wake-up never crosses to another one. The kernel wants a queue for every possible
 * processor; those of processors that we may not run on are served by the other threads. The device goes on to bring FORGET and INTERRUPT,
 * and takes notifications. An entry is a request's place in memory: the kernel writes the request into it, we the reply. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ring.h"
#include "server.h"

#define FRONT 4096u	     /* of an entry: the kernel's headers, and room for arguments */
#define OP_IN_SIZE 128u
#define DEPTH_MAX 8u	     /* entries of a queue */
#define ENTRIES_WANTED 32u   /* of all queues */
#define QUEUES_MAX 4096u
#define LARGE (64u << 10)    /* a payload over this is given back to the system when the ring is idle */
#define IDLE_MILLISECONDS 1000u

struct entry {
	struct lfs_job job; /* when it is served aside */
	struct lfs_request request;
	struct lfs_uring *ring;
	struct entry *next; /* of those done aside */
	uint8_t *memory;    /* FRONT, then the payload */
	struct iovec parts[2];
	uint64_t commit_id;
	int error;
	uint16_t queue;
	bool large, aside;
};

struct lfs_uring { /* one thread's */
	struct lfs_server *server;
	struct lfs_ring ring;
	pthread_t thread;
	int processor; /* -1: anywhere */
	struct lfs_reader reader;
	int wake;      /* eventfd: something was done aside */
	uint64_t wakes;
	struct entry *entries;
	unsigned count, alive;
	_Atomic(struct entry *) done;
	unsigned rings; /* in the first one: how many there are */
	uint8_t *memory;
	size_t memory_size, payload_size;
	bool started, failed, large;
	sem_t reported; /* in the first one: threads whose entries are registered, or not */
};

static struct fuse_uring_header *header_of(const struct entry *entry)
{
	return (struct fuse_uring_header *)entry->memory;
}

static uint8_t *payload_of(const struct entry *entry)
{
	return entry->memory + FRONT;
}

/* --- making the rings --- */

static bool switched_on(void)
{
	char value = 0;
	LFS_AUTO_FD fd = open("/sys/module/fuse/parameters/enable_uring", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, &value, 1) == 1 && value == 'Y';
}

/* How many bits a list like "0-3,8-11" has. */
static unsigned possible_processors(void)
{
	char text[1024];
	LFS_AUTO_FD fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	unsigned count = 0;
	if (size <= 0)
		return 0;
	text[size] = 0;
	for (char *at = text; *at >= '0' && *at <= '9'; at += *at == ',') {
		unsigned long first = strtoul(at, &at, 10), last = *at == '-' ? strtoul(at + 1, &at, 10) : first;
		count += last >= first && last < QUEUES_MAX ? (unsigned)(last - first) + 1 : 0;
	}
	return count;
}

static unsigned depth_of(unsigned queues)
{
	unsigned depth = ENTRIES_WANTED / queues;
	return depth > DEPTH_MAX ? DEPTH_MAX : depth < 2 ? 2 : depth;
}

static void ring_free(struct lfs_uring *ring)
{
	lfs_ring_close(&ring->ring);
	lfs_close_fd(&ring->wake);
	if (ring->memory)
		munmap(ring->memory, ring->memory_size);
	free(ring->entries);
}

static int ring_make(struct lfs_uring *ring, struct lfs_server *server, unsigned count)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	ring->server = server;
	ring->count = count;
	ring->payload_size = server->max_write / LFS_BLOCK * page; /* the kernel wants room for max_pages */
	ring->memory_size = count * (FRONT + ring->payload_size);
	ring->wake = eventfd(0, EFD_CLOEXEC);
	ring->entries = calloc(count, sizeof *ring->entries);
	void *memory = mmap(NULL, ring->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ring->memory = memory == MAP_FAILED ? NULL : memory;
	if (ring->wake < 0 || !ring->entries || !ring->memory)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++)
		ring->entries[i] = (struct entry){.ring = ring, .memory = ring->memory + i * (FRONT + ring->payload_size)};
	return lfs_ring_open(&ring->ring, count + 1, true);
}

/* Queue q belongs to the ring of processor q; those of other processors are dealt out. */
static int make_rings(struct lfs_uring *rings, struct lfs_server *server, unsigned queues)
{
	unsigned ring_of[QUEUES_MAX], shares[QUEUES_MAX] = {0}, count = rings->rings, next = 0, depth = depth_of(queues);
	int rc = 0;
	for (unsigned queue = 0, dealt = 0; queue < queues; queue++) {
		bool ours = CPU_ISSET(queue, &server->processors) && next < count;
		ring_of[queue] = ours ? next++ : dealt++ % count;
		rings[ring_of[queue]].processor = ours ? (int)queue : rings[ring_of[queue]].processor;
		shares[ring_of[queue]] += depth;
	}
	for (unsigned i = 0; !rc && i < count; i++)
		rc = ring_make(&rings[i], server, shares[i] ? shares[i] : 1);
	for (unsigned queue = queues; !rc && queue--;)
		for (unsigned i = 0; i < depth; i++)
			rings[ring_of[queue]].entries[--shares[ring_of[queue]]].queue = (uint16_t)queue;
	return rc;
}

void lfs_uring_prepare(struct lfs_server *server)
{
	unsigned queues = server->options.no_uring || !switched_on() ? 0 : possible_processors();
	unsigned count = (unsigned)CPU_COUNT(&server->processors);
	if (!queues || queues > QUEUES_MAX || !count)
		return;
	count = count < queues ? count : queues;
	struct lfs_uring *rings = calloc(count, sizeof *rings);
	if (!rings)
		return;
	for (unsigned i = 0; i < count; i++)
		rings[i].processor = rings[i].wake = rings[i].ring.fd = LFS_NO_FD;
	rings->rings = count;
	sem_init(&rings->reported, 0, 0);
	server->rings = rings;
	if (make_rings(rings, server, queues) < 0)
		lfs_uring_end(server);
}

/* The kernel was told that rings would come, and holds requests back until they do: a registration that it refuses lets them go. */
static void refuse(struct lfs_server *server)
{
	struct lfs_ring ring;
	struct fuse_uring_command data = {.queue = UINT16_MAX};
	if (lfs_ring_open(&ring, 1, false) < 0)
		return;
	struct lfs_sqe *sqe = lfs_ring_next(&ring);
	sqe->opcode = LFS_RING_COMMAND;
	sqe->fd = server->device;
	sqe->command = FUSE_URING_REGISTER;
	memcpy(sqe->data, &data, sizeof data);
	lfs_ring_enter(&ring, 0, 0);
	lfs_ring_close(&ring);
}

/* --- to the kernel --- */

static struct lfs_sqe *command(struct entry *entry, uint32_t operation)
{
	struct lfs_sqe *sqe = lfs_ring_next(&entry->ring->ring);
	struct fuse_uring_command data = {.commit_id = entry->commit_id, .queue = entry->queue};
	sqe->opcode = LFS_RING_COMMAND;
	sqe->fd = entry->ring->server->device;
	sqe->command = operation;
	sqe->user_data = (uint64_t)(uintptr_t)entry;
	memcpy(sqe->data, &data, sizeof data);
	return sqe;
}

static void enlist(struct entry *entry)
{
	struct lfs_sqe *sqe = command(entry, FUSE_URING_REGISTER);
	entry->parts[0] = (struct iovec){entry->memory, sizeof(struct fuse_uring_header)};
	entry->parts[1] = (struct iovec){payload_of(entry), entry->ring->payload_size};
	sqe->address = (uint64_t)(uintptr_t)entry->parts;
	sqe->size = 2;
}

static void commit(struct entry *entry)
{
	struct fuse_uring_header *header = header_of(entry);
	size_t size = entry->error ? 0 : entry->request.out_size;
	struct fuse_out_header out = {(uint32_t)(sizeof out + size), entry->error, entry->request.header.unique};
	memcpy(header->in_out, &out, sizeof out);
	header->ring.payload_size = (uint32_t)size;
	if (size > LARGE)
		entry->large = entry->ring->large = true;
	command(entry, FUSE_URING_COMMIT_AND_FETCH);
}

static void await_done(struct lfs_uring *ring)
{
	struct lfs_sqe *sqe = lfs_ring_next(&ring->ring);
	sqe->opcode = LFS_RING_READ;
	sqe->fd = ring->wake;
	sqe->address = (uint64_t)(uintptr_t)&ring->wakes;
	sqe->size = sizeof ring->wakes;
}

/* --- a request --- */

/* The kernel gives the operation's struct and the rest apart. They are put together where a reply will not overwrite them, or, when they are
 * large (a write's data), in place, in front of the payload: operations that take so much reply little, and at the end. */
static void gather(struct entry *entry)
{
	struct lfs_request *request = &entry->request;
	const struct fuse_uring_header *header = header_of(entry);
	*request = (struct lfs_request){.server = entry->ring->server, .out = payload_of(entry), .out_room = entry->ring->payload_size};
	memcpy(&request->header, header->in_out, sizeof request->header);
	size_t size = request->header.len < sizeof request->header ? 0 : request->header.len - sizeof request->header;
	size_t rest = header->ring.payload_size < size ? header->ring.payload_size : size;
	size_t front = size - rest < OP_IN_SIZE ? size - rest : OP_IN_SIZE;
	const size_t used = sizeof *header;
	uint8_t *args = payload_of(entry) - front;
	if (request->header.opcode != FUSE_WRITE && front + rest <= FRONT - OP_IN_SIZE - used) {
		args = entry->memory + used;
		memcpy(args + front, payload_of(entry), rest);
	}
	memcpy(args, header->op_in, front);
	request->args = args;
	request->args_size = front + rest;
	entry->commit_id = header->ring.commit_id;
	if (rest > LARGE)
		entry->large = entry->ring->large = true;
}

static void serve_aside(struct lfs_job *job)
{
	struct entry *entry = (struct entry *)job;
	struct lfs_uring *ring = entry->ring;
	entry->error = lfs_dispatch(&entry->request);
	entry->next = atomic_load(&ring->done);
	while (!atomic_compare_exchange_weak(&ring->done, &entry->next, entry))
		;
	(void)!write(ring->wake, &(uint64_t){1}, sizeof(uint64_t));
}

static void serve(struct entry *entry)
{
	gather(entry);
	lfs_pace_request(entry->ring->server, &entry->ring->reader, entry->request.header.pid);
	if (entry->ring->ring.pending && entry->request.header.opcode == FUSE_READ)
		lfs_ring_enter(&entry->ring->ring, 0, 0); /* others' replies do not wait for the disk */
	entry->job.run = serve_aside;
	entry->aside = lfs_takes_long(&entry->request) && lfs_aside(entry->ring->server, &entry->job) == 0;
	if (entry->aside)
		return;
	entry->error = lfs_dispatch(&entry->request);
	commit(entry);
}

static void commit_done(struct lfs_uring *ring)
{
	struct entry *entry = atomic_exchange(&ring->done, NULL), *next;
	for (; entry; entry = next) {
		next = entry->next;
		entry->aside = false;
		commit(entry);
	}
	await_done(ring);
}

/* --- the thread --- */

static void take_completions(struct lfs_uring *ring)
{
	struct lfs_cqe cqe;
	while (lfs_ring_take(&ring->ring, &cqe)) {
		struct entry *entry = (struct entry *)(uintptr_t)cqe.user_data;
		if (!entry)
			commit_done(ring);
		else if (cqe.result < 0)
			ring->alive--; /* the mount is gone, or the kernel does not want it */
		else
			serve(entry);
	}
}

/* Buffers that large requests touched are not kept for ever. Entries that wait for the kernel hold nothing. */
static void give_back(struct lfs_uring *ring)
{
	for (unsigned i = 0; i < ring->count; i++) {
		if (ring->entries[i].aside)
			return; /* later */
		if (ring->entries[i].large)
			madvise(payload_of(&ring->entries[i]), ring->payload_size, MADV_DONTNEED);
		ring->entries[i].large = false;
	}
	ring->large = false;
}

static void bind_to(const struct lfs_uring *ring)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	if (ring->processor < 0)
		return;
	CPU_SET((unsigned)ring->processor, &set);
	sched_setaffinity(0, sizeof set, &set);
}

/* Registers all entries; whether the kernel took them. */
static bool enlist_all(struct lfs_uring *ring)
{
	if (lfs_ring_enable(&ring->ring) < 0)
		return false;
	await_done(ring);
	for (unsigned i = 0; i < ring->count; i++)
		enlist(&ring->entries[i]);
	ring->alive = ring->count;
	if (lfs_ring_enter(&ring->ring, 0, 0) < 0)
		return false;
	take_completions(ring);
	return ring->alive == ring->count;
}

static void *work(void *context)
{
	struct lfs_uring *ring = context;
	lfs_thread_start(ring->server);
	bind_to(ring);
	lfs_pace_start(&ring->reader, ring->processor);
	ring->failed = !enlist_all(ring);
	sem_post(&ring->server->rings->reported);
	while (ring->alive) {
		int rc = lfs_ring_enter(&ring->ring, 1, ring->large ? IDLE_MILLISECONDS : 0);
		if (rc == -ETIME)
			give_back(ring);
		else if (rc < 0)
			break;
		take_completions(ring);
	}
	return NULL;
}

bool lfs_uring_start(struct lfs_server *server)
{
	struct lfs_uring *rings = server->rings;
	bool ready = rings && server->uring;
	unsigned started = 0;
	if (rings && !ready) { /* not offered after all */
		lfs_uring_end(server);
		return false;
	}
	for (unsigned i = 0; ready && i < rings->rings; i++, started += ready)
		ready = rings[i].started = pthread_create(&rings[i].thread, NULL, work, &rings[i]) == 0;
	for (unsigned i = 0; i < started; i++)
		while (sem_wait(&rings->reported) < 0)
			;
	for (unsigned i = 0; i < started; i++)
		ready &= !rings[i].failed;
	if (rings && !ready)
		refuse(server);
	server->uring = ready;
	return ready;
}

void lfs_uring_join(struct lfs_server *server)
{
	struct lfs_uring *rings = server->rings;
	for (unsigned i = 0; rings && i < rings->rings; i++)
		if (rings[i].started)
			pthread_join(rings[i].thread, NULL);
}

void lfs_uring_end(struct lfs_server *server)
{
	struct lfs_uring *rings = server->rings;
	for (unsigned i = 0; rings && i < rings->rings; i++)
		ring_free(&rings[i]);
	free(rings);
	server->rings = NULL;
}
