/* Operations on names: lookup, creating, removing, renaming, listing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "server.h"

int lfs_op_lookup(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct lfs_bytes name;
	struct lfs_node *node;
	struct fuse_attr attr;
	size_t at = 0;
	int rc = lfs_name_argument(request, &at, &name);
	if (rc >= 0)
		rc = lfs_look(server, request->node, name, &node, &attr);
	if (rc >= 0)
		return lfs_reply_entry(request, node, &attr);
	if (rc != -ENOENT || request->node->flags & LFS_UNLINKED)
		return rc;
	lfs_count(LFS_COUNT_lookups_absent, 1);
	*(struct fuse_entry_out *)request->out = (struct fuse_entry_out){.entry_valid = server->options.cache_seconds}; /* the kernel remembers the absence */
	request->out_size = sizeof(struct fuse_entry_out);
	return 0;
}

int lfs_op_forget(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_forget_in in;
	memcpy(&in, request->args, sizeof in);
	lfs_lock(server);
	struct lfs_node *node = lfs_node_find(server, request->header.nodeid);
	if (node)
		lfs_node_forget(server, node, in.nlookup);
	lfs_unlock(server);
	return 0;
}

int lfs_op_batch_forget(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_batch_forget_in in;
	memcpy(&in, request->args, sizeof in);
	size_t room = (request->args_size - sizeof in) / sizeof(struct fuse_forget_one);
	lfs_lock(server);
	for (size_t i = 0; i < in.count && i < room; i++) {
		struct fuse_forget_one one;
		memcpy(&one, request->args + sizeof in + i * sizeof one, sizeof one);
		struct lfs_node *node = lfs_node_find(server, one.nodeid);
		if (node)
			lfs_node_forget(server, node, one.nlookup);
	}
	lfs_nodes_trim(server);
	lfs_unlock(server);
	return 0;
}

/* --- creating --- */

static int create(struct lfs_request *request, struct lfs_bytes name, struct lfs_new *what)
{
	struct lfs_node *node;
	struct fuse_attr attr;
	what->uid = request->header.uid;
	what->gid = request->header.gid;
	int rc = lfs_ids_store(request->server, what);
	if (rc >= 0)
		rc = lfs_create(request->server, request->node, name, what, &node, &attr);
	return rc < 0 ? rc : lfs_reply_entry(request, node, &attr);
}

int lfs_op_mknod(struct lfs_request *request)
{
	struct fuse_mknod_in in;
	struct lfs_bytes name;
	size_t at = sizeof in;
	memcpy(&in, request->args, sizeof in);
	int rc = lfs_name_argument(request, &at, &name);
	struct lfs_new what = {.mode = in.mode, .umask = in.umask, .rdev = in.rdev};
	if (rc >= 0 && (S_ISDIR(in.mode) || S_ISLNK(in.mode)))
		rc = -EINVAL;
	return rc < 0 ? rc : create(request, name, &what);
}

int lfs_op_mkdir(struct lfs_request *request)
{
	struct fuse_mkdir_in in;
	struct lfs_bytes name;
	size_t at = sizeof in;
	memcpy(&in, request->args, sizeof in);
	int rc = lfs_name_argument(request, &at, &name);
	struct lfs_new what = {.mode = S_IFDIR | (in.mode & 07777), .umask = in.umask};
	return rc < 0 ? rc : create(request, name, &what);
}

int lfs_op_symlink(struct lfs_request *request)
{
	struct lfs_bytes name;
	size_t at = 0;
	int rc = lfs_name_argument(request, &at, &name);
	if (rc < 0)
		return rc;
	struct lfs_new what = {.mode = S_IFLNK | 0777, .target = (const char *)request->args + at};
	if (at >= request->args_size || !memchr(what.target, 0, request->args_size - at))
		return -EINVAL;
	return create(request, name, &what);
}

/* A new file's attributes last although it is open for writing: while it is empty no mapping can change it, and what gives it a size makes
 * the kernel ask again. Without them it would ask as soon as the file is made. */
static void reply_created(struct lfs_request *request, struct lfs_node *node, const struct fuse_attr *attr)
{
	struct fuse_entry_out *out = (struct fuse_entry_out *)request->out;
	size_t size = request->out_size;
	lfs_reply_entry(request, node, attr);
	request->out_size = size;
	out->attr_valid = request->server->options.cache_seconds;
}

