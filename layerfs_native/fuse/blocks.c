/* Block-level copy-up: an upper file of which only the changed blocks are there. It is a sparse file with a mark that names its base (an
 * object) and how much of that still shows. Below that length an allocated block of 4 KiB is the container's and a hole is the base's; beyond
 * it the file is like any other. SEEK_DATA and SEEK_HOLE are the only map, so whatever a crash leaves is whole:
 *
 * - a block comes to be with one write of all of it, and what is zeros or a punched hole below the length is written out;
 * - a block that is partly beyond the length is written before the host may touch it for other reasons (the file grows, or is cut in it);
 * - the file is cut before the mark says so: the length is the smaller of both. The mark follows before the file grows again;
 * - the mark goes when no block is missing, and after they were synced.
 *
 * Everything here is called without the server's lock, unless it says otherwise; a file's own lock is taken inside of the server's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "blocks.h"

#define MARK "layerfs.blocks"
#define MARK_SIZE (LFS_ID_SIZE + 8)

/* --- the mark --- */

static int write_mark(struct lfs_server *server, int fd, const uint8_t *identity, uint64_t valid)
{
	uint8_t value[MARK_SIZE];
	memcpy(value, identity, LFS_ID_SIZE);
	for (unsigned i = 0; i < 8; i++)
		value[LFS_ID_SIZE + i] = (uint8_t)(valid >> 8 * i);
	return lfs_mark_set(server, fd, NULL, MARK, value, sizeof value);
}

static int read_mark(struct lfs_server *server, int fd, const char *name, uint8_t *identity, uint64_t *valid)
{
	uint8_t value[MARK_SIZE + 1];
	int size = lfs_mark_get(server, fd, name, MARK, value, sizeof value);
	if (size != MARK_SIZE)
		return size < 0 && size != -ENODATA ? size : -EIO;
	memcpy(identity, value, LFS_ID_SIZE);
	*valid = 0;
	for (unsigned i = 0; i < 8; i++)
		*valid |= (uint64_t)value[LFS_ID_SIZE + i] << 8 * i;
	return 0;
}

