/* Open files. All descriptors of an inode share one state, so that they see the same bytes: a file is either served by this process
 * through the kernel's page cache (cached), or by the kernel from a backing file (passthrough on a lower object or on the upper file), and
 * stays so while it is open. A passthrough lower file that somebody is about to change is split: its name goes to a new node. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

#define KEPT_FILES 512u

/* --- the state of an open inode --- */

struct lfs_file *lfs_file_get(struct lfs_node *node)
{
	if (node->file)
		return node->file;
	struct lfs_file *file = calloc(1, sizeof *file);
	if (!file)
		return NULL;
	file->node = node;
	file->fd = file->old_fd = file->pinned = LFS_NO_FD;
	return node->file = file;
}

static bool bytes_are_upper(const struct lfs_node *node)
{
	return (node->flags & (LFS_HERE | LFS_METACOPY)) == LFS_HERE;
}

static void drop_fd(int *fd)
{
	lfs_close_fd(fd);
	*fd = LFS_NO_FD;
}

static void drop_delta(struct lfs_file *file)
{
	lfs_delta_free(file->delta);
	file->delta = NULL;
}

static void fd_unlist(struct lfs_files *files, struct lfs_file *file)
{
	*(file->older ? &file->older->newer : &files->oldest) = file->newer;
	*(file->newer ? &file->newer->older : &files->newest) = file->older;
	file->older = file->newer = NULL;
	files->open--;
}

static void fd_list(struct lfs_files *files, struct lfs_file *file)
{
	file->newer = NULL;
	file->older = files->newest;
	*(files->newest ? &files->newest->newer : &files->oldest) = file;
	files->newest = file;
	files->open++;
}

static void close_data(struct lfs_server *server, struct lfs_file *file)
{
	if (file->fd < 0)
		return;
	fd_unlist(&server->files, file);
	if (file->busy) {
		file->old_fd = lfs_steal_fd(&file->fd); /* a read of the lower bytes is under way */
		return;
	}
	close(lfs_steal_fd(&file->fd));
	drop_delta(file);
	lfs_blocks_rest(file);
}

/* What reads go through that are under way, when the bytes are others now. */
static void set_aside(struct lfs_file *file)
{
	if (file->busy)
		file->old_blocks = file->blocks;
	else
		lfs_blocks_free(file);
	file->blocks = NULL;
}

static void drop_aside(struct lfs_file *file)
{
	struct lfs_blocks *blocks = file->blocks;
	if (!file->old_blocks)
		return;
	file->blocks = file->old_blocks;
	lfs_blocks_free(file);
	file->old_blocks = NULL;
	file->blocks = blocks;
}

void lfs_file_risen(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	if (!file || !file->blocks || !file->blocks_lower || !bytes_are_upper(node))
		return;
	close_data(server, file);
	set_aside(file);
}

/* Nobody is at its bytes now. */
void lfs_file_frozen(struct lfs_file *file)
{
	file->fd_lower = file->fd >= 0;
	file->fd_writable = false;
	file->blocks_lower = true;
	file->counted = false;
}

static void trim(struct lfs_server *server)
{
	struct lfs_file *file = server->files.oldest, *next;
	for (; file && server->files.open > KEPT_FILES; file = next) {
		next = file->newer;
		if (!file->busy)
			close_data(server, file);
	}
}

/* Closing the last descriptor of a nameless file frees its blocks: half the cost of removing it, and more where the host discards them at
 * once. For small files another thread does that, so that no request waits for it; for large ones, and when that thread does not keep up, who
 * had the lock. */
void lfs_close_later(struct lfs_server *server, int fd, uint64_t leaving)
{
	struct lfs_closing *closing = &server->closing;
	bool behind = closing->begun && closing->small.count >= LFS_CLOSING_FEW;
	struct lfs_closed *list = leaving > LFS_CLOSING_SMALL || behind ? &closing->large : &closing->small;
	if (server->quota.on || list->count == LFS_CLOSING_MAX) {
		close(fd);
		atomic_fetch_sub(&server->files.leaving, leaving);
		return;
	}
	list->fds[list->count++] = fd;
	list->bytes += leaving;
}

