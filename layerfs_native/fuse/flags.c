/* Inode flags. Immutable and append-only are overlayfs's `protattr` mark: the host's inode does not have them, so that this server can still
 * work on it; what they forbid is refused here, before a change, together with what belongs to nobody under an id map. All other flags are
 * the host inode's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>

#include "server.h"

#define PROTECTED (LFS_IMMUTABLE | LFS_APPEND)

/* --- the mark --- */

uint16_t lfs_protection_of(const char *value, ssize_t size)
{
	uint16_t flags = 0;
	for (ssize_t i = 0; i < size; i++)
		flags |= value[i] == 'i' ? LFS_IMMUTABLE : value[i] == 'a' ? LFS_APPEND : 0;
	return flags;
}

uint16_t lfs_protection(struct lfs_server *server, int dir_fd, const char *name)
{
	char value[32];
	return lfs_protection_of(value, lfs_mark_get(server, dir_fd, name, "protattr", value, sizeof value));
}

static int protect(struct lfs_server *server, struct lfs_node *node, uint16_t flags)
{
	char value[2];
	size_t size = 0;
	if ((node->flags & PROTECTED) == flags)
		return 0;
	if (flags & LFS_APPEND)
		value[size++] = 'a';
	if (flags & LFS_IMMUTABLE)
		value[size++] = 'i';
	LFS_AUTO_FD fd = lfs_entry_open(server, node, O_PATH);
	if (fd < 0)
		return fd;
	uint64_t weight = lfs_quota_weight(server, node);
	int rc = size ? lfs_mark_set(server, fd, NULL, "protattr", value, size) : lfs_mark_drop(server, fd, NULL, "protattr");
	lfs_quota_changed(server, node, weight);
	if (rc >= 0)
		node->flags = (uint16_t)((node->flags & ~PROTECTED) | flags);
	return rc;
}

/* --- what is forbidden --- */

static struct lfs_node *real_node(struct lfs_node *node)
{
	return node->flags & LFS_SPLIT && node->file && node->file->successor ? node->file->successor : node;
}

static bool known(struct lfs_server *server, struct lfs_node *node)
{
	bool user, group;
	return lfs_ids_known(server, node, &user, &group);
}

int lfs_may_add(struct lfs_server *server, struct lfs_node *dir)
{
	return dir->flags & LFS_IMMUTABLE ? -EPERM : known(server, dir) ? 0 : -EACCES;
}

int lfs_may_remove(struct lfs_server *server, struct lfs_node *dir, struct lfs_node *node)
{
	if (!known(server, node))
		return -EOVERFLOW;
	if (dir->flags & LFS_APPEND || node->flags & PROTECTED)
		return -EPERM;
	return lfs_may_add(server, dir);
}

int lfs_may_link(struct lfs_server *server, struct lfs_node *node)
{
	return node->flags & PROTECTED || !known(server, node) ? -EPERM : 0;
}

int lfs_may_open(struct lfs_server *server, struct lfs_node *node, uint32_t flags)
{
	bool write = (flags & O_ACCMODE) != O_RDONLY;
	if (!write && !(flags & O_TRUNC))
		return 0;
	if (node->flags & LFS_IMMUTABLE)
		return -EPERM;
	if (node->flags & LFS_APPEND && ((write && !(flags & O_APPEND)) || flags & O_TRUNC))
		return -EPERM;
	return known(server, node) ? 0 : -EACCES;
}

int lfs_may_set(struct lfs_server *server, struct lfs_node *node, uint32_t valid)
{
	node = real_node(node);
	bool times = (valid & FATTR_ATIME && !(valid & FATTR_ATIME_NOW)) || (valid & FATTR_MTIME && !(valid & FATTR_MTIME_NOW));
	if (node->flags & LFS_IMMUTABLE)
		return -EPERM;
	if (valid & FATTR_SIZE && !known(server, node))
		return -EACCES;
	return node->flags & LFS_APPEND && (times || valid & (FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE)) ? -EPERM : 0;
}

int lfs_may_set_xattr(struct lfs_server *server, struct lfs_node *node)
{
	return lfs_may_link(server, real_node(node));
}

int lfs_may_write(const struct lfs_node *node, int fd, uint64_t offset)
{
	struct stat status;
	if (!(node->flags & LFS_APPEND))
		return 0;
	return fstat(fd, &status) == 0 && offset >= (uint64_t)status.st_size ? 0 : -EPERM;
}

