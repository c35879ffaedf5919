/* Copy-up: a lower inode gets its twin in the upper directory before its first change. The twin is made in scratch, with everything, and
 * renamed into place as the last act. Large contents are copied without the server's lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "server.h"

#define UNLOCKED_SIZE (256u << 10) /* contents over this are copied without the lock */
#define CHUNK (1u << 20)

/* --- bytes --- */

static int copy_range(int source, int target, off_t from, off_t end)
{
	while (from < end) {
		off_t in = from, out = from;
		ssize_t done = copy_file_range(source, &in, target, &out, (size_t)(end - from), 0);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS))
			break;
		if (done <= 0)
			return done ? -errno : -EIO; /* the source became shorter */
		from += done;
	}
	char *buffer = from < end ? malloc(CHUNK) : NULL;
	int rc = from < end && !buffer ? -ENOMEM : 0;
	while (!rc && from < end) {
		ssize_t got = pread(source, buffer, (size_t)(end - from < (off_t)CHUNK ? end - from : (off_t)CHUNK), from);
		if (got <= 0)
			rc = got ? -errno : -EIO;
		for (ssize_t put = 0; !rc && put < got;) {
			ssize_t done = pwrite(target, buffer + put, (size_t)(got - put), from + put);
			if (done < 0)
				rc = -errno;
			else
				put += done;
		}
		from += got > 0 ? got : 0;
	}
	free(buffer);
	return rc;
}

int lfs_copy_extents(int source, int target, uint64_t size)
{
	if (ioctl(target, FICLONE, source) == 0)
		return 0;
	if (ftruncate(target, (off_t)size) < 0)
		return -errno;
	for (off_t at = 0, end = (off_t)size; at < end;) {
		off_t start = lseek(source, at, SEEK_DATA);
		if (start < 0 && errno == ENXIO)
			return 0;
		if (start < 0)
			start = at; /* a file system without holes */
		off_t stop = lseek(source, start, SEEK_HOLE);
		if (stop < 0 || stop > end)
			stop = end;
		if (start >= end)
			return 0;
		int rc = copy_range(source, target, start, stop);
		if (rc < 0)
			return rc;
		at = stop;
	}
	return 0;
}

static int copy_packed(struct lfs_server *server, const struct lfs_content *content, int target)
{
	uint8_t *buffer = malloc(content->size);
	if (!buffer)
		return -ENOMEM;
	int got = lfs_low_read(server, content, buffer, content->size, 0);
	int rc = got < 0 ? got : (uint64_t)got < content->size ? -EIO : 0;
	for (size_t put = 0; !rc && put < content->size;) {
		ssize_t done = pwrite(target, buffer + put, content->size - put, (off_t)put);
		if (done < 0)
			rc = -errno;
		else
			put += (size_t)done;
	}
	free(buffer);
	return rc;
}

static int content_of(struct lfs_server *server, const struct lfs_node *node, struct lfs_content *content)
{
	int rc = lfs_low_content(server, node->low, content);
	return rc == -ENOENT ? -EIO : rc;
}

/* A large object is not copied where only the blocks that change need be: `hollow` says so, of a target that has the size and the mark. The
 * host's own sharing of blocks is better, but for limits, which count what is shared as if it were not. 1: there are bytes to copy. */
static int share_bytes(struct lfs_server *server, const struct lfs_node *node, int target, bool *hollow)
{
	struct lfs_content content;
	int rc = content_of(server, node, &content);
	if (rc < 0 || !lfs_blocks_suit(server, &content))
		return rc < 0 ? rc : 1;
	if (!server->options.size_limit && !server->filler.no_clone) {
		struct lfs_object source;
		if ((rc = lfs_low_open(server, &content, &source)) < 0)
			return rc;
		bool cloned = !source.delta && ioctl(target, FICLONE, source.fd) == 0;
		if (!source.delta && !cloned)
			server->filler.no_clone = errno == EOPNOTSUPP || errno == EXDEV || errno == ENOTTY || errno == EINVAL;
		lfs_object_close(&source);
		if (cloned)
			return 0;
	}
	if (ftruncate(target, (off_t)content.size) < 0)
		return -errno;
	rc = lfs_blocks_mark(server, target, &content);
	*hollow = rc >= 0;
	lfs_count(LFS_COUNT_copied_by_blocks, rc >= 0);
	return rc == -ENOSPC || rc == -E2BIG || rc == -ERANGE ? 1 : rc; /* no room for one more xattr */
}

