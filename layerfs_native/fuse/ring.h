/* io_uring by its system calls: the little of it that FUSE over io_uring needs, with definitions of its own, as distributions' headers are
 * older than their kernels. One thread uses a ring. */
#ifndef LFS_FUSE_RING_H
#define LFS_FUSE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LFS_RING_READ = 22, LFS_RING_COMMAND = 46 }; /* opcodes */

struct lfs_sqe { /* a submission, in its form of 128 bytes */
	uint8_t opcode, flags;
	uint16_t priority;
	int32_t fd;
	uint32_t command, zero;
	uint64_t address;
	uint32_t size, command_flags;
	uint64_t user_data;
	uint16_t buffer, personality;
	int32_t splice_fd;
	uint8_t data[80];
};
struct lfs_cqe {
	uint64_t user_data;
	int32_t result;
	uint32_t flags;
};
struct lfs_ring {
	int fd;
	bool disabled; /* until the thread that uses it enables it */
	void *rings;
	size_t rings_size;
	struct lfs_sqe *sqes;
	struct lfs_cqe *cqes;
	uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t sq_mask, sq_entries, cq_mask, pending; /* pending: not submitted yet */
};

int lfs_ring_open(struct lfs_ring *ring, unsigned entries, bool handed_over); /* handed over: another thread enables and uses it */
void lfs_ring_close(struct lfs_ring *ring);
int lfs_ring_enable(struct lfs_ring *ring);	       /* by the thread that is going to use it */
struct lfs_sqe *lfs_ring_next(struct lfs_ring *ring); /* zeroed; there must be room */
int lfs_ring_enter(struct lfs_ring *ring, unsigned wait, unsigned milliseconds); /* submits, waits for `wait` ones; 0: no time limit */
bool lfs_ring_take(struct lfs_ring *ring, struct lfs_cqe *out);			 /* a completion, if there is one */

_Static_assert(sizeof(struct lfs_sqe) == 128, "layout");
_Static_assert(sizeof(struct lfs_cqe) == 16, "layout");

#endif
