/* io_uring by its system calls, see ring.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif

enum { SETUP_DISABLED = 1u << 6, SETUP_COOPERATIVE = 1u << 8, SETUP_SQE128 = 1u << 10, SETUP_SINGLE_ISSUER = 1u << 12, SETUP_DEFER = 1u << 13 };
enum { FEATURE_SINGLE_MMAP = 1u << 0, FEATURE_EXT_ARG = 1u << 8 };
enum { ENTER_GETEVENTS = 1u << 0, ENTER_EXT_ARG = 1u << 3 };
enum { REGISTER_ENABLE = 12 };
#define OFFSET_SQES 0x10000000

struct offsets {
	uint32_t head, tail, mask, entries, a, b, c, d; /* SQ: flags, dropped, array; CQ: overflow, cqes, flags */
	uint64_t user;
};
struct parameters {
	uint32_t sq_entries, cq_entries, flags, cpu, idle, features, wq_fd, reserved[3];
	struct offsets sq, cq;
};
_Static_assert(sizeof(struct parameters) == 120, "layout");

static int setup(unsigned entries, bool handed_over, struct parameters *out)
{
	/* newest first: no interrupting of the thread, work only when it waits; then what older kernels know */
	const uint32_t newest = SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER | (handed_over ? SETUP_DISABLED : 0);
	const uint32_t flags[] = {newest, SETUP_SQE128 | SETUP_COOPERATIVE, SETUP_SQE128};
	int fd = -1;
	for (size_t i = 0; fd < 0 && i < sizeof flags / sizeof *flags; i++) {
		*out = (struct parameters){.flags = flags[i]};
		fd = (int)syscall(SYS_io_uring_setup, entries, out);
		if (fd < 0 && errno != EINVAL)
			break;
	}
	return fd < 0 ? -errno : fd;
}

int lfs_ring_open(struct lfs_ring *ring, unsigned entries, bool handed_over)
{
	struct parameters parameters;
	*ring = (struct lfs_ring){.fd = setup(entries, handed_over, &parameters)};
	if (ring->fd < 0)
		return ring->fd;
	if (!(parameters.features & FEATURE_SINGLE_MMAP) || !(parameters.features & FEATURE_EXT_ARG)) {
		lfs_ring_close(ring);
		return -EOPNOTSUPP;
	}
	size_t sq_size = parameters.sq.c + parameters.sq_entries * sizeof(uint32_t);
	size_t cq_size = parameters.cq.b + parameters.cq_entries * sizeof(struct lfs_cqe);
	ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
	ring->sq_entries = parameters.sq_entries;
	uint8_t *map = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0);
	void *sqes = mmap(NULL, parameters.sq_entries * sizeof(struct lfs_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, OFFSET_SQES);
	ring->rings = map == MAP_FAILED ? NULL : map;
	ring->sqes = sqes == MAP_FAILED ? NULL : sqes;
	if (!ring->rings || !ring->sqes) {
		lfs_ring_close(ring);
		return -ENOMEM;
	}
	ring->disabled = parameters.flags & SETUP_DISABLED;
	ring->sq_tail = (uint32_t *)(map + parameters.sq.tail);
	ring->sq_mask = *(uint32_t *)(map + parameters.sq.mask);
	ring->cq_head = (uint32_t *)(map + parameters.cq.head);
	ring->cq_tail = (uint32_t *)(map + parameters.cq.tail);
	ring->cq_mask = *(uint32_t *)(map + parameters.cq.mask);
	ring->cqes = (struct lfs_cqe *)(map + parameters.cq.b);
	uint32_t *array = (uint32_t *)(map + parameters.sq.c);
	for (uint32_t i = 0; i < parameters.sq_entries; i++)
		array[i] = i;
	return 0;
}

void lfs_ring_close(struct lfs_ring *ring)
{
	if (ring->rings)
		munmap(ring->rings, ring->rings_size);
	if (ring->sqes)
		munmap(ring->sqes, ring->sq_entries * sizeof(struct lfs_sqe));
	if (ring->fd >= 0)
		close(ring->fd);
	*ring = (struct lfs_ring){.fd = -1};
}

int lfs_ring_enable(struct lfs_ring *ring)
{
	if (!ring->disabled)
		return 0;
	ring->disabled = false;
	return syscall(SYS_io_uring_register, ring->fd, REGISTER_ENABLE, NULL, 0) < 0 ? -errno : 0;
}

struct lfs_sqe *lfs_ring_next(struct lfs_ring *ring)
{
	struct lfs_sqe *sqe = &ring->sqes[(*ring->sq_tail + ring->pending) & ring->sq_mask];
	ring->pending++;
	memset(sqe, 0, sizeof *sqe);
	return sqe;
}

int lfs_ring_enter(struct lfs_ring *ring, unsigned wait, unsigned milliseconds)
{
	struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	struct {
		uint64_t mask;
		uint32_t mask_size, zero;
		uint64_t limit;
	} argument = {0, 8, 0, (uint64_t)(uintptr_t)&limit};
	unsigned flags = wait ? ENTER_GETEVENTS | (milliseconds ? ENTER_EXT_ARG : 0) : 0;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + ring->pending, __ATOMIC_RELEASE);
	unsigned count = ring->pending;
	ring->pending = 0;
	for (;;) {
		long done = syscall(SYS_io_uring_enter, ring->fd, count, wait, flags, flags & ENTER_EXT_ARG ? (void *)&argument : NULL,
				    flags & ENTER_EXT_ARG ? sizeof argument : 0);
		if (done >= 0 && (unsigned)done >= count)
			return 0;
		if (done >= 0)
			count -= (unsigned)done;
		else if (errno == ETIME)
			return -ETIME; /* what there was to submit went in before the wait */
		else if (errno != EINTR && errno != EAGAIN && errno != EBUSY)
			return -errno;
	}
}

bool lfs_ring_take(struct lfs_ring *ring, struct lfs_cqe *out)
{
	uint32_t head = *ring->cq_head;
	if (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*out = ring->cqes[head & ring->cq_mask];
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}