static int reply_open(struct lfs_request *request, struct lfs_node *node, uint32_t flags, int fd, size_t at)
{
	struct fuse_open_out open = {0};
	int rc = lfs_open(request->server, node, flags & ~(uint32_t)O_TRUNC, false, fd, &open);
	if (rc < 0)
		return rc;
	memcpy(request->out + at, &open, sizeof open);
	request->out_size = at + sizeof open;
	request->undo_open = true;
	request->undo_handle = open.fh;
	return 0;
}

int lfs_op_create(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_create_in in;
	struct lfs_bytes name;
	struct lfs_node *node;
	struct fuse_attr attr;
	size_t at = sizeof in;
	LFS_AUTO_FD fd = LFS_NO_FD;
	memcpy(&in, request->args, sizeof in);
	int rc = lfs_name_argument(request, &at, &name);
	if (rc < 0)
		return rc;
	struct lfs_new what = {S_IFREG | (in.mode & 07777), in.umask, 0, request->header.uid, request->header.gid, NULL, &fd};
	rc = lfs_ids_store(server, &what);
	if (rc >= 0)
		rc = lfs_create(server, request->node, name, &what, &node, &attr);
	if (rc < 0)
		return rc;
	rc = reply_open(request, node, in.flags, fd, sizeof(struct fuse_entry_out));
	if (rc < 0) {
		lfs_node_put(server, node);
		return rc;
	}
	reply_created(request, node, &attr);
	return 0;
}

int lfs_op_tmpfile(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_create_in in;
	struct lfs_node *node;
	struct fuse_attr attr;
	memcpy(&in, request->args, sizeof in);
	struct lfs_new what = {S_IFREG | (in.mode & 07777), in.umask, 0, request->header.uid, request->header.gid, NULL, NULL};
	int rc = lfs_ids_store(server, &what);
	if (rc >= 0)
		rc = lfs_tmpfile(server, request->node, &what, &node);
	if (rc < 0)
		return rc;
	rc = lfs_attr(server, node, &attr);
	if (rc >= 0)
		rc = reply_open(request, node, in.flags, LFS_NO_FD, sizeof(struct fuse_entry_out));
	if (rc < 0) {
		lfs_node_put(server, node);
		return rc;
	}
	reply_created(request, node, &attr);
	return 0;
}

int lfs_op_link(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_link_in in;
	struct lfs_bytes name;
	struct fuse_attr attr;
	size_t at = sizeof in;
	memcpy(&in, request->args, sizeof in);
	int rc = lfs_name_argument(request, &at, &name);
	struct lfs_node *node = lfs_node_find(server, in.oldnodeid);
	if (rc >= 0 && !node)
		rc = -ESTALE;
	if (rc < 0)
		return rc;
	lfs_node_get(node);
	rc = lfs_ids_caller(server, request->header.uid, request->header.gid) ? lfs_link(server, node, request->node, name) : -EOVERFLOW;
	if (rc >= 0)
		rc = lfs_attr(server, node, &attr);
	if (rc >= 0)
		return lfs_reply_entry(request, node, &attr);
	lfs_node_put(server, node);
	return rc;
}

/* --- removing and renaming --- */

static int remove_name(struct lfs_request *request, bool directory)
{
	struct lfs_bytes name;
	size_t at = 0;
	int rc = lfs_name_argument(request, &at, &name);
	return rc < 0 ? rc : lfs_unlink(request->server, request->node, name, directory);
}

int lfs_op_unlink(struct lfs_request *request)
{
	return remove_name(request, false);
}

int lfs_op_rmdir(struct lfs_request *request)
{
	return remove_name(request, true);
}

/* A name that is there already is replaced by anybody. */
static int may_name(const struct lfs_request *request, struct lfs_node *dir, struct lfs_bytes name)
{
	struct lfs_node *there;
	if (lfs_ids_caller(request->server, request->header.uid, request->header.gid))
		return 0;
	int rc = lfs_look(request->server, dir, name, &there, NULL);
	if (rc >= 0)
		lfs_node_put(request->server, there);
	return rc == -ENOENT ? -EOVERFLOW : 0;
}

static int rename_names(struct lfs_request *request, size_t at, uint64_t directory, uint32_t flags)
{
	struct lfs_server *server = request->server;
	struct lfs_bytes old, new;
	int rc = lfs_name_argument(request, &at, &old);
	if (rc >= 0)
		rc = lfs_name_argument(request, &at, &new);
	struct lfs_node *target = lfs_node_find(server, directory);
	if (rc >= 0 && !target)
		rc = -ESTALE;
	if (rc < 0)
		return rc;
	lfs_node_get(target);
	rc = may_name(request, target, new);
	if (rc >= 0)
		rc = lfs_rename(server, request->node, old, target, new, flags);
	lfs_node_put(server, target);
	return rc;
}