/* Lets the lock go. */
static void close_unlocked(struct lfs_server *server, struct lfs_closed *list)
{
	struct lfs_closed taken = *list;
	list->count = 0;
	list->bytes = 0;
	pthread_mutex_unlock(&server->lock);
	for (unsigned i = 0; i < taken.count; i++)
		close(taken.fds[i]);
	atomic_fetch_sub(&server->files.leaving, taken.bytes);
}

static void close_small(struct lfs_job *job)
{
	struct lfs_closing *closing = (struct lfs_closing *)((char *)job - offsetof(struct lfs_closing, job));
	struct lfs_server *server = (struct lfs_server *)((char *)closing - offsetof(struct lfs_server, closing));
	pthread_mutex_lock(&server->lock);
	while (closing->small.count) {
		close_unlocked(server, &closing->small);
		pthread_mutex_lock(&server->lock);
	}
	closing->begun = false;
	pthread_mutex_unlock(&server->lock);
}

void lfs_unlock_and_close(struct lfs_server *server)
{
	struct lfs_closing *closing = &server->closing;
	bool begin = closing->small.count && !closing->begun;
	if (begin) { /* else the job is the other thread's */
		closing->begun = true;
		closing->job.run = close_small;
	}
	close_unlocked(server, &closing->large);
	if (begin && lfs_aside(server, &closing->job) < 0)
		close_small(&closing->job);
}

#define LITTLE_ROOM (64ull << 20)

static bool is_short_of_room(struct lfs_server *server, uint64_t leaving)
{
	struct statfs disk;
	return fstatfs(lfs_upper_root(server), &disk) == 0 && (uint64_t)disk.f_bavail * (uint64_t)disk.f_bsize < leaving + LITTLE_ROOM;
}

/* unlink(2) returns before the kernel's FORGET, by which a removed file leaves the disk, has come; who writes next may need its space. */
void lfs_await_room(struct lfs_server *server)
{
	const struct timespec moment = {0, 200000};
	struct lfs_files *files = &server->files;
	uint64_t leaving = atomic_load(&files->leaving), stuck = atomic_load(&files->stuck);
	if (leaving < stuck)
		atomic_store(&files->stuck, leaving);
	if (leaving <= stuck || !is_short_of_room(server, leaving))
		return;
	for (unsigned tries = 0; tries < 500; tries++) {
		if ((leaving = atomic_load(&files->leaving)) <= stuck)
			return;
		nanosleep(&moment, NULL);
	}
	atomic_store(&files->stuck, leaving); /* somebody holds it without having it open: by O_PATH, or a watch */
}

void lfs_file_free(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	lfs_quota_forget(server, node);
	lfs_pin_end(server, node);
	node->file = NULL;
	close_data(server, file);
	drop_fd(&file->old_fd);
	drop_delta(file);
	lfs_blocks_free(file);
	if (file->successor)
		lfs_node_put(server, file->successor);
	free(file);
}

static bool in_use(const struct lfs_file *file)
{
	return file->handles || file->busy;
}

/* After handles or busy went down: what is not in use holds no reference; a nameless entry keeps its pin. */
static void rest(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	if (in_use(file))
		return;
	close_data(server, file);
	if (file->counted && !lfs_is_pinned(node))
		lfs_quota_changed(server, node, 0); /* some hosts allocate more than is written, and take it back at the end */
	if (!lfs_is_pinned(node))
		lfs_file_free(server, node);
	lfs_node_put(server, node);
}

/* --- the bytes --- */

static int open_data(struct lfs_server *server, struct lfs_node *node, bool write, struct lfs_content *content)
{
	struct lfs_file *file = node->file;
	int fd, flags = O_RDWR | (server->options.mount_flags & MS_NOATIME ? O_NOATIME : 0);
	if (bytes_are_upper(node)) {
		fd = server->writable ? lfs_entry_open(server, node, flags) : -EACCES;
		file->fd_writable = fd >= 0;
		if (fd == -EPERM || fd == -EACCES || fd == -ETXTBSY)
			fd = write ? fd : lfs_entry_open(server, node, O_RDONLY);
	} else {
		if (write)
			return -EBADF;
		int rc = lfs_low_content(server, node->low, content);
		if (rc < 0)
			return rc == -ENOENT ? -EIO : rc; /* the bytes of a metadata-only copy are gone */
		if (content->kind != LFS_KIND_OBJECT && content->kind != LFS_KIND_FROZEN)
			return 0;
		file->fd_writable = false;
		struct lfs_object object;
		if ((rc = lfs_low_open(server, content, &object)) < 0)
			return rc;
		fd = object.fd;
		drop_delta(file); /* nobody reads it: its descriptor is gone */
		file->delta = object.delta;
	}
	if (fd < 0)
		return fd;
	bool partly = bytes_are_upper(node) ? node->flags & LFS_BLOCKS : content->kind == LFS_KIND_FROZEN && content->flags;
	int rc = partly || file->blocks ? lfs_blocks_open(server, node, fd) : 0;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	file->fd = fd;
	file->fd_lower = file->blocks_lower = !bytes_are_upper(node);
	fd_list(&server->files, file);
	trim(server);
	return 0;
}

