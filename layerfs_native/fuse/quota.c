/* The limits of the writable layer. `used` follows what the upper directory takes on the disk (st_blocks, as du counts) and how many inodes
 * it has: each change weighs what it touched, before and after. A write reserves what it may allocate at most before it is done; only when
 * that does not fit is the file asked where it has holes. With a limit of bytes upper files are therefore never passed through.
 *
 * Whiteouts are links to one inode and are not counted; the directories that hold them are. Entries without a name count until nobody has
 * them open. A clean end leaves the numbers in the work directory, good for the next mount in the same run of the machine. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server.h"

#define SECTOR 512u
#define SAVED "usage"
#define EXTENTS 32u
#define RELIEF_BYTES (240u << 10) /* over the limit, for what removing and moving needs; 256 KiB with what the host adds to the last one */
#define RELIEF_INODES 64u

/* --- the numbers --- */

static uint64_t blocks_of(int fd)
{
	struct stat status;
	return fstatat(fd, "", &status, AT_EMPTY_PATH) < 0 ? 0 : (uint64_t)status.st_blocks;
}

void lfs_quota_add(struct lfs_server *server, int64_t inodes, int64_t blocks)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return;
	pthread_mutex_lock(&quota->lock);
	quota->inodes += inodes;
	quota->used += blocks * (int64_t)SECTOR;
	pthread_mutex_unlock(&quota->lock);
}

void lfs_quota_removing(struct lfs_server *server, bool removing)
{
	pthread_mutex_lock(&server->quota.lock);
	server->quota.removing = removing;
	pthread_mutex_unlock(&server->quota.lock);
}

static bool fits(const struct lfs_server *server, uint64_t inodes, uint64_t bytes)
{
	const struct lfs_quota *quota = &server->quota;
	const struct lfs_options *options = &server->options;
	int64_t relief = quota->removing ? RELIEF_BYTES : 0, more = quota->removing ? RELIEF_INODES : 0;
	if (options->inode_limit && inodes && quota->inodes + (int64_t)inodes > (int64_t)options->inode_limit + more)
		return false;
	return !options->size_limit || quota->used + quota->reserved + (int64_t)(bytes ? bytes : 1) <= (int64_t)options->size_limit + relief;
}

int lfs_quota_want(struct lfs_server *server, uint64_t inodes, uint64_t bytes)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return 0;
	pthread_mutex_lock(&quota->lock);
	bool enough = fits(server, inodes, bytes);
	pthread_mutex_unlock(&quota->lock);
	return enough ? 0 : -ENOSPC;
}

/* What was unlinked just now goes when the kernel's FORGET comes, which is a moment after unlink(2) has returned. */
void lfs_quota_await(struct lfs_server *server, uint64_t inodes, uint64_t bytes)
{
	const struct timespec moment = {0, 2000000};
	for (unsigned tries = 0; tries < 10 && atomic_load(&server->quota.doomed) && lfs_quota_want(server, inodes, bytes) < 0; tries++)
		nanosleep(&moment, NULL);
}

int lfs_quota_reserve(struct lfs_server *server, uint64_t bytes)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return 0;
	pthread_mutex_lock(&quota->lock);
	bool enough = fits(server, 0, bytes);
	quota->reserved += enough ? (int64_t)bytes : 0;
	pthread_mutex_unlock(&quota->lock);
	return enough ? 0 : -ENOSPC;
}

void lfs_quota_unreserve(struct lfs_server *server, uint64_t bytes)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return;
	pthread_mutex_lock(&quota->lock);
	quota->reserved -= (int64_t)bytes;
	pthread_mutex_unlock(&quota->lock);
}

/* --- directories: weighed as long as their descriptor is kept --- */

void lfs_quota_kept(struct lfs_server *server, struct lfs_kept *kept)
{
	kept->blocks = server->quota.on ? blocks_of(kept->fd) : 0;
}

