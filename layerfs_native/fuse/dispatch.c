/* From a request to its operation. Nothing in a request is used before its size was checked here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "server.h"

struct entry {
	lfs_operation *run;
	uint16_t least; /* bytes of arguments */
	bool free;	/* runs without the lock, and finds its node itself */
	uint16_t since; /* minor version of the protocol; 0: all that we speak */
};

#define UNDER_LOCK(name, size) {lfs_op_##name, size, false, 0}
#define FREE(name, size) {lfs_op_##name, size, true, 0}

static const struct entry operations[FUSE_OP_LIMIT] = {
	[FUSE_LOOKUP] = UNDER_LOCK(lookup, 1),
	[FUSE_FORGET] = FREE(forget, sizeof(struct fuse_forget_in)),
	[FUSE_BATCH_FORGET] = FREE(batch_forget, sizeof(struct fuse_batch_forget_in)),
	[FUSE_GETATTR] = UNDER_LOCK(getattr, sizeof(struct fuse_getattr_in)),
	[FUSE_SETATTR] = UNDER_LOCK(setattr, sizeof(struct fuse_setattr_in)),
	[FUSE_READLINK] = UNDER_LOCK(readlink, 0),
	[FUSE_SYMLINK] = UNDER_LOCK(symlink, 2),
	[FUSE_MKNOD] = UNDER_LOCK(mknod, sizeof(struct fuse_mknod_in) + 1),
	[FUSE_MKDIR] = UNDER_LOCK(mkdir, sizeof(struct fuse_mkdir_in) + 1),
	[FUSE_UNLINK] = UNDER_LOCK(unlink, 1),
	[FUSE_RMDIR] = UNDER_LOCK(rmdir, 1),
	[FUSE_RENAME] = UNDER_LOCK(rename, sizeof(struct fuse_rename_in) + 2),
	[FUSE_RENAME2] = UNDER_LOCK(rename2, sizeof(struct fuse_rename2_in) + 2),
	[FUSE_LINK] = UNDER_LOCK(link, sizeof(struct fuse_link_in) + 1),
	[FUSE_OPEN] = UNDER_LOCK(open, sizeof(struct fuse_open_in)),
	[FUSE_READ] = FREE(read, sizeof(struct fuse_read_in)),
	[FUSE_WRITE] = FREE(write, sizeof(struct fuse_write_in)),
	[FUSE_STATFS] = FREE(statfs, 0),
	[FUSE_RELEASE] = UNDER_LOCK(release, sizeof(struct fuse_release_in)),
	[FUSE_FSYNC] = FREE(fsync, sizeof(struct fuse_fsync_in)),
	[FUSE_SETXATTR] = UNDER_LOCK(setxattr, sizeof(struct fuse_setxattr_in) + 1),
	[FUSE_GETXATTR] = UNDER_LOCK(getxattr, sizeof(struct fuse_getxattr_in) + 1),
	[FUSE_LISTXATTR] = UNDER_LOCK(listxattr, sizeof(struct fuse_getxattr_in)),
	[FUSE_REMOVEXATTR] = UNDER_LOCK(removexattr, 1),
	[FUSE_INIT] = FREE(init, 16),
	[FUSE_OPENDIR] = UNDER_LOCK(opendir, sizeof(struct fuse_open_in)),
	[FUSE_RELEASEDIR] = FREE(releasedir, 0),
	[FUSE_READDIR] = UNDER_LOCK(readdir, sizeof(struct fuse_read_in)),
	[FUSE_READDIRPLUS] = UNDER_LOCK(readdirplus, sizeof(struct fuse_read_in)),
	[FUSE_FSYNCDIR] = FREE(fsyncdir, sizeof(struct fuse_fsync_in)),
	[FUSE_CREATE] = UNDER_LOCK(create, sizeof(struct fuse_create_in) + 1),
	[FUSE_TMPFILE] = {lfs_op_tmpfile, sizeof(struct fuse_create_in), false, 37},
	[FUSE_IOCTL] = UNDER_LOCK(ioctl, sizeof(struct fuse_ioctl_in)),
	[FUSE_FALLOCATE] = FREE(fallocate, sizeof(struct fuse_fallocate_in)),
	[FUSE_LSEEK] = FREE(lseek, sizeof(struct fuse_lseek_in)),
	[FUSE_COPY_FILE_RANGE] = FREE(copy_file_range, sizeof(struct fuse_copy_file_range_in)),
	[FUSE_COPY_FILE_RANGE_64] = {lfs_op_copy_file_range_64, sizeof(struct fuse_copy_file_range_in), true, 45},
	[FUSE_SYNCFS] = {lfs_op_syncfs, 0, true, 34},
	[FUSE_DESTROY] = FREE(destroy, 0),
};
/* FLUSH, ACCESS, STATX, INTERRUPT and all others: ENOSYS, after which the kernel does without them. */