int lfs_file_use(struct lfs_server *server, struct lfs_node *node, bool write, struct lfs_content *content)
{
	struct lfs_file *file = lfs_file_get(node);
	int rc = 0;
	*content = (struct lfs_content){0};
	if (!file)
		return -ENOMEM;
	if (node->flags & LFS_LATE && (rc = lfs_wake(server, node)) < 0)
		return rc;
	if (!in_use(file))
		lfs_node_get(node);
	if (write)
		lfs_quota_follow(server, node);
	if (file->fd >= 0 && (file->fd_lower == bytes_are_upper(node) || (write && !file->fd_writable)))
		close_data(server, file);
	if (file->blocks && file->blocks_lower == bytes_are_upper(node))
		set_aside(file);
	file->busy++;
	server->files.busy++;
	if (file->fd >= 0) {
		fd_unlist(&server->files, file);
		fd_list(&server->files, file);
	} else {
		rc = open_data(server, node, write, content);
	}
	if (rc < 0)
		lfs_file_done(server, node);
	return rc;
}

int lfs_file_hold(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = lfs_file_get(node);
	if (!file)
		return -ENOMEM;
	if (!in_use(file))
		lfs_node_get(node);
	file->busy++;
	server->files.busy++;
	lfs_quota_follow(server, node);
	return 0;
}

void lfs_file_done(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	if (!--server->files.busy && atomic_load(&server->freezing))
		pthread_cond_broadcast(&server->quiet);
	if (!--file->busy) {
		drop_fd(&file->old_fd);
		drop_aside(file);
		if (file->fd < 0 || !file->fd_lower)
			drop_delta(file);
	}
	rest(server, node);
}

/* --- passthrough --- */

int lfs_backing_open(struct lfs_server *server, int fd)
{
	struct fuse_backing_map map = {.fd = fd};
	if (!server->passthrough)
		return -EOPNOTSUPP;
	int id = ioctl(server->device, FUSE_IOC_BACKING_OPEN, &map);
	if (id >= 0)
		return id;
	int rc = -errno;
	if (rc == -EPERM || rc == -ENOTTY || rc == -EOPNOTSUPP || rc == -ELOOP)
		server->passthrough = false; /* not here: nothing will change that */
	return rc;
}

void lfs_backing_close(struct lfs_server *server, int32_t id)
{
	uint32_t number = (uint32_t)id;
	ioctl(server->device, FUSE_IOC_BACKING_CLOSE, &number);
}

/* Whether a lower file may be passed through: a whole object with one name (names that were not used to open it would go on with the old
 * node after a split), and the mount does not insist on coherence. */
static bool may_pass_lower(struct lfs_server *server, const struct lfs_node *node)
{
	struct lfs_inode inode;
	struct lfs_content content;
	return !server->options.strict && !(node->flags & (LFS_SHARED | LFS_UNLINKED)) && lfs_low_inode(server, node->low, &inode) == 0 &&
	       inode.nlink == 1 && inode.size >= server->options.pass_lower_size && lfs_low_content(server, node->low, &content) == 0 &&
	       (content.kind == LFS_KIND_OBJECT || (content.kind == LFS_KIND_FROZEN && !content.flags));
}

static uint8_t choose_mode(struct lfs_server *server, const struct lfs_node *node, bool write)
{
	if (!server->passthrough)
		return LFS_MODE_CACHED;
	if (bytes_are_upper(node))
		return server->options.size_limit || node->flags & (LFS_APPEND | LFS_BLOCKS) ? LFS_MODE_CACHED : LFS_MODE_PASS_UPPER; /* the limits would not hold */
	return !write && may_pass_lower(server, node) ? LFS_MODE_PASS_LOWER : LFS_MODE_CACHED;
}

