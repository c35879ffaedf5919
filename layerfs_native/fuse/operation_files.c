/* Operations on open files' bytes. The bytes are always the inode's, whatever descriptor they are asked through; the work is done without
 * the lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "server.h"

struct body { /* a file's bytes, while an operation is at them */
	struct lfs_node *node;
	struct lfs_content content; /* without a descriptor */
	int fd;
	struct lfs_blocks *blocks; /* or NULL: all bytes are at `fd`, but for: */
	struct lfs_delta *delta;   /* of a lower file, or NULL */
	bool capable;		   /* as of the file */
};

/* One that was opened for writing before its upper was frozen. */
static int bring_up(struct lfs_server *server, struct lfs_node *node)
{
	if ((node->flags & (LFS_HERE | LFS_METACOPY)) == LFS_HERE || node->flags & LFS_SPLIT)
		return 0;
	lfs_node_get(node);
	int rc = lfs_copy_up(server, node, LFS_DATA_ALL);
	lfs_node_put(server, node);
	return rc;
}

/* The body of a node, to be given back by end(). With the lock. */
static int use(struct lfs_server *server, uint64_t id, bool write, struct body *body)
{
	body->node = lfs_node_find(server, id);
	int rc = !body->node ? -ESTALE : !lfs_node_is_file(body->node) ? -EINVAL : 0;
	if (rc >= 0 && write)
		rc = bring_up(server, body->node);
	if (rc >= 0)
		rc = lfs_file_use(server, body->node, write, &body->content);
	if (rc >= 0) {
		body->fd = body->node->file->fd;
		body->blocks = body->node->file->blocks;
		body->delta = body->node->file->fd_lower ? body->node->file->delta : NULL;
		body->capable = body->node->file->capable;
	}
	return rc;
}

/* The request's. Never while another is in use: a freeze waits for that one's end. */
static int begin(struct lfs_request *request, bool write, struct body *body)
{
	struct lfs_server *server = request->server;
	lfs_lock(server);
	lfs_await_thaw(server);
	int rc = use(server, request->header.nodeid, write, body);
	lfs_unlock(server);
	return rc;
}

/* The request's and the one that is written to: that one first, as the lock may be let go for it. */
static int begin_both(struct lfs_request *request, uint64_t target, struct body *from, struct body *to)
{
	struct lfs_server *server = request->server;
	lfs_lock(server);
	lfs_await_thaw(server);
	int rc = use(server, target, true, to);
	if (rc >= 0 && (rc = use(server, request->header.nodeid, false, from)) < 0)
		lfs_file_done(server, to->node);
	lfs_unlock(server);
	return rc;
}

static void end(struct lfs_request *request, const struct body *body)
{
	lfs_lock(request->server);
	lfs_file_done(request->server, body->node);
	lfs_unlock(request->server);
}

/* --- opening --- */

int lfs_op_open(struct lfs_request *request)
{
	struct fuse_open_in in;
	struct fuse_open_out out = {0};
	memcpy(&in, request->args, sizeof in);
	if (request->server->no_open)
		return -ENOSYS; /* never asked again: reads come without an open, and the page cache stays */
	int rc = lfs_open(request->server, request->node, in.flags, in.open_flags & FUSE_OPEN_KILL_SUIDGID, LFS_NO_FD, &out);
	if (rc < 0)
		return rc;
	if (out.backing_id && (in.flags & O_ACCMODE) != O_RDONLY)
		lfs_notify_attr(request->server, request->node);
	memcpy(request->out, &out, sizeof out);
	request->out_size = sizeof out;
	request->undo = request->node;
	request->undo_open = true;
	request->undo_handle = out.fh;
	return 0;
}

int lfs_op_release(struct lfs_request *request)
{
	struct fuse_release_in in;
	memcpy(&in, request->args, sizeof in);
	lfs_release(request->server, request->node, in.fh);
	return 0;
}

/* --- reading and writing --- */

