/* Operations on attributes: stat, chmod and the like, xattrs, flags. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server.h"

static int reply_attr(struct lfs_request *request, struct lfs_node *node)
{
	struct fuse_attr_out *out = (struct fuse_attr_out *)request->out;
	*out = (struct fuse_attr_out){0};
	int rc = lfs_attr(request->server, node, &out->attr);
	lfs_ids_show(request->server, &out->attr);
	out->attr_valid = lfs_attr_lasts(node) ? request->server->options.cache_seconds : 0;
	request->out_size = sizeof *out;
	return rc;
}

int lfs_op_getattr(struct lfs_request *request)
{
	return reply_attr(request, request->node);
}

int lfs_op_readlink(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_node *node = request->node;
	const char *name;
	if (node->type != S_IFLNK >> 12)
		return -EINVAL;
	if (!(node->flags & LFS_HERE)) {
		int size = lfs_low_readlink(server, node->low, request->out, LFS_BLOCK);
		request->out_size = size < 0 ? 0 : (size_t)size;
		return size < 0 ? size : 0;
	}
	bool pinned = lfs_is_pinned(node);
	int fd = pinned ? lfs_pinned_fd(server, node) : lfs_place(server, node, &name);
	if (fd < 0)
		return fd;
	ssize_t size = readlinkat(fd, pinned ? "" : name, (char *)request->out, LFS_BLOCK);
	if (size < 0)
		return -errno;
	request->out_size = (size_t)size;
	return 0;
}

/* --- changing --- */

static int set_size(struct lfs_server *server, struct lfs_node *node, const struct fuse_setattr_in *in)
{
	struct lfs_content content;
	struct stat status;
	if (!lfs_node_is_file(node))
		return lfs_node_is_dir(node) ? -EISDIR : -EINVAL;
	if (in->size > INT64_MAX)
		return -EINVAL;
	int rc = lfs_copy_up(server, node, in->size ? LFS_DATA_ALL : LFS_DATA_EMPTY);
	if (rc >= 0)
		rc = lfs_settle_data(server, node);
	if (rc >= 0)
		rc = lfs_file_use(server, node, true, &content);
	if (rc < 0)
		return rc;
	rc = lfs_file_truncate(server, node, in->size);
	if (rc >= 0 && in->valid & FATTR_KILL_SUIDGID && fstat(node->file->fd, &status) == 0 && status.st_mode & (S_ISUID | S_ISGID))
		fchmod(node->file->fd, status.st_mode & (status.st_mode & S_IXGRP ? 01777u : 03777u));
	lfs_quota_settle(server, node->file, node->file->fd);
	lfs_file_done(server, node);
	return rc;
}

static struct timespec one_time(const struct fuse_setattr_in *in, uint32_t set, uint32_t now, uint64_t seconds, uint32_t nanoseconds)
{
	if (!(in->valid & set))
		return (struct timespec){0, UTIME_OMIT};
	if (in->valid & now)
		return (struct timespec){0, UTIME_NOW};
	return (struct timespec){(time_t)seconds, nanoseconds > 999999999 ? 0 : nanoseconds};
}