/* May let the lock go; LFS_COPYING is set then, which keeps others from copying the same. */
static int fill(struct lfs_server *server, struct lfs_node *node, int target)
{
	struct lfs_content content;
	int rc = content_of(server, node, &content);
	if (rc < 0)
		return rc;
	bool unlocked = content.size > UNLOCKED_SIZE;
	if ((rc = lfs_quota_reserve(server, content.size)) < 0)
		return rc;
	if (unlocked) {
		node->flags |= LFS_COPYING;
		server->running++;
		lfs_node_get(node);
		lfs_unlock(server);
	}
	if (content.kind == LFS_KIND_PACK) {
		rc = copy_packed(server, &content, target);
	} else if (content.kind == LFS_KIND_OBJECT || content.kind == LFS_KIND_FROZEN) {
		struct lfs_object source;
		rc = lfs_low_open(server, &content, &source);
		if (rc >= 0) {
			rc = lfs_object_copy(&source, target);
			lfs_object_close(&source);
		}
	}
	if (rc >= 0 && content.size && !server->options.volatile_ && fsync(target) < 0)
		rc = -errno;
	if (unlocked) {
		lfs_lock(server);
		node->flags &= (uint16_t)~LFS_COPYING;
		if (!--server->running && atomic_load(&server->freezing))
			pthread_cond_broadcast(&server->quiet);
		pthread_cond_broadcast(&server->copied);
		lfs_node_put(server, node);
	}
	lfs_quota_unreserve(server, content.size);
	lfs_count(LFS_COUNT_copied_bytes, content.size);
	return rc;
}

/* A frozen file of which only some blocks are there: the copy has those, and the same base. */
static int copy_base(struct lfs_server *server, const struct lfs_node *node, int target, bool *hollow)
{
	struct lfs_content content;
	uint8_t value[64];
	int rc = content_of(server, node, &content);
	if (rc < 0 || content.kind != LFS_KIND_FROZEN || !content.flags)
		return rc;
	LFS_AUTO_FD source = lfs_layer_open(server, content.block);
	int size = source < 0 ? source : lfs_mark_get(server, source, NULL, "layerfs.blocks", value, sizeof value);
	rc = size < 0 ? size : lfs_mark_set(server, server->upper.root, NULL, "layerfs.blocks", "y", 1);
	if (rc >= 0)
		rc = lfs_mark_set(server, target, NULL, "layerfs.blocks", value, (size_t)size);
	*hollow = rc >= 0;
	return rc;
}

/* --- attributes --- */

static void origin_mark(const struct lfs_server *server, uint64_t nid, uint8_t mark[33])
{
	static const uint8_t front[5] = {0, 0xFB, 33, 0, 0x81};
	uint32_t words[3] = {(uint32_t)(nid >> 32), (uint32_t)nid, 0};
	memcpy(mark, front, sizeof front);
	memcpy(mark + 5, server->lower.image.subject, 16);
	memcpy(mark + 21, words, sizeof words);
}