int lfs_op_rename(struct lfs_request *request)
{
	struct fuse_rename_in in;
	memcpy(&in, request->args, sizeof in);
	return rename_names(request, sizeof in, in.newdir, 0);
}

int lfs_op_rename2(struct lfs_request *request)
{
	struct fuse_rename2_in in;
	memcpy(&in, request->args, sizeof in);
	return rename_names(request, sizeof in, in.newdir, in.flags);
}

/* --- listing --- */

struct filling {
	struct lfs_server *server;
	struct lfs_node *dir;
	uint8_t *out;
	size_t room, used;
	bool plus;
	int failed;
};

static size_t padded(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

static void put_dirent(struct filling *filling, size_t at, const struct lfs_seen *seen, uint64_t ino)
{
	struct fuse_dirent entry = {ino, seen->next, (uint32_t)seen->name.size, seen->type};
	size_t end = padded(at + sizeof entry + seen->name.size);
	memset(filling->out + end - 8, 0, 8);
	memcpy(filling->out + at, &entry, sizeof entry);
	memcpy(filling->out + at + sizeof entry, seen->name.data, seen->name.size);
	filling->used = end;
}

static int find_seen(struct filling *filling, const struct lfs_seen *seen, struct lfs_node **node, struct fuse_attr *attr)
{
	if (seen->low)
		return lfs_look_low(filling->server, filling->dir, seen->name, seen->low, node, attr);
	return lfs_look(filling->server, filling->dir, seen->name, node, attr);
}

static int see_plain(struct filling *filling, const struct lfs_seen *seen)
{
	struct lfs_node *node;
	uint64_t ino = seen->low ? lfs_low_ino(filling->server, seen->low) : filling->dir->ino;
	if (padded(filling->used + sizeof(struct fuse_dirent) + seen->name.size) > filling->room)
		return 1;
	if (!seen->low && !seen->dots) {
		int rc = lfs_look(filling->server, filling->dir, seen->name, &node, NULL);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
		ino = node->ino;
		lfs_node_put(filling->server, node);
	}
	put_dirent(filling, filling->used, seen, ino);
	return 0;
}

static int see_plus(struct filling *filling, const struct lfs_seen *seen)
{
	struct fuse_entry_out entry = {0};
	struct fuse_attr attr;
	struct lfs_node *node;
	size_t at = filling->used;
	if (padded(at + sizeof entry + sizeof(struct fuse_dirent) + seen->name.size) > filling->room)
		return 1;
	if (seen->dots) {
		entry.attr.ino = seen->low ? lfs_low_ino(filling->server, seen->low) : filling->dir->ino;
	} else {
		int rc = find_seen(filling, seen, &node, &attr);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
		lfs_fill_entry(filling->server, node, &attr, &entry);
		lfs_node_put(filling->server, node);
	}
	put_dirent(filling, at + sizeof entry, seen, entry.attr.ino);
	memcpy(filling->out + at, &entry, sizeof entry);
	return 0;
}

static int see(void *context, const struct lfs_seen *seen)
{
	struct filling *filling = context;
	int rc = filling->plus ? see_plus(filling, seen) : see_plain(filling, seen);
	if (rc < 0 && filling->used)
		return filling->failed = rc, 1; /* what there is goes first; the error comes with the next read */
	return rc;
}

static int read_directory(struct lfs_request *request, bool plus)
{
	struct fuse_read_in in;
	memcpy(&in, request->args, sizeof in);
	if (!lfs_node_is_dir(request->node))
		return -ENOTDIR;
	struct filling filling = {request->server, request->node, request->out, in.size < request->out_room ? in.size : request->out_room, 0, plus, 0};
	int rc = lfs_list(request->server, request->node, in.offset, see, &filling);
	request->out_size = filling.used;
	return rc < 0 && !filling.used ? rc : 0;
}

int lfs_op_readdir(struct lfs_request *request)
{
	return read_directory(request, false);
}

int lfs_op_readdirplus(struct lfs_request *request)
{
	return read_directory(request, true);
}

int lfs_op_opendir(struct lfs_request *request)
{
	if (request->server->no_opendir)
		return -ENOSYS; /* never asked again: every directory is cached, which is right as nothing changes behind the kernel's back */
	uint32_t keep = request->server->options.no_cache ? 0 : FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
	*(struct fuse_open_out *)request->out = (struct fuse_open_out){.open_flags = keep};
	request->out_size = sizeof(struct fuse_open_out);
	return 0;
}

int lfs_op_releasedir(struct lfs_request *request)
{
	return 0;
}