/* Whether a hole is told from a block that was written, for each 4 KiB. */
static bool host_tells(struct lfs_server *server)
{
	const off_t at = 2 << 20;
	struct statfs host;
	char temp[LFS_TEMP_SIZE];
	uint8_t block[LFS_BLOCK] = {0};
	if (fstatfs(server->upper.scratch, &host) < 0 || host.f_bsize != LFS_BLOCK)
		return false;
	lfs_temp_name(server, temp);
	LFS_AUTO_FD fd = openat(server->upper.scratch, temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	unlinkat(server->upper.scratch, temp, 0);
	return ftruncate(fd, 2 * at) == 0 && pwrite(fd, block, sizeof block, at) == (ssize_t)sizeof block && lseek(fd, 0, SEEK_DATA) == at &&
	       lseek(fd, at, SEEK_HOLE) == at + (off_t)sizeof block;
}

/* The upper's root says that there may be such files: who needs whole ones looks for them only then. */
static bool possible(struct lfs_server *server)
{
	struct lfs_filler *filler = &server->filler;
	if (!filler->asked) {
		filler->asked = true;
		filler->possible = host_tells(server) && lfs_mark_set(server, server->upper.root, NULL, MARK, "y", 1) >= 0;
	}
	return filler->possible;
}

bool lfs_blocks_suit(struct lfs_server *server, const struct lfs_content *content)
{
	return content->kind == LFS_KIND_OBJECT && !server->options.no_blocks && content->size >= server->options.blocks_size && possible(server);
}

int lfs_blocks_mark(struct lfs_server *server, int fd, const struct lfs_content *content)
{
	return write_mark(server, fd, content->identity, content->size);
}

/* --- the state of an open file --- */

int lfs_blocks_open(struct lfs_server *server, struct lfs_node *node, int fd)
{
	struct lfs_file *file = node->file;
	struct lfs_blocks *blocks = file->blocks;
	struct stat status;
	if (blocks && blocks->base.fd >= 0)
		return 0;
	if (!blocks) {
		blocks = calloc(1, sizeof *blocks);
		if (!blocks)
			return -ENOMEM;
		blocks->base.fd = LFS_NO_FD;
		blocks->node = node;
		pthread_mutex_init(&blocks->lock, NULL);
		pthread_cond_init(&blocks->moved, NULL);
		file->blocks = blocks;
		int rc = read_mark(server, fd, NULL, blocks->identity, &blocks->marked);
		if (rc >= 0 && fstat(fd, &status) < 0)
			rc = -errno;
		if (rc >= 0) {
			blocks->valid = blocks->marked < (uint64_t)status.st_size ? blocks->marked : (uint64_t)status.st_size;
			blocks->count = (blocks->valid + LFS_BLOCK - 1) / LFS_BLOCK;
			blocks->map = calloc(blocks->count / 64 + 1, 8);
			blocks->known = calloc(blocks->count / LFS_CHUNK / 64 + 1, 8);
			rc = blocks->map && blocks->known ? 0 : -ENOMEM;
		}
		if (rc < 0) {
			lfs_blocks_free(file);
			return rc;
		}
	}
	int rc = lfs_object_open(server, blocks->identity, &blocks->base);
	if (rc >= 0 && blocks->base.size < blocks->valid) {
		lfs_object_close(&blocks->base);
		rc = -EIO;
	}
	return rc;
}

void lfs_blocks_rest(struct lfs_file *file)
{
	if (file->blocks)
		lfs_object_close(&file->blocks->base);
}

void lfs_blocks_free(struct lfs_file *file)
{
	struct lfs_blocks *blocks = file->blocks;
	if (!blocks)
		return;
	lfs_blocks_rest(file);
	pthread_mutex_destroy(&blocks->lock);
	pthread_cond_destroy(&blocks->moved);
	free(blocks->map);
	free(blocks->known);
	free(blocks);
	file->blocks = NULL;
}

/* --- the map: with the file's lock held, as all up to the next such line --- */

static bool bit(const uint64_t *bits, uint64_t index)
{
	return bits[index / 64] >> index % 64 & 1;
}

static void set_bit(uint64_t *bits, uint64_t index)
{
	bits[index / 64] |= 1ull << index % 64;
}

/* Blocks from `first` up to `stop` are here now. */
void lfs_blocks_here(struct lfs_blocks *blocks, uint64_t first, uint64_t stop)
{
	for (uint64_t i = first; i < stop && i < blocks->count; i++)
		set_bit(blocks->map, i);
}

static int look_up(struct lfs_blocks *blocks, int fd, uint64_t chunk)
{
	uint64_t at = chunk * LFS_CHUNK * LFS_BLOCK, end = at + (uint64_t)LFS_CHUNK * LFS_BLOCK;
	if (bit(blocks->known, chunk))
		return 0;
	while (at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			return -errno;
		if ((uint64_t)data >= end)
			break;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at = (uint64_t)hole < end ? (uint64_t)hole : end;
		lfs_blocks_here(blocks, (uint64_t)data / LFS_BLOCK, (at + LFS_BLOCK - 1) / LFS_BLOCK);
	}
	set_bit(blocks->known, chunk);
	return 0;
}

/* Before a bit is asked for. */
int lfs_blocks_know(struct lfs_blocks *blocks, int fd, uint64_t first, uint64_t last)
{
	int rc = 0;
	for (uint64_t chunk = first / LFS_CHUNK; rc >= 0 && chunk <= last / LFS_CHUNK && chunk * LFS_CHUNK < blocks->count; chunk++)
		rc = look_up(blocks, fd, chunk);
	return rc;
}

bool lfs_blocks_missing(const struct lfs_blocks *blocks, uint64_t index)
{
	return index < blocks->count && !bit(blocks->map, index);
}

/* --- writing --- */

/* What the base has of a block, zeros behind it: how much that is. */
static int read_base(const struct lfs_blocks *blocks, uint64_t index, uint8_t out[LFS_BLOCK])
{
	uint64_t at = index * LFS_BLOCK;
	size_t size = at >= blocks->valid ? 0 : blocks->valid - at < LFS_BLOCK ? blocks->valid - at : LFS_BLOCK, done = 0;
	while (done < size) {
		ssize_t got = lfs_object_read(&blocks->base, out + done, size - done, at + done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EIO; /* an object that became shorter */
		done += (size_t)got;
	}
	memset(out + size, 0, LFS_BLOCK - size);
	return (int)size;
}

/* All of the parts, in as few writes as the host likes. The bytes written; fewer with *rc. */
size_t lfs_blocks_put(int fd, struct iovec *parts, int count, uint64_t at, int *rc)
{
	size_t done = 0;
	while (count) {
		ssize_t put = pwritev(fd, parts, count, (off_t)(at + done));
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			*rc = put ? -errno : -EIO;
			return done;
		}
		done += (size_t)put;
		while (count && (size_t)put >= parts->iov_len) {
			put -= (ssize_t)parts->iov_len;
			parts++, count--;
		}
		if (count) {
			parts->iov_base = (uint8_t *)parts->iov_base + put;
			parts->iov_len -= (size_t)put;
		}
	}
	return done;
}

/* A block that was missing and is half here would show zeros: it goes again. How far the writing really came. */
uint64_t lfs_blocks_take_back(const struct lfs_blocks *blocks, int fd, uint64_t reached)
{
	uint64_t start = reached & ~(uint64_t)(LFS_BLOCK - 1);
	if (start == reached || !lfs_blocks_missing(blocks, reached / LFS_BLOCK))
		return reached;
	fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start, LFS_BLOCK);
	return start;
}

