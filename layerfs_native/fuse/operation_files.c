/* Operations on open files' bytes. The bytes are always the inode's, whatever descriptor they are asked through; the work is done without
 * the lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "server.h"

/* The node of a request and the descriptor of its bytes, to be given back by end(). */
static int begin(struct lfs_request *request, uint64_t id, bool write, struct lfs_node **node, struct lfs_content *content, int *fd)
{
	struct lfs_server *server = request->server;
	lfs_lock(server);
	*node = lfs_node_find(server, id);
	int rc = !*node ? -ESTALE : !lfs_node_is_file(*node) ? -EINVAL : lfs_file_use(server, *node, write, content);
	if (rc >= 0)
		*fd = (*node)->file->fd;
	lfs_unlock(server);
	return rc;
}

static void end(struct lfs_request *request, struct lfs_node *node)
{
	lfs_lock(request->server);
	lfs_file_done(request->server, node);
	lfs_unlock(request->server);
}

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

int lfs_op_read(struct lfs_request *request)
{
	struct fuse_read_in in;
	struct lfs_content content;
	struct lfs_node *node;
	int fd;
	memcpy(&in, request->args, sizeof in);
	if (in.size > request->out_room || in.offset > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, request->header.nodeid, false, &node, &content, &fd);
	if (rc < 0)
		return rc;
	if (fd < 0) {
		rc = content.kind == LFS_KIND_PACK ? lfs_low_read(request->server, &content, request->out, in.size, in.offset) : 0;
		request->out_size = rc < 0 ? 0 : (size_t)rc;
	} else {
		size_t done = 0;
		ssize_t got = 1;
		while (done < in.size && (got = pread(fd, request->out + done, in.size - done, (off_t)(in.offset + done))) > 0)
			done += (size_t)got;
		rc = got < 0 && !done ? -errno : 0;
		request->out_size = done;
	}
	end(request, node);
	lfs_count(LFS_COUNT_bytes_read, request->out_size);
	return rc < 0 ? rc : 0;
}

static void strip_setid(int fd)
{
	struct stat status;
	if (fstat(fd, &status) == 0 && status.st_mode & (S_ISUID | S_ISGID))
		fchmod(fd, status.st_mode & (status.st_mode & S_IXGRP ? 01777u : 03777u));
}

int lfs_op_write(struct lfs_request *request)
{
	struct fuse_write_in in;
	struct lfs_content content;
	struct lfs_node *node;
	size_t done = 0;
	int fd;
	memcpy(&in, request->args, sizeof in);
	if (in.size > request->args_size - sizeof in || in.offset > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, request->header.nodeid, true, &node, &content, &fd);
	if (rc < 0)
		return rc;
	if (in.write_flags & FUSE_WRITE_KILL_SUIDGID)
		strip_setid(fd);
	uint64_t reserved;
	int64_t allowed = lfs_quota_begin(request->server, fd, in.offset, in.size, &reserved);
	rc = allowed < 0 ? (int)allowed : lfs_may_write(node, fd, in.offset);
	allowed = rc < 0 ? 0 : allowed;
	while (allowed > 0 && done < (uint64_t)allowed) {
		ssize_t put = pwrite(fd, request->args + sizeof in + done, (size_t)allowed - done, (off_t)(in.offset + done));
		if (put < 0) {
			rc = -errno;
			break;
		}
		done += (size_t)put;
	}
	lfs_quota_end(request->server, node->file, fd, reserved);
	end(request, node);
	lfs_count(LFS_COUNT_bytes_written, done);
	if (rc < 0 && !done)
		return rc;
	*(struct fuse_write_out *)request->out = (struct fuse_write_out){.size = (uint32_t)done};
	request->out_size = sizeof(struct fuse_write_out);
	return 0;
}

int lfs_op_fsync(struct lfs_request *request)
{
	struct fuse_fsync_in in;
	struct lfs_content content;
	struct lfs_node *node;
	int fd;
	memcpy(&in, request->args, sizeof in);
	int rc = begin(request, request->header.nodeid, false, &node, &content, &fd);
	if (rc < 0)
		return rc;
	if (fd >= 0 && !request->server->options.volatile_ && (in.fsync_flags & FUSE_FSYNC_DATA ? fdatasync(fd) : fsync(fd)) < 0)
		rc = -errno;
	end(request, node);
	return rc;
}