/* On an entry that is in the upper: by its name, or by the descriptor of one that has none. */
static int apply(struct lfs_server *server, struct lfs_node *node, const struct fuse_setattr_in *in)
{
	char path[300];
	const char *name;
	int fd = LFS_NO_FD, flags = AT_SYMLINK_NOFOLLOW;
	if (lfs_is_pinned(node)) {
		if ((fd = lfs_pinned_fd(server, node)) < 0)
			return fd;
		lfs_fd_path(fd, NULL, path);
		fd = server->upper.links, name = path, flags = 0;
	} else {
		fd = lfs_place(server, node, &name);
	}
	if (fd < 0)
		return fd;
	bool nothing = !(in->valid & (FATTR_SIZE | FATTR_MODE | FATTR_ATIME | FATTR_MTIME)); /* chown(-1, -1) also strips set-id bits */
	if ((nothing || in->valid & (FATTR_UID | FATTR_GID)) &&
	    fchownat(fd, name, in->valid & FATTR_UID ? in->uid : (uid_t)-1, in->valid & FATTR_GID ? in->gid : (gid_t)-1, flags) < 0)
		return -errno;
	if (in->valid & FATTR_MODE) {
		if (node->type == S_IFLNK >> 12)
			return -EOPNOTSUPP;
		if (fchmodat(fd, name, in->mode & 07777, 0) < 0)
			return -errno;
	}
	if (in->valid & (FATTR_ATIME | FATTR_MTIME)) {
		struct timespec times[2] = {one_time(in, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
					    one_time(in, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)};
		if (utimensat(fd, name, times, flags) < 0)
			return -errno;
	}
	return 0;
}

/* Owners as they are stored; what belongs to nobody here can only be given to somebody. */
static int stored_ids(struct lfs_server *server, struct lfs_node *node, struct fuse_setattr_in *in)
{
	bool user, group;
	lfs_ids_known(server, node, &user, &group);
	if ((!user && !(in->valid & FATTR_UID)) || (!group && !(in->valid & FATTR_GID)))
		return -EOVERFLOW;
	int rc = in->valid & FATTR_UID ? lfs_id_store_user(server, &in->uid) : 0;
	return rc >= 0 && in->valid & FATTR_GID ? lfs_id_store_group(server, &in->gid) : rc;
}

/* A change through an old descriptor is one of the node that has the name now; the kernel knows only of the other. */
static void tell_successor(struct lfs_server *server, struct lfs_node *node)
{
	if (node->flags & LFS_SPLIT && node->file && node->file->successor)
		lfs_notify_attr(server, node->file->successor);
}

int lfs_op_setattr(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_node *node = request->node, *real = node;
	struct fuse_setattr_in in;
	memcpy(&in, request->args, sizeof in);
	int rc = server->writable ? lfs_may_set(server, node, in.valid) : -EROFS;
	if (rc >= 0)
		rc = stored_ids(server, node, &in);
	if (rc >= 0 && in.valid & FATTR_SIZE)
		rc = set_size(server, node, &in);
	const uint32_t others = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_ATIME | FATTR_MTIME;
	if (rc >= 0 && (in.valid & others || !(in.valid & FATTR_SIZE))) {
		rc = lfs_copy_up(server, node, LFS_DATA_NONE);
		if (node->flags & LFS_SPLIT && node->file && node->file->successor)
			real = node->file->successor;
		struct lfs_file *file = lfs_node_is_file(real) && real->flags & LFS_BLOCKS ? real->file : NULL;
		lfs_blocks_pause(file);
		if (rc >= 0)
			rc = apply(server, real, &in);
		lfs_blocks_resume(file);
		tell_successor(server, node);
	}
	return rc < 0 ? rc : reply_attr(request, node);
}

/* --- xattrs --- */

static int xattr_name(struct lfs_request *request, size_t at, struct lfs_bytes *name)
{
	const uint8_t *start = request->args + at, *end = memchr(start, 0, request->args_size - at);
	if (!end || end == start)
		return -EINVAL;
	*name = (struct lfs_bytes){start, (size_t)(end - start)};
	return 0;
}

static int reply_sized(struct lfs_request *request, int rc, uint32_t wanted)
{
	if (rc < 0)
		return rc;
	if (!wanted) {
		*(struct fuse_getxattr_out *)request->out = (struct fuse_getxattr_out){.size = (uint32_t)rc};
		request->out_size = sizeof(struct fuse_getxattr_out);
		return 0;
	}
	if ((uint32_t)rc > wanted)
		return -ERANGE;
	request->out_size = (size_t)rc;
	return 0;
}

int lfs_op_getxattr(struct lfs_request *request)
{
	struct fuse_getxattr_in in;
	struct lfs_bytes name;
	memcpy(&in, request->args, sizeof in);
	int rc = xattr_name(request, sizeof in, &name);
	if (rc < 0)
		return rc;
	size_t room = in.size < request->out_room ? in.size : request->out_room;
	return reply_sized(request, lfs_ids_show_xattr(request->server, request->node, name, request->out, room), in.size);
}

static bool same_user_namespace(const struct lfs_server *server, uint32_t process)
{
	char path[32], theirs[64] = {0}, ours[64] = {0};
	snprintf(path, sizeof path, "%u/ns/user", process);
	return readlinkat(server->proc, path, theirs, sizeof theirs - 1) > 0 && readlinkat(server->proc, "self/ns/user", ours, sizeof ours - 1) > 0 &&
	       !strcmp(theirs, ours);
}

/* Names below trusted. are for those with CAP_SYS_ADMIN on the host; the kernel does not see to that here, and tells us only the process. */
static bool sees_trusted(const struct lfs_request *request)
{
	char path[32], text[4096];
	if (!request->server->rights.host || !same_user_namespace(request->server, request->header.pid))
		return false;
	snprintf(path, sizeof path, "%u/status", request->header.pid);
	LFS_AUTO_FD fd = request->header.pid ? openat(request->server->proc, path, O_RDONLY | O_CLOEXEC) : LFS_NO_FD;
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size < 0)
		return false;
	text[size] = 0;
	const char *line = strstr(text, "\nCapEff:");
	return line && strtoull(line + 8, NULL, 16) >> 21 & 1; /* CAP_SYS_ADMIN */
}