/* Bytes to their place, with what the base has around them in the first and the last block. Nobody else writes to these blocks. */
static ssize_t put(struct lfs_blocks *blocks, int fd, const uint8_t *data, size_t size, uint64_t offset)
{
	uint8_t head[LFS_BLOCK], tail[LFS_BLOCK];
	uint64_t end = offset + size, first = offset / LFS_BLOCK, last = (end - 1) / LFS_BLOCK, at = offset;
	size_t before = offset % LFS_BLOCK, taken = 0, over = 0;
	struct iovec parts[3];
	int count = 0, rc = lfs_blocks_know(blocks, fd, first, last), have;
	if (rc < 0)
		return rc;
	if (before && lfs_blocks_missing(blocks, first)) {
		if ((have = read_base(blocks, first, head)) < 0)
			return have;
		taken = size < LFS_BLOCK - before ? size : LFS_BLOCK - before;
		memcpy(head + before, data, taken);
		at = first * LFS_BLOCK;
		parts[count++] = (struct iovec){head, before + taken > (size_t)have ? before + taken : (size_t)have};
	}
	if (size > taken && end % LFS_BLOCK && lfs_blocks_missing(blocks, last))
		over = end % LFS_BLOCK;
	if (size - taken - over)
		parts[count++] = (struct iovec){(void *)(uintptr_t)(data + taken), size - taken - over};
	if (over) {
		if ((have = read_base(blocks, last, tail)) < 0)
			return have;
		memcpy(tail, data + size - over, over);
		parts[count++] = (struct iovec){tail, over > (size_t)have ? over : (size_t)have};
	}
	uint64_t reached = at + lfs_blocks_put(fd, parts, count, at, &rc);
	if (rc < 0)
		reached = lfs_blocks_take_back(blocks, fd, reached);
	lfs_blocks_here(blocks, first, rc < 0 ? reached / LFS_BLOCK : last + 1);
	blocks->changes++;
	return reached > offset ? (ssize_t)((reached < end ? reached : end) - offset) : rc;
}

/* One missing block gets the base's bytes. */
static int bring(struct lfs_blocks *blocks, int fd, uint64_t index)
{
	uint8_t block[LFS_BLOCK];
	int rc = lfs_blocks_know(blocks, fd, index, index);
	if (rc < 0 || !lfs_blocks_missing(blocks, index))
		return rc;
	int size = read_base(blocks, index, block);
	struct iovec part = {block, size < 0 ? 0 : (size_t)size};
	rc = size < 0 ? size : 0;
	uint64_t reached = rc < 0 ? 0 : index * LFS_BLOCK + lfs_blocks_put(fd, &part, 1, index * LFS_BLOCK, &rc);
	if (rc < 0 && reached)
		lfs_blocks_take_back(blocks, fd, reached);
	if (rc >= 0)
		lfs_blocks_here(blocks, index, index + 1);
	return rc;
}

/* Before the file grows: the last block of the base's is here if it is no full one, and the mark says no more than is true. */
static int close_end(struct lfs_server *server, struct lfs_blocks *blocks, int fd)
{
	int rc = blocks->valid % LFS_BLOCK ? bring(blocks, fd, blocks->count - 1) : 0;
	if (rc >= 0 && blocks->marked != blocks->valid) {
		rc = write_mark(server, fd, blocks->identity, blocks->valid);
		blocks->marked = rc < 0 ? blocks->marked : blocks->valid;
	}
	return rc;
}

