/* What blocks.c and filler.c share: the state of an open file of which only some blocks are there. */
#ifndef LFS_FUSE_BLOCKS_H
#define LFS_FUSE_BLOCKS_H

#include <sys/uio.h>

#include "server.h"

#define LFS_CHUNK 1024u /* blocks that are looked up in the host's map at once */
#define LFS_CLAIM 16u	/* blocks that are filled at once; all in one chunk */

struct lfs_blocks {
	pthread_mutex_t lock;
	pthread_cond_t moved;		   /* the claim has ended */
	struct lfs_object base;		   /* closed: at rest */
	uint8_t identity[LFS_ID_SIZE];	   /* of the base */
	uint64_t valid, marked;		   /* bytes of the base that show; what the mark says */
	uint64_t count;			   /* blocks that these bytes are in */
	uint64_t *map, *known;		   /* a bit for each block that is here; for each CHUNK of them that was looked up */
	uint64_t claim, claim_end;	   /* blocks that a filler is writing */
	uint64_t changes;		   /* made by users */
	struct timespec modified;	   /* while there is a claim: what the filler's write hides */
	uint64_t claim_changes;
	struct lfs_node *node, *next;	   /* waiting to be filled: under the server's lock */
	bool queued;
};

/* With the file's lock: */
int lfs_blocks_know(struct lfs_blocks *blocks, int fd, uint64_t first, uint64_t last); /* before it is asked: */
bool lfs_blocks_missing(const struct lfs_blocks *blocks, uint64_t index);
void lfs_blocks_here(struct lfs_blocks *blocks, uint64_t first, uint64_t stop); /* these are written */
uint64_t lfs_blocks_take_back(const struct lfs_blocks *blocks, int fd, uint64_t reached);
	/* A block that was missing and is half written would show zeros: it goes again. How far the writing really came. */
void lfs_blocks_await(struct lfs_blocks *blocks, uint64_t first, uint64_t last);
	/* Until no filler is writing one of these blocks, nor the last one when they go beyond it. */
/* Without it: */
size_t lfs_blocks_put(int fd, struct iovec *parts, int count, uint64_t at, int *rc);
	/* All of the parts, in as few writes as the host likes. The bytes written; fewer with *rc. */
int lfs_blocks_fill(struct lfs_blocks *blocks, int fd, uint64_t *at, uint64_t stop, uint8_t *buffer, bool keep_times);
	/* One run of at most LFS_CLAIM missing blocks from *at on, which goes behind it. 1: nothing is missing up to `stop`. */

#endif