/* Owner, xattrs, origin, mode and times of a lower inode go to its twin; times last. fd may be O_PATH. */
static int dress(struct lfs_server *server, uint64_t low, const struct lfs_inode *inode, int fd)
{
	char path[300];
	uint8_t mark[33];
	struct timespec times[2] = {{inode->mtime, inode->mtime_nsec}, {inode->mtime, inode->mtime_nsec}};
	lfs_fd_path(fd, NULL, path);
	uint32_t uid = inode->uid, gid = inode->gid;
	lfs_rights_owner(server, &uid, &gid);
	if (server->rights.give && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
		return -errno;
	int rc = lfs_xattr_copy(server, low, fd);
	if (rc < 0)
		return rc;
	uint64_t ino = lfs_low_ino(server, low);
	origin_mark(server, ino & ~LFS_TREE_INO, mark);
	rc = ino & LFS_TREE_INO ? lfs_mark_set(server, fd, NULL, "origin", mark, sizeof mark)
				: lfs_mark_set(server, fd, NULL, "layerfs.ino", &ino, sizeof ino);
	if (rc < 0 && rc != -ENOTSUP && rc != -EPERM)
		return rc;
	if (!S_ISLNK(inode->mode) && fchmodat(server->upper.links, path, inode->mode & 07777, 0) < 0)
		return -errno;
	return utimensat(server->upper.links, path, times, 0) < 0 ? -errno : 0;
}

/* --- publishing --- */

struct times { /* a copy-up is no change of the directory that it happens in, nor does that need to be writable */
	int fd;
	struct timespec times[2];
	struct lfs_lent lent;
};

static int keep_times(struct lfs_server *server, struct lfs_node *dir, struct times *kept)
{
	struct stat status;
	kept->fd = lfs_dir_fd(server, dir);
	if (kept->fd < 0 || fstat(kept->fd, &status) < 0)
		return kept->fd < 0 ? kept->fd : -errno;
	kept->times[0] = status.st_atim;
	kept->times[1] = status.st_mtim;
	int rc = lfs_impure(server, dir);
	if (rc >= 0)
		lfs_lend(server, kept->fd, NULL, &kept->lent);
	return rc < 0 ? rc : kept->fd;
}

static void restore_times(struct lfs_server *server, const struct times *kept)
{
	lfs_take_back(server, kept->fd, NULL, &kept->lent);
	futimens(kept->fd, kept->times);
}

int lfs_publish(struct lfs_server *server, const char *temp, struct lfs_node *dir, const char *name, uint32_t mode)
{
	struct times kept;
	int rc = keep_times(server, dir, &kept);
	if (rc < 0)
		return rc;
	rc = lfs_rename_at(server, server->upper.scratch, temp, kept.fd, name, RENAME_NOREPLACE);
	restore_times(server, &kept);
	if (rc >= 0)
		lfs_listing_add(server, dir, name, mode);
	lfs_quota_settle_dir(server, dir);
	return rc;
}

/* A hard-linked copy waits in scratch under a name that tells which inode it is; a crash then leaves what settle() completes. */
static int publish_links(struct lfs_server *server, const char *temp, const struct lfs_spots *spots, uint64_t ino, uint32_t mode)
{
	char complete[LFS_TEMP_SIZE];
	struct times kept;
	int scratch = server->upper.scratch;
	snprintf(complete, sizeof complete, "links-%llx", (unsigned long long)ino);
	int rc = lfs_rename_at(server, scratch, temp, scratch, complete, 0);
	for (size_t i = 0; rc >= 0 && i < spots->count; i++) {
		if ((rc = keep_times(server, spots->items[i].dir, &kept)) < 0)
			break;
		if (linkat(scratch, complete, kept.fd, spots->items[i].name, 0) < 0 && errno != EEXIST)
			rc = -errno;
		restore_times(server, &kept);
		lfs_quota_settle_dir(server, spots->items[i].dir);
		if (rc >= 0)
			lfs_listing_add(server, spots->items[i].dir, spots->items[i].name, mode);
	}
	unlinkat(scratch, complete, 0);
	return rc;
}

static void count_copy(struct lfs_server *server, int fd)
{
	struct stat status;
	if (server->quota.on && fstatat(fd, "", &status, AT_EMPTY_PATH) == 0)
		lfs_quota_add(server, 1, status.st_blocks);
}

/* --- directories --- */

static int copy_directory(struct lfs_server *server, struct lfs_node *dir)
{
	char temp[LFS_TEMP_SIZE];
	struct lfs_inode inode;
	int rc = dir->flags & LFS_LATE ? lfs_wake(server, dir) : 0;
	if (rc >= 0)
		rc = lfs_low_inode(server, dir->low, &inode);
	if (rc < 0)
		return rc;
	if ((rc = lfs_quota_want(server, 1, LFS_BLOCK)) < 0)
		return rc;
	lfs_temp_name(server, temp);
	lfs_identity(0, 0, 0);
	if (mkdirat(server->upper.scratch, temp, 0700) < 0)
		return -errno;
	LFS_AUTO_FD fd = openat(server->upper.scratch, temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	rc = fd < 0 ? -errno : dress(server, dir->low, &inode, fd);
	if (rc >= 0)
		rc = lfs_publish(server, temp, dir->names->dir, dir->names->text, S_IFDIR);
	if (rc < 0) {
		lfs_scratch_remove(server, temp);
		return rc;
	}
	dir->flags |= LFS_HERE;
	count_copy(server, fd);
	lfs_quota_settle_dir(server, dir->names->dir);
	return 0;
}

int lfs_dir_here(struct lfs_server *server, struct lfs_node *dir)
{
	while (!(dir->flags & LFS_HERE)) {
		struct lfs_node *top = dir; /* the topmost one that is missing */
		if (!server->writable)
			return -EROFS;
		for (;;) {
			if (top->flags & LFS_UNLINKED || !top->names)
				return -ENOENT;
			if (top->names->dir->flags & LFS_HERE)
				break;
			top = top->names->dir;
		}
		int rc = copy_directory(server, top);
		if (rc < 0)
			return rc;
	}
	return dir->flags & LFS_UNLINKED ? -ENOENT : 0;
}

/* --- files and the like --- */

static int make_twin(struct lfs_server *server, const struct lfs_node *node, const struct lfs_inode *inode, const char *temp)
{
	char target[LFS_BLOCK];
	int scratch = server->upper.scratch, fd;
	lfs_identity(0, 0, 0);
	if (S_ISREG(inode->mode)) {
		fd = openat(scratch, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		return fd < 0 ? -errno : fd;
	}
	if (S_ISLNK(inode->mode)) {
		int size = lfs_low_readlink(server, node->low, target, sizeof target - 1);
		if (size < 0)
			return size;
		target[size] = 0;
		if (symlinkat(target, scratch, temp) < 0)
			return -errno;
	} else if (mknodat(scratch, temp, (inode->mode & S_IFMT) | 0600, makedev(inode->major, inode->minor)) < 0) {
		return -errno;
	}
	fd = openat(scratch, temp, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int give_bytes(struct lfs_server *server, struct lfs_node *node, const struct lfs_inode *inode, enum lfs_data data, int fd, bool *hollow)
{
	if (!S_ISREG(inode->mode) || !inode->size || data == LFS_DATA_EMPTY)
		return 0;
	if (data == LFS_DATA_NONE)
		return ftruncate(fd, (off_t)inode->size) < 0 ? -errno : 0;
	int rc = share_bytes(server, node, fd, hollow);
	if (rc > 0 && (rc = fill(server, node, fd)) >= 0)
		rc = copy_base(server, node, fd, hollow);
	return rc;
}

/* A finished twin's descriptor in scratch under `temp`. `hollow`: it has no bytes of its own yet. */
static int prepare(struct lfs_server *server, struct lfs_node *node, enum lfs_data data, const char *temp, bool *hollow)
{
	struct lfs_inode inode;
	uint64_t low = node->low;
	int rc = lfs_low_inode(server, low, &inode);
	if (rc < 0)
		return rc;
	LFS_AUTO_FD fd = make_twin(server, node, &inode, temp);
	if (fd < 0)
		return fd;
	rc = give_bytes(server, node, &inode, data, fd, hollow);
	if (rc >= 0)
		rc = dress(server, low, &inode, fd);
	if (rc >= 0 && S_ISREG(inode.mode) && inode.size && data == LFS_DATA_NONE)
		rc = lfs_mark_set(server, fd, NULL, "metacopy", "", 0);
	return rc < 0 ? rc : lfs_steal_fd(&fd);
}

static int spots_here(struct lfs_server *server, const struct lfs_spots *spots)
{
	int rc = 0;
	for (size_t i = 0; rc >= 0 && i < spots->count; i++)
		rc = lfs_dir_here(server, spots->items[i].dir);
	return rc;
}

static int find_spots(struct lfs_server *server, const struct lfs_node *node, struct lfs_spots *spots)
{
	struct lfs_inode inode;
	int rc = lfs_low_inode(server, node->low, &inode);
	if (rc >= 0 && inode.nlink > 1)
		rc = lfs_visible_links(server, node->low, spots);
	return rc;
}

/* A lower file that has no name any more gets an upper one without a name, so that it can change. */
static int materialise(struct lfs_server *server, struct lfs_node *node, const char *temp, int *fd)
{
	int rc = lfs_pin(server, node, lfs_steal_fd(fd));
	if (rc >= 0 && unlinkat(server->upper.scratch, temp, 0) < 0)
		rc = -errno;
	if (rc >= 0 && node->flags & LFS_SHARED)
		lfs_same_set(server, node, 0);
	return rc;
}

static int publish_one(struct lfs_server *server, struct lfs_node *node, const char *temp, const struct lfs_spots *spots)
{
	struct lfs_node *dir = spots->count ? spots->items[0].dir : node->names->dir;
	int rc = lfs_dir_here(server, dir);
	if (rc < 0)
		return rc;
	return lfs_publish(server, temp, dir, spots->count ? spots->items[0].name : node->names->text, (uint32_t)node->type << 12);
}

static int publish_all(struct lfs_server *server, struct lfs_node *node, const char *temp, const struct lfs_spots *spots, int fd)
{
	struct stat status;
	int rc = spots_here(server, spots);
	if (rc >= 0)
		rc = publish_links(server, temp, spots, lfs_low_ino(server, node->low), (uint32_t)node->type << 12);
	if (rc >= 0 && fstatat(fd, "", &status, AT_EMPTY_PATH) < 0)
		rc = -errno;
	return rc < 0 ? rc : lfs_same_set(server, node, status.st_ino);
}

static int place_twin(struct lfs_server *server, struct lfs_node *node, const char *temp, int *fd)
{
	struct lfs_spots spots = {0};
	LFS_AUTO_FD copy = server->quota.on ? fcntl(*fd, F_DUPFD_CLOEXEC, 0) : LFS_NO_FD;
	int rc = node->flags & LFS_UNLINKED ? 0 : find_spots(server, node, &spots);
	if (rc >= 0 && (node->flags & LFS_UNLINKED || (!node->names && !spots.count)))
		rc = materialise(server, node, temp, fd);
	else if (rc >= 0 && spots.count > 1)
		rc = publish_all(server, node, temp, &spots, *fd);
	else if (rc >= 0) {
		rc = publish_one(server, node, temp, &spots);
		if (rc >= 0 && node->flags & LFS_SHARED)
			lfs_same_set(server, node, 0);
	}
	lfs_spots_free(server, &spots);
	if (rc >= 0)
		count_copy(server, copy);
	return rc;
}

static int copy_entry(struct lfs_server *server, struct lfs_node *node, enum lfs_data data)
{
	char temp[LFS_TEMP_SIZE];
	int wanted = lfs_quota_want(server, 1, 0);
	if (wanted < 0)
		return wanted;
	lfs_temp_name(server, temp);
	bool hollow = false;
	LFS_AUTO_FD fd = prepare(server, node, data, temp, &hollow);
	int rc = fd < 0 ? fd : 0;
	struct lfs_inode inode;
	if (rc >= 0)
		rc = lfs_low_inode(server, node->low, &inode);
	if (rc >= 0 && node->flags & LFS_HERE)
		rc = -EAGAIN; /* somebody else copied its attributes up while the lock was free */
	else if (rc >= 0)
		rc = place_twin(server, node, temp, &fd);
	if (rc < 0) {
		lfs_scratch_remove(server, temp);
		return rc;
	}
	node->flags |= LFS_HERE | (hollow ? LFS_BLOCKS : 0);
	if (lfs_node_is_file(node) && inode.size && data == LFS_DATA_NONE)
		node->flags |= LFS_METACOPY;
	else
		node->flags |= node->file && node->file->handles && data == LFS_DATA_EMPTY ? LFS_STALE_PAGES : 0;
	if (lfs_node_is_file(node))
		lfs_file_risen(server, node);
	lfs_count(LFS_COUNT_copied_up, 1);
	return 0;
}

/* A metacopy gets its bytes in place: while its mark is there they are the lower file's, so a crash changes nothing. */
static int complete(struct lfs_server *server, struct lfs_node *node, enum lfs_data data)
{
	struct stat before;
	uint8_t capability[64];
	LFS_AUTO_FD fd = lfs_entry_open(server, node, O_RDWR);
	if (fd < 0)
		return fd;
	bool hollow = false;
	int rc = fstat(fd, &before) < 0 ? -errno : 0;
	ssize_t has = fgetxattr(fd, LFS_CAPABILITY, capability, sizeof capability); /* the host drops it for what is no change */
	if (rc >= 0 && data == LFS_DATA_ALL) {
		rc = share_bytes(server, node, fd, &hollow);
		if (rc > 0 && (rc = fill(server, node, fd)) >= 0)
			rc = node->flags & LFS_METACOPY ? copy_base(server, node, fd, &hollow) : 0;
		if (rc >= 0 && !(node->flags & LFS_METACOPY))
			return 0;
		if (has > 0)
			fsetxattr(fd, LFS_CAPABILITY, capability, (size_t)has, 0);
		struct timespec times[2] = {before.st_atim, before.st_mtim};
		futimens(fd, times);
	} else if (rc >= 0 && ftruncate(fd, 0) < 0) {
		rc = -errno;
	}
	if (rc >= 0)
		rc = lfs_mark_drop(server, fd, NULL, "metacopy");
	if (rc >= 0)
		rc = lfs_mark_drop(server, fd, NULL, "redirect");
	if (rc >= 0)
		node->flags = (uint16_t)((node->flags & ~LFS_METACOPY) | (hollow ? LFS_BLOCKS : 0));
	if (rc >= 0)
		lfs_file_risen(server, node);
	return rc;
}

static int complete_counted(struct lfs_server *server, struct lfs_node *node, enum lfs_data data)
{
	if (!server->quota.on)
		return complete(server, node, data);
	int rc = lfs_file_hold(server, node);
	if (rc < 0)
		return rc;
	rc = complete(server, node, data);
	lfs_quota_changed(server, node, 0);
	lfs_file_done(server, node);
	return rc;
}

/* Somebody else's. Nothing is frozen before we went on with what we have begun. */
static void await_copy(struct lfs_server *server, const struct lfs_node *node)
{
	server->running++;
	while (node->flags & LFS_COPYING)
		pthread_cond_wait(&server->copied, &server->lock);
	server->running--;
}

int lfs_copy_up(struct lfs_server *server, struct lfs_node *node, enum lfs_data data)
{
	int rc;
	if (!server->writable)
		return -EROFS;
	if (node->flags & LFS_LATE && (rc = lfs_wake(server, node)) < 0)
		return rc;
	if (lfs_node_is_dir(node))
		return lfs_dir_here(server, node);
	if (node->flags & LFS_SPLIT)
		return node->file && node->file->successor ? lfs_copy_up(server, node->file->successor, data) : -ESTALE;
	do {
		await_copy(server, node);
		if (node->flags & LFS_SPLIT)
			return -ESTALE;
		if ((node->flags & (LFS_HERE | LFS_METACOPY)) != LFS_HERE)
			lfs_newest_forget(server);
		if (!(node->flags & LFS_HERE))
			rc = copy_entry(server, node, data);
		else if (node->flags & LFS_METACOPY && data != LFS_DATA_NONE)
			rc = complete_counted(server, node, data);
		else
			rc = 0;
	} while (rc == -EAGAIN);
	return rc;
}