void lfs_quota_settle_kept(struct lfs_server *server, struct lfs_kept *kept)
{
	if (!server->quota.on)
		return;
	uint64_t now = blocks_of(kept->fd);
	lfs_quota_add(server, 0, (int64_t)(now - kept->blocks));
	kept->blocks = now;
}

static void settle_directories(struct lfs_server *server)
{
	for (unsigned i = 1; i <= LFS_KEPT_DIRS; i++)
		if (server->upper.kept[i].node)
			lfs_quota_settle_kept(server, &server->upper.kept[i]);
	uint64_t now = blocks_of(server->upper.root);
	lfs_quota_add(server, 0, (int64_t)(now - server->quota.root_blocks));
	server->quota.root_blocks = now;
}

void lfs_quota_settle_dir(struct lfs_server *server, struct lfs_node *dir)
{
	if (!server->quota.on)
		return;
	if (dir->kept) {
		lfs_quota_settle_kept(server, &server->upper.kept[dir->kept]);
	} else if (dir == server->nodes.root) {
		uint64_t now = blocks_of(server->upper.root);
		lfs_quota_add(server, 0, (int64_t)(now - server->quota.root_blocks));
		server->quota.root_blocks = now;
	}
}

/* --- entries --- */

/* Blocks that are counted for an entry. One that has an open state is followed there, because others may change it at the same time. */
uint64_t lfs_quota_weight(struct lfs_server *server, struct lfs_node *node)
{
	struct stat status;
	if (!server->quota.on || !(node->flags & LFS_HERE))
		return 0;
	if (lfs_node_is_dir(node))
		lfs_quota_settle_dir(server, node);
	else if (node->file && node->file->counted)
		return node->file->charged;
	return lfs_entry_stat(server, node, &status) < 0 ? 0 : (uint64_t)status.st_blocks;
}

void lfs_quota_changed(struct lfs_server *server, struct lfs_node *node, uint64_t before)
{
	struct stat status;
	if (!server->quota.on || !(node->flags & LFS_HERE))
		return;
	if (lfs_node_is_dir(node)) {
		lfs_quota_settle_dir(server, node);
		return;
	}
	pthread_mutex_lock(&server->quota.lock);
	if (lfs_entry_stat(server, node, &status) == 0) {
		bool counted = node->file && node->file->counted;
		int64_t grown = status.st_blocks - (int64_t)(counted ? node->file->charged : before);
		server->quota.used += grown * (int64_t)SECTOR;
		if (counted)
			node->file->charged = (uint64_t)status.st_blocks;
	}
	pthread_mutex_unlock(&server->quota.lock);
}

void lfs_quota_follow(struct lfs_server *server, struct lfs_node *node)
{
	struct stat status;
	if (!server->quota.on || node->file->counted || !(node->flags & LFS_HERE) || lfs_entry_stat(server, node, &status) < 0)
		return;
	node->file->charged = (uint64_t)status.st_blocks;
	node->file->counted = true;
}

/* Without the server's lock. */
void lfs_quota_settle(struct lfs_server *server, struct lfs_file *file, int fd)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on || !file->counted)
		return;
	pthread_mutex_lock(&quota->lock);
	uint64_t now = blocks_of(fd);
	quota->used += ((int64_t)now - (int64_t)file->charged) * (int64_t)SECTOR;
	file->charged = now;
	pthread_mutex_unlock(&quota->lock);
}

/* The state of an entry goes. One without a name goes with it. */
void lfs_quota_forget(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	struct stat status;
	if (!lfs_is_pinned(node))
		return;
	atomic_fetch_sub(&server->quota.doomed, 1);
	if (!server->quota.on || !(node->flags & LFS_UNLINKED) || lfs_entry_stat(server, node, &status) < 0)
		return;
	if (!status.st_nlink || lfs_node_is_dir(node))
		lfs_quota_add(server, -1, -(int64_t)(file->counted ? file->charged : (uint64_t)status.st_blocks));
}

/* --- what a write would allocate --- */

struct room {
	uint64_t at, end, left; /* at: everything before it fits */
};