/* Waits for a filler that is writing one of these blocks, or the last one when they go beyond it. */
void lfs_blocks_await(struct lfs_blocks *blocks, uint64_t first, uint64_t last)
{
	while (blocks->claim_end && blocks->claim <= last && (blocks->claim_end > first || (last >= blocks->count && blocks->claim_end == blocks->count)))
		pthread_cond_wait(&blocks->moved, &blocks->lock);
}

/* The base's bytes from `size` on do not show any more. `first`: the mark must say so. */
static int shorten(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint64_t size, bool first)
{
	int rc = write_mark(server, fd, blocks->identity, size);
	if (rc < 0 && first)
		return rc;
	blocks->marked = rc < 0 ? blocks->marked : size;
	blocks->valid = size;
	blocks->count = (size + LFS_BLOCK - 1) / LFS_BLOCK;
	return 0;
}

/* With the server's lock: no block is missing, so it is an upper file like others, also for those who are at it. */
int lfs_blocks_end(struct lfs_server *server, struct lfs_node *node, int fd)
{
	struct lfs_blocks *blocks = node->file->blocks;
	if (!(node->flags & LFS_BLOCKS))
		return 0;
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	int rc = lfs_mark_drop(server, fd, NULL, MARK);
	if (rc >= 0) {
		node->flags &= (uint16_t)~LFS_BLOCKS;
		blocks->valid = blocks->marked = blocks->count = 0;
	}
	pthread_mutex_unlock(&blocks->lock);
	return rc;
}

/* --- what operations ask for: without the file's lock --- */

/* Whether the file has the bytes at `at` (1), or the base (0), and up to where. */
static int source_of(struct lfs_blocks *blocks, int fd, uint64_t at, uint64_t *stop)
{
	uint64_t index = at / LFS_BLOCK, next = index + 1;
	pthread_mutex_lock(&blocks->lock);
	int source = at < blocks->valid ? lfs_blocks_know(blocks, fd, index, (*stop - 1) / LFS_BLOCK) : 0;
	if (source < 0 || at >= blocks->valid) {
		pthread_mutex_unlock(&blocks->lock);
		return source < 0 ? source : 1;
	}
	bool here = !lfs_blocks_missing(blocks, index);
	while (next < blocks->count && next * LFS_BLOCK < *stop && lfs_blocks_missing(blocks, next) != here)
		next++;
	if (next < blocks->count && next * LFS_BLOCK < *stop)
		*stop = next * LFS_BLOCK;
	if (!here && blocks->valid < *stop)
		*stop = blocks->valid;
	pthread_mutex_unlock(&blocks->lock);
	return here;
}

ssize_t lfs_blocks_read(struct lfs_blocks *blocks, int fd, uint8_t *out, size_t size, uint64_t offset)
{
	size_t done = 0;
	while (done < size) {
		uint64_t stop = offset + size;
		int source = source_of(blocks, fd, offset + done, &stop);
		ssize_t got = source < 0 ? -1
			      : source	 ? pread(fd, out + done, stop - offset - done, (off_t)(offset + done))
					 : lfs_object_read(&blocks->base, out + done, stop - offset - done, offset + done);
		int rc = source < 0 ? source : got < 0 ? -errno : !got && !source ? -EIO : 0;
		if (rc == -EINTR)
			continue;
		if (rc < 0)
			return done ? (ssize_t)done : rc;
		if (!got)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

ssize_t lfs_blocks_write(struct lfs_server *server, struct lfs_blocks *blocks, int fd, const uint8_t *data, size_t size, uint64_t offset)
{
	if (!size)
		return 0;
	uint64_t first = offset / LFS_BLOCK, last = (offset + size - 1) / LFS_BLOCK;
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, first, last);
	int rc = last >= blocks->count ? close_end(server, blocks, fd) : 0;
	ssize_t done = rc < 0 ? rc : put(blocks, fd, data, size, offset);
	pthread_mutex_unlock(&blocks->lock);
	return done;
}

int lfs_blocks_truncate(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint64_t size)
{
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	int rc = 0;
	if (size < blocks->valid && size % LFS_BLOCK)
		rc = bring(blocks, fd, size / LFS_BLOCK);
	else if (size > blocks->valid)
		rc = close_end(server, blocks, fd);
	if (rc >= 0 && ftruncate(fd, (off_t)size) < 0)
		rc = -errno;
	if (rc >= 0 && size < blocks->valid)
		shorten(server, blocks, fd, size, false); /* if the mark stays, the file does not grow */
	blocks->changes++;
	pthread_mutex_unlock(&blocks->lock);
	return rc;
}

static int write_zeros(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint64_t offset, uint64_t end)
{
	static const uint8_t zeros[64 << 10];
	while (offset < end) {
		uint64_t step = sizeof zeros - offset % LFS_BLOCK, left = end - offset;
		ssize_t done = lfs_blocks_write(server, blocks, fd, zeros, left < step ? left : step, offset);
		if (done < 0)
			return (int)done;
		offset += (uint64_t)done;
	}
	return 0;
}

/* Not every host can do all of it with ranges that are to be zeros. */
static int host_zeros(int fd, uint32_t mode, uint64_t offset, uint64_t length)
{
	struct stat status;
	if (fallocate(fd, (int)mode, (off_t)offset, (off_t)length) == 0)
		return 0;
	if (errno != EOPNOTSUPP || mode & FALLOC_FL_PUNCH_HOLE)
		return -errno;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0 || fstat(fd, &status) < 0)
		return -errno;
	bool grows = !(mode & FALLOC_FL_KEEP_SIZE) && (uint64_t)status.st_size < offset + length;
	return grows && ftruncate(fd, (off_t)(offset + length)) < 0 ? -errno : 0;
}