static bool makes_entry(uint32_t opcode)
{
	return opcode == FUSE_MKNOD || opcode == FUSE_MKDIR || opcode == FUSE_SYMLINK || opcode == FUSE_CREATE || opcode == FUSE_TMPFILE;
}

/* Whether names may be others afterwards, or what a directory is; of operations with the lock. */
static bool changes_names(const struct lfs_request *request)
{
	struct fuse_open_in in;
	switch (request->header.opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_RELEASE:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		return false;
	case FUSE_OPEN:
		memcpy(&in, request->args, sizeof in);
		return (in.flags & O_ACCMODE) != O_RDONLY || in.flags & O_TRUNC;
	case FUSE_SETATTR:
		return !lfs_newest_is(request->server, request->node);
	default:
		return true;
	}
}

static int run(struct lfs_request *request, const struct entry *entry)
{
	struct lfs_server *server = request->server;
	if (entry->free)
		return entry->run(request);
	if (makes_entry(request->header.opcode) || request->header.opcode == FUSE_OPEN)
		lfs_await_room(server);
	if (server->quota.on && makes_entry(request->header.opcode))
		lfs_quota_await(server, 1, 0);
	lfs_lock(server);
	lfs_await_thaw(server);
	request->node = lfs_node_find(server, request->header.nodeid);
	int rc = -ESTALE;
	if (request->node) {
		lfs_node_get(request->node); /* the lock may be let go in between */
		rc = request->node->flags & LFS_LATE ? lfs_wake(server, request->node) : 0;
		if (changes_names(request))
			lfs_newest_forget(server);
		if (rc >= 0)
			rc = entry->run(request);
		lfs_node_put(server, request->node);
	}
	lfs_unlock(server);
	return rc;
}

int lfs_dispatch(struct lfs_request *request)
{
	uint32_t opcode = request->header.opcode;
	request->silent = opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
	if (opcode >= FUSE_OP_LIMIT || !operations[opcode].run || operations[opcode].since > request->server->minor)
		return -ENOSYS;
	const struct entry *entry = &operations[opcode];
	size_t extensions = request->server->minor < 38 ? 0 : (size_t)request->header.total_extlen * 8; /* before, padding */
	if (extensions > request->args_size)
		return -EINVAL;
	request->args_size -= extensions;
	if (request->args_size < entry->least)
		return -EINVAL;
	uint64_t start = lfs_now();
	int rc = run(request, entry);
	lfs_count_request(opcode, rc, lfs_now() - start);
	return rc;
}

/* --- what may take long --- */

#define LONG_COPY (256u << 10) /* as copyup.c: over this it works without the lock */