/* A hole takes from what is left, up to `stop`. False when nothing is left. */
static bool take_hole(struct room *room, uint64_t stop)
{
	uint64_t size = stop - room->at;
	uint64_t taken = size < room->left ? size : room->left;
	room->at += taken;
	room->left -= taken;
	return taken == size;
}

static int walk_extents(int fd, struct room *room)
{
	union {
		struct fiemap map;
		uint8_t bytes[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
	} all;
	while (room->at < room->end) {
		memset(&all, 0, sizeof all);
		all.map.fm_start = room->at;
		all.map.fm_length = room->end - room->at;
		all.map.fm_extent_count = EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, &all.map) < 0)
			return -errno;
		for (uint32_t i = 0; i < all.map.fm_mapped_extents; i++) {
			const struct fiemap_extent *extent = &all.map.fm_extents[i];
			if (extent->fe_logical > room->at && !take_hole(room, extent->fe_logical < room->end ? extent->fe_logical : room->end))
				return 0;
			if (extent->fe_logical + extent->fe_length > room->at)
				room->at = extent->fe_logical + extent->fe_length;
		}
		if (all.map.fm_mapped_extents < EXTENTS && room->at < room->end && !take_hole(room, room->end))
			return 0;
	}
	return 0;
}

/* For file systems without FIEMAP. */
static void walk_data(int fd, struct room *room)
{
	while (room->at < room->end) {
		off_t data = lseek(fd, (off_t)room->at, SEEK_DATA);
		uint64_t stop = data < 0 || (uint64_t)data > room->end ? room->end : (uint64_t)data;
		if (stop > room->at && !take_hole(room, stop))
			return;
		off_t hole = room->at < room->end ? lseek(fd, (off_t)room->at, SEEK_HOLE) : -1;
		room->at = hole < 0 ? room->end : (uint64_t)hole;
	}
}

int64_t lfs_quota_begin(struct lfs_server *server, int fd, uint64_t offset, uint64_t size, uint64_t *reserved)
{
	struct lfs_quota *quota = &server->quota;
	const uint64_t mask = LFS_BLOCK - 1;
	*reserved = 0;
	if (!quota->on || !server->options.size_limit || !size)
		return (int64_t)size;
	uint64_t start = offset & ~mask, end = (offset + size + mask) & ~mask;
	lfs_quota_await(server, 0, end - start);
	pthread_mutex_lock(&quota->lock);
	if (fits(server, 0, end - start)) {
		*reserved = end - start;
	} else {
		int64_t left = (int64_t)server->options.size_limit - quota->used - quota->reserved;
		struct room room = {start, end, left > 0 ? (uint64_t)left & ~mask : 0};
		uint64_t all = room.left;
		if (walk_extents(fd, &room) < 0)
			walk_data(fd, &room);
		*reserved = all - room.left;
		size = room.at >= end ? size : room.at > offset ? room.at - offset : 0;
	}
	quota->reserved += (int64_t)*reserved;
	pthread_mutex_unlock(&quota->lock);
	return size ? (int64_t)size : -ENOSPC;
}

void lfs_quota_end(struct lfs_server *server, struct lfs_file *file, int fd, uint64_t reserved)
{
	lfs_quota_settle(server, file, fd);
	lfs_quota_unreserve(server, reserved);
}

/* --- statfs --- */

void lfs_quota_statfs(struct lfs_server *server, struct fuse_kstatfs *out)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return;
	lfs_lock(server);
	settle_directories(server);
	lfs_unlock(server);
	pthread_mutex_lock(&quota->lock);
	if (server->options.size_limit) {
		uint64_t limit = server->options.size_limit, left = (int64_t)limit > quota->used ? limit - (uint64_t)quota->used : 0;
		uint64_t host = out->bavail * out->frsize;
		out->blocks = limit / LFS_BLOCK;
		out->bfree = out->bavail = (left < host ? left : host) / LFS_BLOCK;
		out->bsize = out->frsize = LFS_BLOCK;
	}
	if (server->options.inode_limit) {
		uint64_t limit = server->options.inode_limit, left = (int64_t)limit > quota->inodes ? limit - (uint64_t)quota->inodes : 0;
		out->files = limit;
		out->ffree = left < out->ffree || !out->ffree ? left : out->ffree; /* a host that does not count says 0 */
	}
	pthread_mutex_unlock(&quota->lock);
}