int lfs_may_allocate(const struct lfs_node *node, uint32_t mode)
{
	return node->flags & LFS_IMMUTABLE || (node->flags & LFS_APPEND && mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE) ? -EPERM : 0;
}

/* --- FS_IOC_GETFLAGS and its like: both forms begin with 32 flags --- */

struct form {
	uint32_t immutable, append;
	size_t size;
};

static bool form_of(uint32_t command, struct form *form, bool *set)
{
	*set = command == FS_IOC_SETFLAGS || command == FS_IOC_FSSETXATTR;
	if (command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS)
		*form = (struct form){FS_IMMUTABLE_FL, FS_APPEND_FL, sizeof(uint32_t)};
	else if (command == FS_IOC_FSGETXATTR || command == FS_IOC_FSSETXATTR)
		*form = (struct form){FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND, sizeof(struct fsxattr)};
	else
		return false;
	return true;
}

/* The host's part. Its ioctl numbers say `long`, but all take 32 bits. */
static int host_flags(struct lfs_server *server, struct lfs_node *node, uint32_t command, uint8_t data[64])
{
	if (!(node->flags & LFS_HERE))
		return 0;
	LFS_AUTO_FD fd = lfs_entry_open(server, node, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return fd;
	return ioctl(fd, command, data) < 0 ? -errno : 0;
}

/* A host without flags keeps ours all the same, when nothing else is asked for. */
static int set_flags(struct lfs_server *server, struct lfs_node *node, uint32_t command, const struct form *form, uint8_t data[64])
{
	uint32_t flags;
	uint8_t rest[64], nothing[64] = {0};
	memcpy(&flags, data, sizeof flags);
	uint16_t wanted = (uint16_t)((flags & form->immutable ? LFS_IMMUTABLE : 0) | (flags & form->append ? LFS_APPEND : 0));
	flags &= ~(form->immutable | form->append);
	memcpy(rest, data, sizeof rest);
	memcpy(rest, &flags, sizeof flags);
	int rc = lfs_copy_up(server, node, LFS_DATA_NONE);
	if (rc < 0)
		return rc;
	rc = host_flags(server, node, command, rest);
	if ((rc == -ENOTTY || rc == -EOPNOTSUPP) && !memcmp(rest, nothing, sizeof rest))
		rc = 0;
	return rc < 0 ? rc : protect(server, node, wanted);
}

static int get_flags(struct lfs_server *server, struct lfs_node *node, uint32_t command, const struct form *form, uint8_t data[64])
{
	uint32_t flags;
	int rc = host_flags(server, node, command, data);
	if (rc < 0 && !(rc == -ENOTTY && node->flags & PROTECTED))
		return rc;
	memcpy(&flags, data, sizeof flags);
	flags |= (node->flags & LFS_IMMUTABLE ? form->immutable : 0) | (node->flags & LFS_APPEND ? form->append : 0);
	memcpy(data, &flags, sizeof flags);
	return 0;
}

int lfs_op_ioctl(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_node *node = request->node;
	struct fuse_ioctl_in in;
	struct form form;
	uint8_t data[64] = {0};
	bool set;
	memcpy(&in, request->args, sizeof in);
	if (!form_of(in.cmd, &form, &set) || (!lfs_node_is_file(node) && !lfs_node_is_dir(node)))
		return -ENOTTY;
	if (set && (in.in_size < form.size || form.size > request->args_size - sizeof in))
		return -EINVAL;
	node = real_node(node);
	if (set)
		memcpy(data, request->args + sizeof in, form.size);
	int rc = set ? set_flags(server, node, in.cmd, &form, data) : get_flags(server, node, in.cmd, &form, data);
	if (set && rc >= 0)
		lfs_notify_attr(server, node); /* its ctime changed, of which the kernel does not know */
	if (rc < 0)
		return rc;
	*(struct fuse_ioctl_out *)request->out = (struct fuse_ioctl_out){0};
	request->out_size = sizeof(struct fuse_ioctl_out);
	if (!set) {
		size_t size = in.out_size < form.size ? in.out_size : form.size;
		memcpy(request->out + request->out_size, data, size);
		request->out_size += size;
	}
	return 0;
}