/* What could be read or written before something went wrong; else -errno. */
static ssize_t read_object(const struct lfs_object *object, uint8_t *out, size_t size, uint64_t offset)
{
	size_t done = 0;
	ssize_t got = 1;
	while (done < size && (got = lfs_object_read(object, out + done, size - done, offset + done)) > 0)
		done += (size_t)got;
	return got < 0 && !done ? -errno : (ssize_t)done;
}

static ssize_t write_plain(int fd, const uint8_t *data, size_t size, uint64_t offset)
{
	size_t done = 0;
	while (done < size) {
		ssize_t put = pwrite(fd, data + done, size - done, (off_t)(offset + done));
		if (put < 0)
			return done ? (ssize_t)done : -errno;
		done += (size_t)put;
	}
	return (ssize_t)done;
}

int lfs_op_read(struct lfs_request *request)
{
	struct fuse_read_in in;
	struct body body;
	ssize_t done = 0;
	memcpy(&in, request->args, sizeof in);
	if (in.size > request->out_room || in.offset > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, false, &body);
	if (rc < 0)
		return rc;
	if (body.fd < 0)
		done = body.content.kind == LFS_KIND_PACK ? lfs_low_read(request->server, &body.content, request->out, in.size, in.offset) : 0;
	else if (body.blocks)
		done = lfs_blocks_read(body.blocks, body.fd, request->out, in.size, in.offset);
	else
		done = read_object(&(struct lfs_object){.fd = body.fd, .delta = body.delta}, request->out, in.size, in.offset);
	request->out_size = done < 0 ? 0 : (size_t)done;
	end(request, &body);
	lfs_count(LFS_COUNT_bytes_read, request->out_size);
	return done < 0 ? (int)done : 0;
}

static void strip_setid(int fd)
{
	struct stat status;
	if (fstat(fd, &status) == 0 && status.st_mode & (S_ISUID | S_ISGID))
		fchmod(fd, status.st_mode & (status.st_mode & S_IXGRP ? 01777u : 03777u));
}

static void drop_capability(struct lfs_server *server, struct lfs_node *node)
{
	lfs_lock(server);
	lfs_xattr_remove(server, node, (struct lfs_bytes){LFS_CAPABILITY, sizeof LFS_CAPABILITY - 1});
	node->file->capable = false;
	lfs_unlock(server);
}

int lfs_op_write(struct lfs_request *request)
{
	struct fuse_write_in in;
	struct body body;
	memcpy(&in, request->args, sizeof in);
	if (in.size > request->args_size - sizeof in || in.offset > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, true, &body);
	if (rc < 0)
		return rc;
	if (in.write_flags & FUSE_WRITE_KILL_SUIDGID)
		strip_setid(body.fd);
	if (body.capable)
		drop_capability(request->server, body.node);
	uint64_t reserved;
	int64_t allowed = lfs_quota_begin(request->server, body.fd, in.offset, in.size, &reserved);
	rc = allowed < 0 ? (int)allowed : lfs_may_write(body.node, body.fd, in.offset);
	const uint8_t *data = request->args + sizeof in;
	ssize_t done = rc < 0	     ? rc
		       : body.blocks ? lfs_blocks_write(request->server, body.blocks, body.fd, data, (size_t)allowed, in.offset)
				     : write_plain(body.fd, data, (size_t)allowed, in.offset);
	lfs_quota_end(request->server, body.node->file, body.fd, reserved);
	end(request, &body);
	if (done < 0)
		return (int)done;
	lfs_count(LFS_COUNT_bytes_written, (uint64_t)done);
	*(struct fuse_write_out *)request->out = (struct fuse_write_out){.size = (uint32_t)done};
	request->out_size = sizeof(struct fuse_write_out);
	return 0;
}

/* The descriptors that an fsync is about. A file that is whole in the upper is synced through the one that it is written by, which hears of
 * what went wrong before. */