int lfs_op_fsyncdir(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	lfs_lock(server);
	struct lfs_node *dir = lfs_node_find(server, request->header.nodeid);
	LFS_AUTO_FD fd = LFS_NO_FD;
	int rc = dir && lfs_node_is_dir(dir) ? 0 : -ESTALE;
	if (rc >= 0 && dir->flags & LFS_HERE && !server->options.volatile_) {
		fd = lfs_dir_reopen(server, dir);
		rc = fd < 0 ? fd : 0;
	}
	lfs_unlock(server);
	return rc < 0 ? rc : fd >= 0 && fsync(fd) < 0 ? -errno : 0;
}

int lfs_op_syncfs(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	return server->writable && !server->options.volatile_ && syncfs(server->upper.root) < 0 ? -errno : 0;
}

int lfs_op_fallocate(struct lfs_request *request)
{
	struct fuse_fallocate_in in;
	struct lfs_content content;
	struct lfs_node *node;
	int fd;
	memcpy(&in, request->args, sizeof in);
	if (in.offset > INT64_MAX || in.length > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, request->header.nodeid, true, &node, &content, &fd);
	if (rc < 0)
		return rc;
	uint64_t reserved = 0;
	bool takes = !(in.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE));
	int64_t allowed = takes ? lfs_quota_begin(request->server, fd, in.offset, in.length, &reserved) : 0;
	rc = takes && allowed != (int64_t)in.length ? -ENOSPC : lfs_may_allocate(node, in.mode);
	if (rc >= 0 && fallocate(fd, (int)in.mode, (off_t)in.offset, (off_t)in.length) < 0)
		rc = -errno;
	lfs_quota_end(request->server, node->file, fd, reserved);
	end(request, node);
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

static int64_t seek_bytes(struct lfs_server *server, const struct lfs_node *node, int fd, struct lfs_content *content, const struct fuse_lseek_in *in)
{
	struct stat status;
	if (fd >= 0 && !may_be_dirty(server, node)) {
		off_t found = lseek(fd, (off_t)in->offset, (int)in->whence);
		return found < 0 ? -errno : found;
	}
	if (fd >= 0 && fstat(fd, &status) < 0)
		return -errno;
	if (fd >= 0)
		content->size = (uint64_t)status.st_size;
	return seek_whole(content, in->offset, in->whence);
}

int lfs_op_lseek(struct lfs_request *request)
{
	struct fuse_lseek_in in;
	struct lfs_content content;
	struct lfs_node *node;
	int fd;
	memcpy(&in, request->args, sizeof in);
	if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE)
		return -EINVAL;
	if (in.offset > INT64_MAX)
		return -ENXIO; /* a negative one is out of the file, as any other file system has it */
	int rc = begin(request, request->header.nodeid, false, &node, &content, &fd);
	if (rc < 0)
		return rc;
	int64_t found = seek_bytes(request->server, node, fd, &content, &in);
	end(request, node);
	*(struct fuse_lseek_out *)request->out = (struct fuse_lseek_out){(uint64_t)found};
	request->out_size = sizeof(struct fuse_lseek_out);
	return found < 0 ? (int)found : 0;
}

static int64_t copy_range(struct lfs_request *request, uint64_t limit)
{
	struct fuse_copy_file_range_in in;
	struct lfs_content content, unused;
	struct lfs_node *from, *to;
	int source, target;
	memcpy(&in, request->args, sizeof in);
	if (in.off_in > INT64_MAX || in.off_out > INT64_MAX)
		return -EINVAL;
	int rc = begin(request, request->header.nodeid, false, &from, &content, &source);
	if (rc < 0)
		return rc;
	rc = begin(request, in.nodeid_out, true, &to, &unused, &target);
	if (rc < 0) {
		end(request, from);
		return rc;
	}
	int64_t done = -EOPNOTSUPP; /* a packed file: the kernel copies through its cache */
	off_t at = (off_t)in.off_in, put = (off_t)in.off_out;
	if (source >= 0) {
		uint64_t reserved;
		done = lfs_quota_begin(request->server, target, in.off_out, in.len < limit ? in.len : limit, &reserved);
		if (done >= 0 && (done = copy_file_range(source, &at, target, &put, (size_t)done, (unsigned)in.flags)) < 0)
			done = -errno;
		lfs_quota_end(request->server, to->file, target, reserved);
	}
	end(request, to);
	end(request, from);
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