/* --- counting all of it --- */

struct linked {
	uint64_t ino, blocks;
};
struct level { /* a directory on the way down, with those in it that are still to be counted */
	char *names;
	size_t size, capacity;
};
struct scan {
	struct level *levels;
	size_t depth, capacity;
	struct linked *links;
	size_t link_count, link_capacity;
	uint64_t inodes, blocks;
};

static int grow(void **items, size_t *capacity, size_t needed, size_t size)
{
	if (needed <= *capacity)
		return 0;
	size_t wider = *capacity * 2 > needed ? *capacity * 2 : needed + 64;
	void *grown = reallocarray(*items, wider, size);
	if (!grown)
		return -ENOMEM;
	*items = grown;
	*capacity = wider;
	return 0;
}

static int scan_entry(struct scan *scan, struct level *level, int fd, const char *name)
{
	struct stat status;
	int rc = 0;
	if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (lfs_is_whiteout(&status))
		return 0;
	if (S_ISDIR(status.st_mode)) {
		size_t size = strlen(name) + 1;
		rc = grow((void **)&level->names, &level->capacity, level->size + size, 1);
		if (rc >= 0)
			memcpy(level->names + level->size, name, size);
		level->size += rc < 0 ? 0 : size;
	} else if (status.st_nlink > 1) {
		rc = grow((void **)&scan->links, &scan->link_capacity, scan->link_count + 1, sizeof *scan->links);
		if (rc >= 0)
			scan->links[scan->link_count++] = (struct linked){status.st_ino, (uint64_t)status.st_blocks};
		return rc;
	}
	scan->inodes++;
	scan->blocks += (uint64_t)status.st_blocks;
	return rc;
}