static int open_synced(struct lfs_server *server, const struct body *body, struct lfs_halves *halves)
{
	halves->count = halves->upper = 0;
	if (server->options.volatile_)
		return 0;
	if ((body->node->flags & (LFS_HERE | LFS_METACOPY)) != LFS_HERE)
		return lfs_halves_open(server, body->node, halves);
	int fd = fcntl(body->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	halves->items[0] = (struct lfs_half){fd, body->node};
	halves->count = halves->upper = 1;
	return 0;
}

/* It takes long, and others may go on meanwhile, who freezes the upper too: so through descriptors of its own. */
int lfs_op_fsync(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_fsync_in in;
	struct lfs_halves halves;
	struct body body;
	memcpy(&in, request->args, sizeof in);
	lfs_lock(server);
	lfs_await_thaw(server);
	int rc = use(server, request->header.nodeid, false, &body);
	if (rc < 0) {
		lfs_unlock(server);
		return rc;
	}
	rc = open_synced(server, &body, &halves);
	lfs_node_get(body.node);
	lfs_file_done(server, body.node);
	lfs_unlock(server);
	if (rc >= 0)
		rc = lfs_halves_sync(&halves, in.fsync_flags & FUSE_FSYNC_DATA);
	lfs_lock(server);
	if (halves.upper && rc >= 0)
		lfs_newest_synced(server, body.node);
	lfs_halves_close(&halves, rc >= 0);
	lfs_node_put(server, body.node);
	lfs_unlock(server);
	return rc;
}

int lfs_op_fsyncdir(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_halves halves = {.count = 0};
	lfs_lock(server);
	lfs_await_thaw(server);
	struct lfs_node *dir = lfs_node_find(server, request->header.nodeid);
	int rc = dir && lfs_node_is_dir(dir) ? 0 : -ESTALE;
	if (rc >= 0 && !server->options.volatile_) {
		if (lfs_newest_covers(server, dir))
			lfs_count(LFS_COUNT_synced_before, 1);
		else
			rc = lfs_halves_open(server, dir, &halves);
	}
	lfs_unlock(server);
	if (rc >= 0)
		rc = lfs_halves_sync(&halves, false);
	lfs_lock(server);
	lfs_halves_close(&halves, rc >= 0);
	lfs_unlock(server);
	return rc;
}

int lfs_op_syncfs(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	return server->writable && !server->options.volatile_ && syncfs(lfs_upper_root(server)) < 0 ? -errno : 0;
}

int lfs_op_fallocate(struct lfs_request *request)
{
	struct fuse_fallocate_in in;
	struct body body;
	memcpy(&in, request->args, sizeof in);
	if (in.offset > INT64_MAX || in.length > INT64_MAX - in.offset)
		return in.offset > INT64_MAX || in.length > INT64_MAX ? -EINVAL : -EFBIG;
	int rc = begin(request, true, &body);
	if (rc < 0)
		return rc;
	uint64_t reserved = 0;
	bool takes = !(in.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE));
	takes |= body.blocks && lfs_blocks_takes(body.blocks, in.offset); /* a hole there is written zeros */
	int64_t allowed = takes ? lfs_quota_begin(request->server, body.fd, in.offset, in.length, &reserved) : 0;
	rc = takes && allowed != (int64_t)in.length ? -ENOSPC : lfs_may_allocate(body.node, in.mode);
	if (rc >= 0 && body.blocks)
		rc = lfs_blocks_allocate(request->server, body.blocks, body.fd, in.mode, in.offset, in.length);
	else if (rc >= 0 && fallocate(body.fd, (int)in.mode, (off_t)in.offset, (off_t)in.length) < 0)
		rc = -errno;
	lfs_quota_end(request->server, body.node->file, body.fd, reserved);
	end(request, &body);
	return rc;
}

/* A packed, empty, or unknown file is data to its end. */
static int64_t seek_whole(const struct lfs_content *content, uint64_t offset, uint32_t whence)
{
	if (offset >= content->size)
		return -ENXIO;
	return (int64_t)(whence == SEEK_HOLE ? content->size : offset);
}