/* Registers the backing file. A set-id file is cached instead: the kernel would not strip its bits from passthrough writes. */
static int32_t register_backing(struct lfs_server *server, int fd)
{
	struct stat status;
	if (fstat(fd, &status) < 0 || status.st_mode & (S_ISUID | S_ISGID))
		return 0;
	int id = lfs_backing_open(server, fd);
	return id > 0 ? id : 0;
}

/* Without a backing file a file is cached. `given` is borrowed. */
static int start_mode(struct lfs_server *server, struct lfs_node *node, bool write, int given)
{
	struct lfs_file *file = node->file;
	struct lfs_content content;
	file->mode = choose_mode(server, node, write);
	if (file->mode == LFS_MODE_CACHED)
		return 0;
	if (given >= 0) {
		file->backing = register_backing(server, given);
	} else {
		int rc = lfs_file_use(server, node, false, &content);
		if (rc < 0)
			return rc;
		file->backing = file->fd_lower && file->delta ? 0 : register_backing(server, file->fd);
		if (file->backing) { /* the kernel holds the file now */
			close_data(server, file);
			drop_fd(&file->old_fd);
		}
		lfs_file_done(server, node);
	}
	if (!file->backing)
		file->mode = LFS_MODE_CACHED;
	return 0;
}

/* --- opening --- */

/* The names go to a new node; this one goes on with the lower bytes for those who have it open. */
static int split(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_node *new;
	int rc = lfs_node_new(server, S_IFREG, &new);
	if (rc < 0)
		return rc;
	new->flags = (node->flags & (LFS_HERE | LFS_METACOPY | LFS_BLOCKS | LFS_IMMUTABLE | LFS_APPEND)) | LFS_STALE_PAGES;
	new->low = node->flags & LFS_METACOPY ? node->low : 0;
	new->ino = node->ino;
	while (node->names) {
		struct lfs_name *name = node->names;
		node->names = name->sibling;
		name->sibling = new->names;
		name->node = new;
		new->names = name;
	}
	if (node->flags & LFS_SHARED) {
		uint64_t key = lfs_same_key(server, node);
		lfs_same_set(server, node, 0);
		lfs_same_set(server, new, key);
	}
	node->flags = (uint16_t)((node->flags & ~(LFS_HERE | LFS_METACOPY | LFS_BLOCKS)) | LFS_SPLIT | LFS_UNLINKED);
	node->file->successor = new; /* has the new node's first reference */
	lfs_notify_attr(server, node); /* from now on they are the new node's, and never cached for the old one */
	lfs_count(LFS_COUNT_splits, 1);
	return -ESTALE;
}

int lfs_settle_data(struct lfs_server *server, struct lfs_node *node)
{
	if (node->flags & LFS_SPLIT)
		return -ESTALE;
	if (!node->file || !node->file->handles || node->file->mode != LFS_MODE_PASS_LOWER || !bytes_are_upper(node))
		return 0;
	return split(server, node);
}

int lfs_settle_names(struct lfs_server *server, struct lfs_node *node)
{
	if (node->flags & LFS_SPLIT || !node->file || !node->file->handles || node->file->mode != LFS_MODE_PASS_LOWER)
		return 0;
	return split(server, node);
}

int lfs_file_truncate(struct lfs_server *server, struct lfs_node *node, uint64_t size)
{
	int fd = node->file->fd;
	if (!node->file->blocks)
		return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
	int rc = lfs_blocks_truncate(server, node->file->blocks, fd, size);
	if (rc >= 0 && !size)
		lfs_blocks_end(server, node, fd); /* if the mark stays, it says that nothing is the base's */
	return rc;
}

static int truncate_open(struct lfs_server *server, struct lfs_node *node, bool kill)
{
	struct lfs_content content;
	struct stat status;
	int rc = lfs_file_use(server, node, true, &content);
	if (rc < 0)
		return rc;
	int fd = node->file->fd;
	rc = fstat(fd, &status) < 0 ? -errno : lfs_file_truncate(server, node, 0); /* also of an empty one: its times change */
	if (rc >= 0 && kill && status.st_mode & (S_ISUID | S_ISGID))
		fchmod(fd, status.st_mode & (status.st_mode & S_IXGRP ? 01777u : 03777u));
	lfs_quota_settle(server, node->file, fd);
	lfs_file_done(server, node);
	return rc;
}

