/* Completing files of which only some blocks are there: a thread of its own that gives them the base's bytes, in small pieces and for no
 * writer to wait for. It reads the base first, then claims what is still missing and writes it; only who writes to those few blocks waits.
 * Only files of which most was written anew are completed, when they are closed: then the kernel reads and writes them without us. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "blocks.h"

#define PACE 256u /* blocks that are filled before they go to the disk */

/* --- filling --- */

/* The first run of missing blocks in [*at, stop), of CLAIM at most; *at goes to it. Its length; with the file's lock held. */
static int64_t next_run(struct lfs_blocks *blocks, int fd, uint64_t *at, uint64_t stop)
{
	stop = stop < blocks->count ? stop : blocks->count;
	uint64_t run = 0;
	for (; *at < stop; ++*at) {
		int rc = lfs_blocks_know(blocks, fd, *at, *at);
		if (rc < 0)
			return rc;
		if (lfs_blocks_missing(blocks, *at))
			break;
	}
	while (run < LFS_CLAIM && *at + run < stop && (*at + run) / LFS_CHUNK == *at / LFS_CHUNK && lfs_blocks_missing(blocks, *at + run))
		run++;
	return (int64_t)run;
}

static int read_run(const struct lfs_blocks *blocks, uint64_t at, uint64_t size, uint8_t *buffer)
{
	uint64_t done = 0;
	while (done < size) {
		ssize_t got = lfs_object_read(&blocks->base, buffer + done, size - done, at + done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EIO;
		done += (uint64_t)got;
	}
	return 0;
}

/* Writes a claimed run; the file keeps its time unless somebody changes it meanwhile. */
static int write_run(struct lfs_blocks *blocks, int fd, uint64_t first, uint64_t size, uint8_t *buffer, bool keep_times)
{
	struct iovec part = {buffer, size};
	int rc = 0;
	uint64_t at = first * LFS_BLOCK, reached = at + lfs_blocks_put(fd, &part, 1, at, &rc);
	pthread_mutex_lock(&blocks->lock);
	if (rc < 0)
		reached = lfs_blocks_take_back(blocks, fd, reached);
	lfs_blocks_here(blocks, first, rc < 0 ? reached / LFS_BLOCK : first + (size + LFS_BLOCK - 1) / LFS_BLOCK);
	if (keep_times && blocks->claim_changes == blocks->changes) {
		const struct timespec times[2] = {{0, UTIME_OMIT}, blocks->modified};
		futimens(fd, times);
	}
	blocks->claim = blocks->claim_end = 0;
	pthread_cond_broadcast(&blocks->moved);
	pthread_mutex_unlock(&blocks->lock);
	return rc;
}

/* One run from *at on, which goes behind it. The base is read without a claim; whoever writes meanwhile wins. 1: nothing is missing. */
int lfs_blocks_fill(struct lfs_blocks *blocks, int fd, uint64_t *at, uint64_t stop, uint8_t *buffer, bool keep_times)
{
	struct stat status;
	pthread_mutex_lock(&blocks->lock);
	int64_t run = next_run(blocks, fd, at, stop);
	uint64_t first = *at, size = (uint64_t)run * LFS_BLOCK;
	if (run > 0 && size > blocks->valid - first * LFS_BLOCK)
		size = blocks->valid - first * LFS_BLOCK;
	pthread_mutex_unlock(&blocks->lock);
	if (run <= 0)
		return run < 0 ? (int)run : 1;
	int rc = read_run(blocks, first * LFS_BLOCK, size, buffer);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	int64_t left = next_run(blocks, fd, at, first + (uint64_t)run);
	uint64_t skipped = (*at - first) * LFS_BLOCK;
	if (left <= 0 || fstat(fd, &status) < 0) {
		rc = left < 0 ? (int)left : left ? -errno : 0;
		pthread_mutex_unlock(&blocks->lock);
		return rc;
	}
	size = (uint64_t)left * LFS_BLOCK;
	if (size > blocks->valid - *at * LFS_BLOCK)
		size = blocks->valid - *at * LFS_BLOCK;
	first = *at;
	blocks->claim = first;
	blocks->claim_end = first + (uint64_t)left;
	blocks->claim_changes = blocks->changes;
	blocks->modified = status.st_mtim;
	pthread_mutex_unlock(&blocks->lock);
	*at = first + (uint64_t)left;
	return write_run(blocks, fd, first, size, buffer + skipped, keep_times);
}

/* Whether the file may go on being filled. */
static bool goes_on(struct lfs_server *server, const struct lfs_node *node)
{
	lfs_lock(server);
	bool on = !(node->flags & LFS_UNLINKED) && node->flags & LFS_BLOCKS;
	lfs_unlock(server);
	return on && !atomic_load(&server->ending) && !atomic_load(&server->freezing);
}

/* The blocks in which the base has bytes next. Those of its holes stay missing: they read the same when the mark is gone. 1: there are none. */
static int next_bytes(const struct lfs_blocks *blocks, uint64_t *at, uint64_t *stop)
{
	off_t data = lfs_object_seek(&blocks->base, *at * LFS_BLOCK, SEEK_DATA);
	off_t hole = data < 0 ? data : lfs_object_seek(&blocks->base, (uint64_t)data, SEEK_HOLE);
	if (hole < 0)
		return errno == ENXIO ? 1 : -errno;
	*at = (uint64_t)data / LFS_BLOCK;
	*stop = ((uint64_t)hole + LFS_BLOCK - 1) / LFS_BLOCK;
	return 0;
}

static int fill_all(struct lfs_server *server, struct lfs_node *node, int fd)
{
	struct lfs_blocks *blocks = node->file->blocks;
	uint8_t *buffer = malloc(LFS_CLAIM * LFS_BLOCK);
	uint64_t at = 0, stop = 0, synced = 0;
	int rc = buffer ? 0 : -ENOMEM;
	while (rc >= 0 && (at < stop || (rc = next_bytes(blocks, &at, &stop)) == 0)) {
		rc = lfs_blocks_fill(blocks, fd, &at, stop, buffer, true);
		if (rc > 0)
			at = stop;
		if (at - synced < PACE)
			continue;
		if (!server->options.volatile_) /* little by little, so that nobody meets a mountain of dirty pages */
			sync_file_range(fd, (off_t)(synced * LFS_BLOCK), (off_t)((at - synced) * LFS_BLOCK),
					SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
		synced = at;
		if (rc >= 0 && !goes_on(server, node))
			rc = -ECANCELED;
	}
	free(buffer);
	if (rc > 0 && !server->options.volatile_ && fsync(fd) < 0)
		rc = -errno;
	return rc < 0 ? rc : 0;
}

static void fill_file(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_content content;
	lfs_lock(server);
	int rc = node->flags & LFS_BLOCKS ? lfs_file_use(server, node, true, &content) : -ECANCELED;
	int fd = rc < 0 ? rc : node->file->fd;
	lfs_unlock(server);
	if (rc < 0)
		return;
	rc = node->file->blocks ? fill_all(server, node, fd) : -ECANCELED;
	lfs_lock(server);
	if (rc >= 0 && lfs_blocks_end(server, node, fd) >= 0) {
		lfs_count(LFS_COUNT_completed, 1);
		lfs_notify_attr(server, node);
	}
	lfs_file_done(server, node);
	lfs_unlock(server);
}

static void *work(void *context)
{
	struct lfs_server *server = context;
	lfs_thread_start(server);
	lfs_lock(server);
	for (struct lfs_node *node; (node = server->filler.first);) {
		struct lfs_blocks *blocks = node->file->blocks;
		server->filler.first = blocks->next;
		lfs_unlock(server);
		if (!atomic_load(&server->ending) && !atomic_load(&server->freezing))
			fill_file(server, node);
		lfs_lock(server);
		blocks->queued = false;
		lfs_file_done(server, node);
	}
	server->filler.running = false;
	lfs_unlock(server);
	return NULL;
}

/* Most of the file was written anew: what is left is worth less than the kernel's reading and writing it without us. */
static bool worth_it(struct lfs_server *server, const struct lfs_node *node)
{
	struct lfs_blocks *blocks = node->file->blocks;
	struct stat status;
	if (!(node->flags & LFS_BLOCKS) || node->flags & LFS_UNLINKED || blocks->queued || !server->passthrough || server->options.size_limit ||
	    node->file->fd < 0 || fstat(node->file->fd, &status) < 0)
		return false;
	pthread_mutex_lock(&blocks->lock);
	uint64_t valid = blocks->valid;
	pthread_mutex_unlock(&blocks->lock);
	return (uint64_t)status.st_blocks * 512 * 100 >= valid * LFS_FILL_PERCENT;
}

void lfs_blocks_released(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_filler *filler = &server->filler;
	struct lfs_blocks *blocks = node->file->blocks;
	if (!blocks || atomic_load(&server->ending) || !worth_it(server, node) || lfs_file_hold(server, node) < 0)
		return;
	struct lfs_node **end = &filler->first;
	while (*end)
		end = &(*end)->file->blocks->next;
	*end = node;
	blocks->next = NULL;
	blocks->queued = true;
	if (filler->running)
		return;
	if (filler->started)
		pthread_join(filler->thread, NULL); /* it has ended, or is about to let the lock go for the last time */
	filler->started = filler->running = pthread_create(&filler->thread, NULL, work, server) == 0;
	if (!filler->started) {
		filler->first = NULL;
		blocks->queued = false;
		lfs_file_done(server, node);
	}
}

void lfs_filler_end(struct lfs_server *server)
{
	if (server->filler.started)
		pthread_join(server->filler.thread, NULL);
	server->filler.started = false;
}