/* A mapping's pages reach this process late: until then they lie in what looks like a hole. */
static bool may_be_dirty(struct lfs_server *server, const struct lfs_node *node)
{
	lfs_lock(server);
	bool dirty = node->file->mode == LFS_MODE_CACHED && node->file->writers;
	lfs_unlock(server);
	return dirty;
}

static int64_t seek_bytes(struct lfs_server *server, struct body *body, const struct fuse_lseek_in *in)
{
	struct stat status;
	if (body->fd >= 0 && !may_be_dirty(server, body->node)) {
		if (body->blocks)
			return lfs_blocks_seek(body->blocks, body->fd, in->offset, (int)in->whence);
		off_t found = lfs_object_seek(&(struct lfs_object){.fd = body->fd, .delta = body->delta}, in->offset, (int)in->whence);
		return found < 0 ? -errno : found;
	}
	if (body->fd >= 0 && !body->delta && fstat(body->fd, &status) < 0)
		return -errno;
	if (body->fd >= 0 && !body->delta)
		body->content.size = (uint64_t)status.st_size;
	return seek_whole(&body->content, in->offset, in->whence);
}

int lfs_op_lseek(struct lfs_request *request)
{
	struct fuse_lseek_in in;
	struct body body;
	memcpy(&in, request->args, sizeof in);
	if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE)
		return -EINVAL;
	if (in.offset > INT64_MAX)
		return -ENXIO; /* a negative one is out of the file, as any other file system has it */
	int rc = begin(request, false, &body);
	if (rc < 0)
		return rc;
	int64_t found = seek_bytes(request->server, &body, &in);
	end(request, &body);
	*(struct fuse_lseek_out *)request->out = (struct fuse_lseek_out){(uint64_t)found};
	request->out_size = sizeof(struct fuse_lseek_out);
	return found < 0 ? (int)found : 0;
}

static int64_t copy_range(struct lfs_request *request, uint64_t limit)
{
	struct fuse_copy_file_range_in in;
	struct body from, to;
	memcpy(&in, request->args, sizeof in);
	if (in.off_in > INT64_MAX || in.off_out > INT64_MAX)
		return -EINVAL;
	int rc = begin_both(request, in.nodeid_out, &from, &to);
	if (rc < 0)
		return rc;
	int64_t done = -EOPNOTSUPP; /* a packed file, or one that is partly here: the kernel copies through its cache */
	off_t at = (off_t)in.off_in, put = (off_t)in.off_out;
	if (from.fd >= 0 && !from.blocks && !from.delta && !to.blocks) {
		uint64_t reserved;
		done = lfs_quota_begin(request->server, to.fd, in.off_out, in.len < limit ? in.len : limit, &reserved);
		if (done >= 0 && (done = copy_file_range(from.fd, &at, to.fd, &put, (size_t)done, (unsigned)in.flags)) < 0)
			done = -errno;
		lfs_quota_end(request->server, to.node->file, to.fd, reserved);
	}
	end(request, &to);
	end(request, &from);
	return done;
}

int lfs_op_copy_file_range(struct lfs_request *request)
{
	int64_t done = copy_range(request, 1u << 31);
	*(struct fuse_write_out *)request->out = (struct fuse_write_out){.size = done < 0 ? 0 : (uint32_t)done};
	request->out_size = sizeof(struct fuse_write_out);
	return done < 0 ? (int)done : 0;
}

int lfs_op_copy_file_range_64(struct lfs_request *request)
{
	int64_t done = copy_range(request, 1ull << 40);
	*(struct fuse_copy_file_range_out *)request->out = (struct fuse_copy_file_range_out){done < 0 ? 0 : (uint64_t)done};
	request->out_size = sizeof(struct fuse_copy_file_range_out);
	return done < 0 ? (int)done : 0;
}