static bool copies_much(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_inode inode;
	lfs_lock(server);
	struct lfs_node *node = lfs_node_find(server, request->header.nodeid);
	if (node && node->flags & LFS_LATE)
		lfs_wake(server, node);
	bool much = node && lfs_node_is_file(node) && (node->flags & (LFS_HERE | LFS_METACOPY)) != LFS_HERE &&
		    (node->flags & LFS_COPYING || (lfs_low_inode(server, node->low, &inode) == 0 && inode.size > LONG_COPY));
	lfs_unlock(server);
	return much;
}

static bool is_synced(struct lfs_request *request)
{
	lfs_lock(request->server);
	struct lfs_node *dir = lfs_node_find(request->server, request->header.nodeid);
	bool synced = dir && lfs_newest_covers(request->server, dir);
	lfs_unlock(request->server);
	return synced;
}

bool lfs_takes_long(struct lfs_request *request)
{
	struct fuse_open_in open;
	struct fuse_setattr_in setattr;
	bool syncs = !request->server->options.volatile_;
	switch (request->header.opcode) {
	case FUSE_FSYNCDIR:
		return syncs && !is_synced(request);
	case FUSE_FSYNC:
	case FUSE_SYNCFS:
		return syncs;
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE:
	case FUSE_COPY_FILE_RANGE_64:
		return true;
	case FUSE_OPEN:
		if (request->args_size < sizeof open || !request->server->writable)
			return false;
		memcpy(&open, request->args, sizeof open);
		return (open.flags & O_ACCMODE) != O_RDONLY && !(open.flags & O_TRUNC) && copies_much(request);
	case FUSE_SETATTR:
		if (request->args_size < sizeof setattr || !request->server->writable)
			return false;
		memcpy(&setattr, request->args, sizeof setattr);
		return setattr.valid & FATTR_SIZE && setattr.size && copies_much(request);
	default:
		return false;
	}
}

/* The kernel did not take the reply: what it was given is taken back. */
void lfs_undelivered(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	lfs_count(LFS_COUNT_undelivered, 1);
	if (!request->undo)
		return;
	lfs_lock(server);
	if (request->undo_open)
		lfs_release(server, request->undo, request->undo_handle);
	if (request->header.opcode != FUSE_OPEN)
		lfs_node_forget(server, request->undo, 1);
	lfs_unlock(server);
}

int lfs_name_argument(const struct lfs_request *request, size_t *at, struct lfs_bytes *name)
{
	const uint8_t *start = request->args + *at, *end;
	if (*at >= request->args_size || !(end = memchr(start, 0, request->args_size - *at)))
		return -EINVAL;
	*name = (struct lfs_bytes){start, (size_t)(end - start)};
	*at += name->size + 1;
	if (!name->size || memchr(name->data, '/', name->size) || (name->size <= 2 && !memcmp(name->data, "..", name->size)))
		return -EINVAL;
	return name->size > LFS_NAME_MAX ? -ENAMETOOLONG : 0;
}

/* A mapping may change the times of what is passed through without a word; a replaced node shows another one's. */
bool lfs_attr_lasts(const struct lfs_node *node)
{
	return !(node->flags & LFS_SPLIT) && !(lfs_node_is_file(node) && node->file && node->file->writers && node->file->backing);
}

void lfs_fill_entry(struct lfs_server *server, struct lfs_node *node, const struct fuse_attr *attr, struct fuse_entry_out *out)
{
	*out = (struct fuse_entry_out){
		.nodeid = lfs_node_id(node),
		.generation = node->generation,
		.entry_valid = server->options.cache_seconds,
		.attr_valid = lfs_attr_lasts(node) ? server->options.cache_seconds : 0,
		.attr = *attr,
	};
	lfs_ids_show(server, &out->attr);
	lfs_node_look(node);
}

int lfs_reply_entry(struct lfs_request *request, struct lfs_node *node, const struct fuse_attr *attr)
{
	lfs_fill_entry(request->server, node, attr, (struct fuse_entry_out *)request->out);
	request->out_size = sizeof(struct fuse_entry_out);
	request->undo = node;
	lfs_node_put(request->server, node);
	return 0;
}