/* A range that goes to the end of the base's bytes ends them, and is the host's work then. */
static int zero_range(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint32_t mode, uint64_t offset, uint64_t length)
{
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	if (offset + length < blocks->valid) {
		pthread_mutex_unlock(&blocks->lock);
		return write_zeros(server, blocks, fd, offset, offset + length);
	}
	int rc = 0;
	if (offset < blocks->valid) {
		rc = offset % LFS_BLOCK ? bring(blocks, fd, offset / LFS_BLOCK) : 0;
		if (rc >= 0)
			rc = shorten(server, blocks, fd, offset, true);
	} else {
		rc = close_end(server, blocks, fd);
	}
	if (rc >= 0)
		rc = host_zeros(fd, mode, offset, length);
	blocks->changes++;
	pthread_mutex_unlock(&blocks->lock);
	return rc;
}

/* Space is promised for the blocks: so they come. */
static int allocate(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint32_t mode, uint64_t offset, uint64_t length)
{
	uint8_t *buffer = malloc(LFS_CLAIM * LFS_BLOCK);
	int rc = buffer ? 0 : -ENOMEM;
	for (uint64_t at = offset / LFS_BLOCK; rc >= 0 && at * LFS_BLOCK < offset + length;)
		if ((rc = lfs_blocks_fill(blocks, fd, &at, (offset + length + LFS_BLOCK - 1) / LFS_BLOCK, buffer, false)) > 0)
			break;
	free(buffer);
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	if (rc >= 0 && offset + length > blocks->valid)
		rc = close_end(server, blocks, fd);
	if (rc >= 0)
		rc = fallocate(fd, (int)mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
	blocks->changes++;
	pthread_mutex_unlock(&blocks->lock);
	return rc;
}

int lfs_blocks_allocate(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint32_t mode, uint64_t offset, uint64_t length)
{
	if (!length || mode & ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return length ? -EOPNOTSUPP : -EINVAL;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return zero_range(server, blocks, fd, mode, offset, length);
	return allocate(server, blocks, fd, mode, offset, length);
}

bool lfs_blocks_takes(struct lfs_blocks *blocks, uint64_t offset)
{
	pthread_mutex_lock(&blocks->lock);
	bool takes = offset < blocks->valid;
	pthread_mutex_unlock(&blocks->lock);
	return takes;
}

/* Holes that were punched are written zeros: they are told by their bytes. */
static int64_t seek_here(int fd, uint64_t at, uint64_t end, bool data)
{
	uint8_t piece[8 * LFS_BLOCK];
	for (uint64_t start = at & ~(uint64_t)(LFS_BLOCK - 1); start < end;) {
		ssize_t got = pread(fd, piece, end - start < sizeof piece ? end - start : sizeof piece, (off_t)start);
		if (got <= 0)
			return got ? -errno : -ENXIO;
		for (ssize_t i = 0; i < got; i += LFS_BLOCK) {
			size_t size = got - i < LFS_BLOCK ? (size_t)(got - i) : LFS_BLOCK;
			bool zeros = !piece[i] && !memcmp(piece + i, piece + i + 1, size - 1);
			if (zeros != data)
				return (int64_t)(start + (uint64_t)i > at ? start + (uint64_t)i : at);
		}
		start += (uint64_t)got;
	}
	return -ENXIO;
}

/* The next data or hole at or behind `at`; *next: not in this run, look there. With the file's lock held. */
static int64_t seek_run(struct lfs_blocks *blocks, int fd, uint64_t at, bool data, uint64_t *next)
{
	uint64_t index = at / LFS_BLOCK, stop = index + 1;
	int rc = lfs_blocks_know(blocks, fd, index, index);
	if (rc < 0)
		return rc;
	bool here = !lfs_blocks_missing(blocks, index);
	while (stop < blocks->count && stop % LFS_CHUNK && lfs_blocks_missing(blocks, stop) != here)
		stop++;
	*next = stop * LFS_BLOCK;
	if (here)
		return seek_here(fd, at, *next, data);
	if (at >= blocks->valid)
		return data ? -ENXIO : (int64_t)at; /* what lies behind it in the last block */
	off_t found = lfs_object_seek(&blocks->base, at, data ? SEEK_DATA : SEEK_HOLE);
	if (found < 0 && errno != ENXIO)
		return -errno;
	uint64_t end = *next < blocks->valid ? *next : blocks->valid;
	if (found >= 0 && (uint64_t)found < end)
		return found;
	if (!data && end < *next)
		return (int64_t)end;
	return -ENXIO;
}

int64_t lfs_blocks_seek(struct lfs_blocks *blocks, int fd, uint64_t offset, int whence)
{
	struct stat status;
	int64_t found = -ENXIO;
	if (fstat(fd, &status) < 0 || offset >= (uint64_t)status.st_size)
		return -ENXIO;
	uint64_t at = offset, next = offset;
	for (bool more = true; more && found == -ENXIO && at < (uint64_t)status.st_size; at = next) {
		pthread_mutex_lock(&blocks->lock);
		more = at / LFS_BLOCK < blocks->count;
		if (more)
			found = seek_run(blocks, fd, at, whence == SEEK_DATA, &next);
		pthread_mutex_unlock(&blocks->lock);
	}
	if (found != -ENXIO)
		return found < status.st_size ? found : whence == SEEK_DATA ? -ENXIO : status.st_size;
	if (at >= (uint64_t)status.st_size)
		return whence == SEEK_DATA ? -ENXIO : status.st_size;
	off_t host = lseek(fd, (off_t)at, whence);
	return host < 0 ? -errno : host;
}

/* --- times: a filler's writing is no change of the file. With the server's lock --- */

void lfs_blocks_pause(struct lfs_file *file)
{
	struct lfs_blocks *blocks = file ? file->blocks : NULL;
	if (!blocks)
		return;
	pthread_mutex_lock(&blocks->lock);
	lfs_blocks_await(blocks, 0, UINT64_MAX);
	blocks->changes++;
}

void lfs_blocks_resume(struct lfs_file *file)
{
	if (file && file->blocks)
		pthread_mutex_unlock(&file->blocks->lock);
}

void lfs_blocks_attr(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr)
{
	struct lfs_blocks *blocks = lfs_node_is_file(node) && node->file ? node->file->blocks : NULL;
	uint8_t identity[LFS_ID_SIZE];
	uint64_t valid = 0;
	struct stat status;
	if (blocks) {
		pthread_mutex_lock(&blocks->lock);
		valid = blocks->valid;
		if (node->file->fd >= 0 && fstat(node->file->fd, &status) == 0) {
			const struct timespec *time = blocks->claim_end && blocks->claim_changes == blocks->changes ? &blocks->modified : &status.st_mtim;
			attr->mtime = (uint64_t)time->tv_sec;
			attr->mtimensec = (uint32_t)time->tv_nsec;
		}
		pthread_mutex_unlock(&blocks->lock);
	} else {
		LFS_AUTO_FD fd = lfs_entry_open(server, node, O_PATH);
		if (fd < 0 || read_mark(server, fd, NULL, identity, &valid) < 0)
			return;
	}
	if (valid > attr->size)
		valid = attr->size;
	uint64_t least = valid / 512 + (valid % 512 != 0); /* at least what a reader finds there */
	attr->blocks = attr->blocks > least ? attr->blocks : least;
}
