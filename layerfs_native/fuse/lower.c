/* What is below the upper: the tree, a mapped EROFS file, and where its contents are. A lower inode is its nid; those of frozen layers, which
 * may lie between, are frozen.c's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "../core/erofs_format.h"
#include "../core/erofs_read.h"
#include "server.h"

#define TIDY_AFTER_US 200000

/* --- opening --- */

void lfs_lower_rest(struct lfs_server *server)
{
	if (server->lower.image.base)
		madvise((void *)server->lower.image.base, server->lower.image.size, MADV_DONTNEED);
}

void lfs_tidy_arm(struct lfs_server *server)
{
	const struct itimerval soon = {.it_value = {.tv_usec = TIDY_AFTER_US}};
	if (server->tidy.possible)
		server->tidy.armed = setitimer(ITIMER_REAL, &soon, NULL) == 0;
}

static int open_packs(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_lower *lower = &server->lower;
	LFS_AUTO_FD packs = open(server->options.packs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (packs < 0)
		return lfs_fail(error, -errno, "%s: %s", server->options.packs, strerror(errno));
	lower->packs = calloc(lower->image.devices ? lower->image.devices : 1, sizeof *lower->packs);
	if (!lower->packs)
		return lfs_fail(error, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < lower->image.devices; i++) {
		const uint8_t *tag = lower->image.base + EROFS_DEVICES_AT + (uint64_t)i * EROFS_DEVICE_SIZE;
		char name[17] = {0}, *end;
		memcpy(name, tag, 16);
		struct lfs_pack *pack = &lower->packs[i];
		pack->id = strtoull(name, &end, 16);
		if (end != name + 16)
			return lfs_fail(error, -EIO, "damaged tree file: the name of a pack");
		pack->fd = openat(packs, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (pack->fd < 0)
			return lfs_fail(error, -errno, "contents are missing from the store: pack %s: %s", name, strerror(errno));
		lower->pack_count++;
	}
	return 0;
}

int lfs_lower_open(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_lower *lower = &server->lower;
	lower->objects = LFS_NO_FD;
	int rc = lfs_image_open(server->options.tree, &lower->image, error);
	if (rc < 0)
		return rc;
	if (lfs_image_slots(&lower->image) > LFS_FROZEN) /* nodes keep a nid in 31 bits: 64 GiB of names */
		return lfs_fail(error, -EFBIG, "%s: a tree file of more than 64 GiB", server->options.tree);
	lower->objects = lfs_view_store(server->options.objects);
	if (lower->objects < 0)
		return lfs_fail(error, lower->objects, "%s: %s", server->options.objects, strerror(-lower->objects));
	return open_packs(server, error);
}

void lfs_lower_close(struct lfs_server *server)
{
	struct lfs_lower *lower = &server->lower;
	for (size_t i = 0; i < lower->pack_count; i++)
		close(lower->packs[i].fd);
	free(lower->packs);
	free(lower->links);
	free(lower->dirs);
	lfs_close_fd(&lower->objects);
	lfs_image_close(&lower->image);
}

/* --- names and attributes --- */

int lfs_low_inode(const struct lfs_server *server, uint64_t low, struct lfs_inode *inode)
{
	if (low & LFS_FROZEN)
		return lfs_layer_inode(server, low, inode);
	return low ? lfs_image_inode(&server->lower.image, low, inode) : -ENOENT;
}

int lfs_low_child(const struct lfs_server *server, uint64_t dir, struct lfs_bytes name, uint64_t *low)
{
	struct lfs_inode inode;
	uint8_t type;
	if (dir & LFS_FROZEN)
		return lfs_layer_child(server, dir, name, low);
	int rc = lfs_low_inode(server, dir, &inode);
	if (rc < 0)
		return rc;
	if (!S_ISDIR(inode.mode))
		return -ENOENT;
	rc = lfs_image_lookup(&server->lower.image, &inode, name, low, &type);
	return rc < 0 ? rc : !*low ? -EIO : 0;
}

int lfs_low_resolve(const struct lfs_server *server, struct lfs_bytes path, uint64_t *low)
{
	const char *at = path.data, *end = at + path.size;
	*low = lfs_low_root(server);
	while (at < end) {
		const char *slash = memchr(at, '/', (size_t)(end - at));
		struct lfs_bytes part = {at, (size_t)((slash ? slash : end) - at)};
		at = slash ? slash + 1 : end;
		if (!part.size)
			continue;
		if (part.size > LFS_NAME_MAX || (part.size <= 2 && !memcmp(part.data, "..", part.size)))
			return -ENOENT;
		int rc = lfs_low_child(server, *low, part, low);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int lfs_low_attr(const struct lfs_server *server, uint64_t low, struct fuse_attr *attr)
{
	struct lfs_inode inode;
	struct lfs_node *node;
	if (low & LFS_FROZEN) {
		struct lfs_server *layer = lfs_layer(server, low, &node);
		return node ? lfs_attr(layer, node, attr) : -EIO;
	}
	int rc = lfs_low_inode(server, low, &inode);
	if (rc < 0)
		return rc;
	lfs_rights_owner(server, &inode.uid, &inode.gid);
	*attr = (struct fuse_attr){
		.ino = LFS_TREE_INO | low,
		.size = inode.size,
		.blocks = inode.size / 512 + (inode.size % 512 != 0),
		.atime = (uint64_t)inode.mtime,
		.mtime = (uint64_t)inode.mtime,
		.ctime = (uint64_t)inode.mtime,
		.atimensec = inode.mtime_nsec,
		.mtimensec = inode.mtime_nsec,
		.ctimensec = inode.mtime_nsec,
		.mode = inode.mode,
		.nlink = inode.nlink,
		.uid = inode.uid,
		.gid = inode.gid,
		.rdev = (inode.minor & 0xff) | inode.major << 8 | (inode.minor & ~0xffu) << 12,
		.blksize = LFS_BLOCK,
	};
	return 0;
}

int lfs_low_readlink(const struct lfs_server *server, uint64_t low, void *out, size_t room)
{
	struct lfs_inode inode;
	struct lfs_bytes target;
	struct lfs_node *node;
	if (low & LFS_FROZEN) {
		const char *name;
		struct lfs_server *layer = lfs_layer(server, low, &node);
		int fd = node ? lfs_place(layer, node, &name) : -EIO;
		ssize_t size = fd < 0 ? fd : readlinkat(fd, name, out, room);
		return fd < 0 ? fd : size < 0 ? -errno : (int)size;
	}
	int rc = lfs_low_inode(server, low, &inode);
	if (rc >= 0)
		rc = lfs_image_readlink(&server->lower.image, &inode, &target);
	if (rc < 0)
		return rc;
	if (target.size > room)
		return -ENAMETOOLONG;
	memcpy(out, target.data, target.size);
	return (int)target.size;
}

/* --- contents --- */

int lfs_low_content(const struct lfs_server *server, uint64_t low, struct lfs_content *content)
{
	struct lfs_inode inode;
	if (low & LFS_FROZEN)
		return lfs_layer_content(server, low, content);
	int rc = lfs_low_inode(server, low, &inode);
	return rc < 0 ? rc : lfs_image_content(&server->lower.image, &inode, content);
}

int lfs_low_read(const struct lfs_server *server, const struct lfs_content *content, uint8_t *out, size_t size, uint64_t offset)
{
	const struct lfs_lower *lower = &server->lower;
	size_t low = 0, high = lower->pack_count;
	if (offset >= content->size)
		return 0;
	if (size > content->size - offset)
		size = content->size - offset;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (lower->packs[middle].id < content->pack)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == lower->pack_count || lower->packs[low].id != content->pack)
		return -EIO;
	for (size_t done = 0; done < size;) {
		ssize_t got = pread(lower->packs[low].fd, out + done, size - done,
				    (off_t)((uint64_t)content->block * LFS_BLOCK + offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -EIO; /* a pack that ends too early */
		done += (size_t)got;
	}
	return (int)size;
}

int lfs_low_open(const struct lfs_server *server, const struct lfs_content *content, struct lfs_object *object)
{
	if (content->kind == LFS_KIND_FROZEN) {
		*object = (struct lfs_object){.fd = lfs_layer_open(server, content->block), .size = content->size};
		return object->fd < 0 ? object->fd : 0;
	}
	int rc = lfs_object_open(server, content->identity, object);
	if (rc >= 0 && object->size != content->size) {
		lfs_object_close(object);
		rc = -EIO;
	}
	return rc;
}

/* --- where lower inodes are: an index made when first needed --- */

static int append_link(struct lfs_link **list, size_t *count, size_t *capacity, const struct lfs_link *link)
{
	if (*count == *capacity) {
		size_t wider = *capacity ? *capacity * 2 : 256;
		struct lfs_link *grown = realloc(*list, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		*list = grown;
		*capacity = wider;
	}
	(*list)[(*count)++] = *link;
	return 0;
}

static int by_nid(const void *a, const void *b)
{
	uint64_t x = ((const struct lfs_link *)a)->nid, y = ((const struct lfs_link *)b)->nid;
	return (x > y) - (x < y);
}

struct scan {
	struct lfs_server *server;
	size_t links_capacity, dirs_capacity;
	uint8_t *visited; /* a bit for each nid */
};

static int scan_entry(struct scan *scan, uint64_t dir, const struct lfs_dirent *entry)
{
	struct lfs_lower *lower = &scan->server->lower;
	struct lfs_link link = {entry->nid, dir, entry->name};
	struct lfs_inode inode;
	if (entry->name.size <= 2 && !memcmp(entry->name.data, "..", entry->name.size))
		return 0;
	if (lfs_image_inode(&lower->image, entry->nid, &inode) < 0)
		return -EIO;
	if (!S_ISDIR(inode.mode))
		return inode.nlink > 1 ? append_link(&lower->links, &lower->link_count, &scan->links_capacity, &link) : 0;
	if (scan->visited[entry->nid / 8] & 1u << entry->nid % 8)
		return -EIO; /* a directory with two places */
	scan->visited[entry->nid / 8] |= (uint8_t)(1u << entry->nid % 8);
	return append_link(&lower->dirs, &lower->dir_count, &scan->dirs_capacity, &link);
}

static int scan_directory(struct scan *scan, uint64_t dir)
{
	const struct lfs_image *image = &scan->server->lower.image;
	struct lfs_inode inode;
	struct lfs_dirent entry;
	uint64_t position = 0;
	int rc = lfs_image_inode(image, dir, &inode);
	if (rc < 0)
		return rc;
	while (!(rc = lfs_image_next(image, &inode, &position, &entry)))
		if ((rc = scan_entry(scan, dir, &entry)) < 0)
			return rc;
	return rc < 0 ? rc : 0;
}

static int build_index(struct lfs_server *server)
{
	struct lfs_lower *lower = &server->lower;
	if (lower->indexed)
		return 0;
	struct scan scan = {.server = server, .visited = calloc(1, lfs_image_slots(&lower->image) / 8 + 1)};
	if (!scan.visited)
		return -ENOMEM;
	scan.visited[LFS_ROOT_NID / 8] |= 1u << LFS_ROOT_NID % 8;
	int rc = scan_directory(&scan, LFS_ROOT_NID);
	for (size_t next = 0; !rc && next < lower->dir_count; next++) /* grows as directories are found */
		rc = scan_directory(&scan, lower->dirs[next].nid);
	free(scan.visited);
	if (rc < 0) {
		free(lower->links);
		free(lower->dirs);
		lower->links = lower->dirs = NULL;
		lower->link_count = lower->dir_count = 0;
		return rc;
	}
	if (lower->link_count)
		qsort(lower->links, lower->link_count, sizeof *lower->links, by_nid);
	if (lower->dir_count)
		qsort(lower->dirs, lower->dir_count, sizeof *lower->dirs, by_nid);
	lower->indexed = true;
	return 0;
}

static size_t first_of(const struct lfs_link *list, size_t count, uint64_t nid)
{
	size_t low = 0;
	while (low < count) {
		size_t middle = low + (count - low) / 2;
		if (list[middle].nid < nid)
			low = middle + 1;
		else
			count = middle;
	}
	return low;
}

int lfs_low_links(struct lfs_server *server, uint64_t nid, const struct lfs_link **links, size_t *count)
{
	struct lfs_lower *lower = &server->lower;
	int rc = build_index(server);
	if (rc < 0)
		return rc;
	size_t at = first_of(lower->links, lower->link_count, nid), end = at;
	while (end < lower->link_count && lower->links[end].nid == nid)
		end++;
	*links = lower->links ? lower->links + at : NULL;
	*count = end - at;
	return 0;
}

int lfs_low_dir_place(struct lfs_server *server, uint64_t nid, struct lfs_link *place)
{
	struct lfs_lower *lower = &server->lower;
	int rc = build_index(server);
	if (rc < 0)
		return rc;
	size_t at = first_of(lower->dirs, lower->dir_count, nid);
	if (at == lower->dir_count || lower->dirs[at].nid != nid)
		return -ENOENT;
	*place = lower->dirs[at];
	return 0;
}

int lfs_low_path(struct lfs_server *server, uint64_t dir, struct lfs_bytes name, char *out, size_t size)
{
	size_t at = size; /* written from its end */
	for (;;) {
		if (name.size + 1 > at)
			return -ENAMETOOLONG;
		at -= name.size;
		memcpy(out + at, name.data, name.size);
		out[--at] = '/';
		if (dir == LFS_ROOT_NID)
			break;
		struct lfs_link place;
		int rc = lfs_low_dir_place(server, dir, &place);
		if (rc < 0)
			return rc;
		name = place.name;
		dir = place.dir;
	}
	memmove(out, out + at, size - at);
	return (int)(size - at);
}