static int scan_directory(struct scan *scan, int fd)
{
	int rc = grow((void **)&scan->levels, &scan->capacity, scan->depth + 1, sizeof *scan->levels);
	int copy = rc < 0 ? rc : openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	if (!stream) {
		lfs_close_fd(&copy);
		return rc < 0 ? rc : -errno;
	}
	struct level *level = &scan->levels[scan->depth++];
	*level = (struct level){0};
	for (struct dirent *entry; !rc && (entry = readdir(stream));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = scan_entry(scan, level, fd, entry->d_name);
	closedir(stream);
	return rc;
}

/* The last name of the level; it is taken away. NULL: none is left. */
static const char *next_name(struct level *level)
{
	if (!level->size)
		return NULL;
	do
		level->size--;
	while (level->size && level->names[level->size - 1]);
	return level->names + level->size;
}

/* One descriptor, however deep: nobody else moves directories here, so ".." leads back. */
static int scan_all(struct scan *scan, int root)
{
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : scan_directory(scan, fd);
	while (!rc && scan->depth) {
		struct level *level = &scan->levels[scan->depth - 1];
		const char *name = next_name(level);
		if (!name) {
			free(level->names);
			if (!--scan->depth)
				break;
			name = "..";
		}
		int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			rc = -errno;
		else
			close(fd), fd = next;
		if (!rc && strcmp(name, ".."))
			rc = scan_directory(scan, fd);
	}
	lfs_close_fd(&fd);
	return rc;
}

static int by_ino(const void *a, const void *b)
{
	uint64_t x = ((const struct linked *)a)->ino, y = ((const struct linked *)b)->ino;
	return (x > y) - (x < y);
}

static int count_all(struct lfs_server *server)
{
	struct scan scan = {.inodes = 1, .blocks = blocks_of(server->upper.root)};
	int rc = scan_all(&scan, server->upper.root);
	if (scan.link_count)
		qsort(scan.links, scan.link_count, sizeof *scan.links, by_ino);
	for (size_t i = 0; i < scan.link_count; i++)
		if (!i || scan.links[i].ino != scan.links[i - 1].ino) {
			scan.inodes++;
			scan.blocks += scan.links[i].blocks;
		}
	while (scan.depth)
		free(scan.levels[--scan.depth].names);
	free(scan.levels);
	free(scan.links);
	server->quota.inodes = (int64_t)scan.inodes;
	server->quota.used = (int64_t)(scan.blocks * SECTOR);
	return rc;
}

/* --- what a clean end leaves --- */

/* Which run of the machine, and which directory. */
static int signature(const struct lfs_server *server, char out[128])
{
	struct stat status;
	int proc = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t size = proc < 0 ? -1 : read(proc, out, 36);
	lfs_close_fd(&proc);
	if (size != 36 || fstat(server->upper.root, &status) < 0)
		return -EIO;
	snprintf(out + 36, 92, " %llx:%llx", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
	return 0;
}

static bool load(struct lfs_server *server)
{
	struct lfs_quota *quota = &server->quota;
	char text[256] = "", *end;
	LFS_AUTO_FD fd = openat(server->upper.work, SAVED, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		return false;
	size_t size = strlen(quota->signature);
	if (strncmp(text, quota->signature, size) || text[size] != ' ')
		return false;
	quota->used = strtoll(text + size, &end, 10);
	quota->inodes = strtoll(end, &end, 10);
	return *end == '\n' && (quota->used >= 0 || !server->options.size_limit) && quota->inodes > 0;
}

static void save(struct lfs_server *server)
{
	const struct lfs_quota *quota = &server->quota;
	char text[256];
	long long used = server->options.size_limit ? (long long)quota->used : -1; /* what went past us is not in it */
	int size = snprintf(text, sizeof text, "%s %lld %lld\n", quota->signature, used, (long long)quota->inodes);
	LFS_AUTO_FD fd = openat(server->upper.work, SAVED, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, text, (size_t)size) != size)
		unlinkat(server->upper.work, SAVED, 0);
}

/* The upper is another one now, empty; what was in the old one counts no more. Entries without a name are added by the caller. */
void lfs_quota_frozen(struct lfs_server *server)
{
	struct lfs_quota *quota = &server->quota;
	if (!quota->on)
		return;
	if (signature(server, quota->signature) < 0)
		quota->signature[0] = 0; /* then the next mount counts */
	pthread_mutex_lock(&quota->lock);
	quota->root_blocks = blocks_of(server->upper.root);
	quota->used = (int64_t)(quota->root_blocks * SECTOR);
	quota->inodes = 1;
	pthread_mutex_unlock(&quota->lock);
}

/* What lfs_quota_forget() will take off. */
void lfs_quota_nameless(struct lfs_server *server, struct lfs_node *node)
{
	struct stat status;
	if (!server->quota.on || !lfs_is_pinned(node) || !(node->flags & LFS_UNLINKED) || lfs_entry_stat(server, node, &status) < 0)
		return;
	if (!status.st_nlink || lfs_node_is_dir(node))
		lfs_quota_add(server, 1, (int64_t)(node->file->counted ? node->file->charged : (uint64_t)status.st_blocks));
}

int lfs_quota_open(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_quota *quota = &server->quota;
	if (!server->writable)
		return 0;
	quota->on = server->options.size_limit || server->options.inode_limit;
	bool known = quota->on && signature(server, quota->signature) == 0 && load(server);
	unlinkat(server->upper.work, SAVED, 0); /* from now on it is wrong */
	int rc = quota->on && !known ? count_all(server) : 0;
	quota->root_blocks = blocks_of(server->upper.root);
	return rc < 0 ? lfs_fail(error, rc, "counting what the container holds: %s", strerror(-rc)) : 0;
}

/* After the last node went. */
void lfs_quota_close(struct lfs_server *server)
{
	if (!server->quota.on || !server->quota.signature[0])
		return;
	settle_directories(server);
	save(server);
}