static int prepare_write(struct lfs_server *server, struct lfs_node *node, uint32_t flags, bool kill)
{
	if (!server->writable)
		return -EROFS;
	int rc = lfs_copy_up(server, node, flags & O_TRUNC ? LFS_DATA_EMPTY : LFS_DATA_ALL);
	if (rc >= 0)
		rc = lfs_settle_data(server, node);
	if (rc >= 0 && flags & O_TRUNC)
		rc = truncate_open(server, node, kill);
	return rc;
}

/* Who cannot read a block-level file through this descriptor writes it past the page cache, which saves copying everything into it. Before
 * 7.45 (Linux 6.18) the kernel leaves pages there that somebody else reads while they are being written. It drops no capabilities on such
 * writes; a file seldom has any. */
static bool writes_past_cache(struct lfs_server *server, struct lfs_node *node, uint32_t flags)
{
	const struct lfs_bytes name = {LFS_CAPABILITY, sizeof LFS_CAPABILITY - 1};
	if ((flags & O_ACCMODE) != O_WRONLY || !(node->flags & LFS_BLOCKS) || server->minor < 45)
		return false;
	int rc = lfs_xattr_get(server, node, name, NULL, 0);
	return rc == -ENODATA || rc == -EOPNOTSUPP;
}

int lfs_open(struct lfs_server *server, struct lfs_node *node, uint32_t flags, bool kill, int fd, struct fuse_open_out *out)
{
	bool write = (flags & O_ACCMODE) != O_RDONLY;
	if (!lfs_node_is_file(node))
		return lfs_node_is_dir(node) ? -EISDIR : -ENXIO;
	if (node->flags & LFS_SPLIT)
		return -ESTALE;
	int late = node->flags & LFS_LATE ? lfs_wake(server, node) : 0;
	if (late < 0)
		return late;
	int may = fd >= 0 ? 0 : lfs_may_open(server, node, flags);
	if (may < 0)
		return may;
	int rc = write || flags & O_TRUNC ? (fd >= 0 ? 0 : prepare_write(server, node, flags, kill)) : 0;
	if (rc < 0)
		return rc;
	struct lfs_file *file = lfs_file_get(node);
	if (!file)
		return -ENOMEM;
	if (!in_use(file))
		lfs_node_get(node);
	if (!file->handles++)
		rc = start_mode(server, node, write, fd);
	if (rc < 0) {
		file->handles--;
		rest(server, node);
		return rc;
	}
	file->writers += write;
	server->files.handles++;
	lfs_count(file->backing ? LFS_COUNT_opens_passthrough : LFS_COUNT_opens_cached, 1);
	out->fh = write ? 2 : 1;
	if (file->backing) {
		out->open_flags = FOPEN_PASSTHROUGH | FOPEN_NOFLUSH; /* the kernel holds nothing back of it */
		out->backing_id = file->backing;
		if (write)
			node->flags |= LFS_STALE_PAGES;
	} else {
		out->open_flags = node->flags & LFS_STALE_PAGES || server->options.no_cache ? 0 : FOPEN_KEEP_CACHE;
		out->open_flags |= write ? 0 : FOPEN_NOFLUSH;
		if (writes_past_cache(server, node, flags)) {
			out->open_flags |= FOPEN_DIRECT_IO;
			file->past_cache = true;
		}
		node->flags &= (uint16_t)~LFS_STALE_PAGES;
	}
	return 0;
}

void lfs_release(struct lfs_server *server, struct lfs_node *node, uint64_t fh)
{
	struct lfs_file *file = lfs_node_is_file(node) ? node->file : NULL;
	if (!file || !file->handles)
		return;
	if (file->handles == 1)
		lfs_blocks_released(server, node);
	file->handles--;
	server->files.handles--;
	if (fh == 2 && file->writers)
		file->writers--;
	if (!file->handles) {
		if (file->backing)
			lfs_backing_close(server, file->backing);
		file->backing = 0;
		file->mode = LFS_MODE_NONE;
		lfs_pinned_leaves(server, node);
	}
	rest(server, node);
}