static int drop_trusted(char *list, int size)
{
	int used = 0;
	for (int at = 0; at < size;) {
		int length = (int)strlen(list + at) + 1;
		if (strncmp(list + at, "trusted.", 8)) {
			memmove(list + used, list + at, (size_t)length);
			used += length;
		}
		at += length;
	}
	return used;
}

int lfs_op_listxattr(struct lfs_request *request)
{
	struct fuse_getxattr_in in;
	memcpy(&in, request->args, sizeof in);
	int rc = lfs_xattr_list(request->server, request->node, (char *)request->out, request->out_room < 65536 ? request->out_room : 65536);
	if (rc > 0 && memmem(request->out, (size_t)rc, "trusted.", 8) && !sees_trusted(request))
		rc = drop_trusted((char *)request->out, rc);
	return reply_sized(request, rc, in.size);
}

static void kill_sgid(struct lfs_server *server, struct lfs_node *node)
{
	struct stat status;
	struct fuse_setattr_in in = {.valid = FATTR_MODE};
	if (lfs_entry_stat(server, node, &status) < 0 || !(status.st_mode & S_ISGID))
		return;
	in.mode = status.st_mode & 05777;
	apply(server, node, &in);
}

int lfs_op_setxattr(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_setxattr_ext_in in = {0};
	struct lfs_bytes name;
	size_t front = server->setxattr_ext ? sizeof in : sizeof(struct fuse_setxattr_in);
	if (request->args_size <= front)
		return -EINVAL;
	memcpy(&in, request->args, front);
	int rc = xattr_name(request, front, &name);
	if (rc >= 0)
		rc = lfs_may_set_xattr(server, request->node);
	size_t at = front + name.size + 1;
	if (rc >= 0 && (at > request->args_size || in.size > request->args_size - at))
		rc = -EINVAL;
	struct lfs_bytes value = {request->args + at, in.size};
	if (rc >= 0)
		rc = lfs_ids_store_xattr(server, name, &value, request->out, request->out_room);
	if (rc >= 0)
		rc = lfs_xattr_set(server, request->node, name, value, (int)in.flags);
	tell_successor(server, request->node);
	if (rc >= 0 && in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
		kill_sgid(server, request->node);
	return rc;
}

int lfs_op_removexattr(struct lfs_request *request)
{
	struct lfs_bytes name;
	int rc = xattr_name(request, 0, &name);
	if (rc >= 0)
		rc = lfs_may_set_xattr(request->server, request->node);
	if (rc >= 0)
		rc = lfs_xattr_remove(request->server, request->node, name);
	tell_successor(request->server, request->node);
	return rc;
}

/* --- the file system --- */

int lfs_op_statfs(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_kstatfs *out = (struct fuse_kstatfs *)request->out;
	struct statvfs host;
	*out = (struct fuse_kstatfs){.bsize = LFS_BLOCK, .frsize = LFS_BLOCK, .namelen = LFS_NAME_MAX};
	request->out_size = sizeof *out;
	if (!server->upper.present)
		return 0;
	if (fstatvfs(lfs_upper_root(server), &host) < 0)
		return -errno;
	out->blocks = host.f_blocks, out->bfree = host.f_bfree, out->bavail = host.f_bavail;
	out->files = host.f_files, out->ffree = host.f_ffree;
	out->bsize = (uint32_t)host.f_bsize, out->frsize = (uint32_t)host.f_frsize;
	lfs_quota_statfs(server, out);
	return 0;
}
