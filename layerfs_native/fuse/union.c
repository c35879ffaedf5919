/* Lookup: which layer answers for a name, read from the top down (docs: union/layerview.py is the same in Python). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

struct verdict { /* what a name is */
	uint32_t mode;
	uint16_t flags;
	uint64_t low, ino, key; /* key: for entries with several names; 0: none */
	struct stat status;	/* with LFS_HERE */
};

/* A directory's or metacopy's lower half: the same name below, unless a redirect says another. */
static int redirected(struct lfs_server *server, const struct lfs_node *dir, const struct lfs_marks *marks, uint64_t *low)
{
	struct lfs_bytes path = {marks->redirect, marks->redirect_size};
	if (!marks->has_redirect)
		return 0;
	*low = 0;
	int rc;
	if (path.size && marks->redirect[0] == '/')
		rc = lfs_low_resolve(server, path, low);
	else if (!path.size || path.size > LFS_NAME_MAX || memchr(path.data, '/', path.size))
		rc = -ENOENT;
	else
		rc = lfs_low_child(server, dir->low, path, low);
	if (rc < 0)
		*low = 0;
	return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc;
}

static bool low_is(struct lfs_server *server, uint64_t low, uint32_t type)
{
	struct lfs_inode inode;
	return low && lfs_low_inode(server, low, &inode) == 0 && (inode.mode & S_IFMT) == type;
}

static int judge_directory(struct lfs_server *server, struct lfs_node *dir, int fd, const char *name, struct verdict *verdict)
{
	struct lfs_marks marks;
	int rc = lfs_marks_read(server, fd, name, &marks);
	if (rc < 0)
		return rc;
	rc = redirected(server, dir, &marks, &verdict->low);
	if (marks.opaque || !low_is(server, verdict->low, S_IFDIR))
		verdict->low = 0;
	verdict->flags |= (marks.alternate ? LFS_ALTERNATE : 0) | (marks.impure ? LFS_IMPURE : 0) | marks.protection;
	verdict->ino = verdict->low ? lfs_low_ino(server, verdict->low) : verdict->status.st_ino;
	lfs_marks_free(&marks);
	return rc;
}

static int judge_entry(struct lfs_server *server, struct lfs_node *dir, int fd, const char *name, struct verdict *verdict)
{
	const struct stat *status = &verdict->status;
	bool file = S_ISREG(status->st_mode);
	bool hollow = file && status->st_size && !status->st_blocks; /* may be a metacopy */
	verdict->ino = status->st_ino;
	if (status->st_nlink > 1)
		verdict->key = status->st_ino;
	if (!(dir->flags & LFS_IMPURE) && !hollow && !(file && dir->flags & LFS_ALTERNATE && !status->st_size)) {
		verdict->low = 0;
		verdict->flags |= file ? lfs_protection(server, fd, name) : 0;
		return 0;
	}
	struct lfs_marks marks;
	int rc = lfs_marks_read(server, fd, name, &marks);
	if (rc < 0)
		return rc;
	verdict->flags |= marks.protection;
	if (file && marks.whiteout && dir->flags & LFS_ALTERNATE && !status->st_size)
		rc = -ENOENT;
	else if (file && marks.metacopy && status->st_size) {
		verdict->flags |= LFS_METACOPY;
		rc = redirected(server, dir, &marks, &verdict->low);
		if (!low_is(server, verdict->low, S_IFREG))
			verdict->low = 0;
	} else {
		verdict->flags |= file && marks.blocks ? LFS_BLOCKS : 0;
		verdict->low = 0;
	}
	if (marks.ino)
		verdict->ino = marks.ino;
	lfs_marks_free(&marks);
	return rc;
}

/* An entry that only those below have. */
static void judge_low(struct lfs_server *server, const struct lfs_inode *inode, struct verdict *verdict)
{
	struct lfs_node *node;
	verdict->mode = inode->mode;
	verdict->ino = lfs_low_ino(server, verdict->low);
	if (!S_ISDIR(inode->mode) && inode->nlink > 1)
		verdict->key = verdict->ino;
	if (verdict->low & LFS_FROZEN && lfs_layer(server, verdict->low, &node) && node)
		verdict->flags |= node->flags & (LFS_IMMUTABLE | LFS_APPEND);
}

static int judge(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, const char *text, struct verdict *verdict)
{
	*verdict = (struct verdict){0};
	if (dir->low) {
		int rc = lfs_low_child(server, dir->low, name, &verdict->low);
		if (rc < 0 && rc != -ENOENT)
			return rc;
		if (rc < 0)
			verdict->low = 0;
	}
	if (dir->flags & LFS_HERE) {
		int fd = lfs_dir_fd(server, dir);
		if (fd < 0)
			return fd;
		if (fstatat(fd, text, &verdict->status, AT_SYMLINK_NOFOLLOW) == 0) {
			if (lfs_is_whiteout(&verdict->status))
				return -ENOENT;
			verdict->flags = LFS_HERE;
			verdict->mode = verdict->status.st_mode;
			return S_ISDIR(verdict->mode) ? judge_directory(server, dir, fd, text, verdict)
						      : judge_entry(server, dir, fd, text, verdict);
		}
		if (errno != ENOENT)
			return -errno;
	}
	if (!verdict->low)
		return -ENOENT;
	struct lfs_inode inode;
	int rc = lfs_low_inode(server, verdict->low, &inode);
	if (rc < 0)
		return rc;
	judge_low(server, &inode, verdict);
	return 0;
}

static int make_node(struct lfs_server *server, const struct verdict *verdict, struct lfs_node **out)
{
	int rc = lfs_node_new(server, verdict->mode, out);
	if (rc < 0)
		return rc;
	(*out)->flags |= verdict->flags;
	(*out)->low = verdict->low;
	(*out)->ino = verdict->ino;
	rc = verdict->key ? lfs_same_set(server, *out, verdict->key) : 0;
	if (rc < 0)
		lfs_node_put(server, *out);
	return rc;
}

/* Also by what is the last name now: the one that the node was known by may be gone, while it is open. */
static struct lfs_node *find_same(struct lfs_server *server, const struct verdict *verdict)
{
	if (verdict->key)
		return lfs_same_find(server, verdict->key);
	if (!(verdict->flags & LFS_HERE) || S_ISDIR(verdict->mode) || !server->nodes.same_count)
		return NULL;
	return lfs_same_find(server, verdict->status.st_ino);
}

/* The node of a name that was not known. */
static int enter(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, const struct verdict *verdict, struct lfs_node **out)
{
	int rc = 0;
	*out = find_same(server, verdict);
	if (*out)
		lfs_node_get(*out);
	else if ((rc = make_node(server, verdict, out)) < 0)
		return rc;
	rc = (*out)->flags & LFS_LATE ? lfs_wake(server, *out) : 0;
	if (rc >= 0)
		rc = lfs_name_add(server, dir, name, *out);
	if (rc < 0)
		lfs_node_put(server, *out);
	return rc;
}

int lfs_look_through(struct lfs_server *layer, struct lfs_node *dir, struct lfs_bytes name, uint64_t *low)
{
	char text[LFS_NAME_MAX + 1];
	struct verdict verdict;
	struct lfs_node *node;
	struct lfs_name *known = lfs_name_find(layer, dir, name);
	if (known) {
		node = known->node;
		lfs_node_get(node);
	} else {
		memcpy(text, name.data, name.size);
		text[name.size] = 0;
		int rc = judge(layer, dir, name, text, &verdict);
		*low = verdict.low;
		if (rc < 0 || !(verdict.flags & LFS_HERE))
			return rc;
		if ((rc = enter(layer, dir, name, &verdict, &node)) < 0)
			return rc;
	}
	*low = lfs_layer_number(layer, node);
	if (!*low) {
		lfs_node_put(layer, node);
		return -ENOMEM;
	}
	if (node->flags & LFS_HERE && node->lookups != LFS_LOOKUPS_MAX)
		node->lookups = LFS_LOOKUPS_MAX; /* it keeps the reference for as long as its number may be known */
	else
		lfs_node_put(layer, node);
	return 0;
}

int lfs_look(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct lfs_node **out, struct fuse_attr *attr)
{
	char text[LFS_NAME_MAX + 1];
	struct verdict verdict;
	lfs_tidy_soon(server);
	if (name.size > LFS_NAME_MAX)
		return -ENAMETOOLONG;
	if (!lfs_node_is_dir(dir))
		return -ENOTDIR;
	if (dir->flags & LFS_UNLINKED)
		return -ENOENT;
	int late = dir->flags & LFS_LATE ? lfs_wake(server, dir) : 0;
	if (late < 0)
		return late;
	struct lfs_name *known = lfs_name_find(server, dir, name);
	if (known) {
		lfs_count(LFS_COUNT_lookups_known, 1);
		*out = known->node;
		lfs_node_get(*out);
		int rc = known->node->flags & LFS_LATE ? lfs_wake(server, *out) : 0;
		if (rc >= 0 && attr)
			rc = lfs_attr(server, *out, attr);
		if (rc < 0)
			lfs_node_put(server, *out);
		return rc;
	}
	memcpy(text, name.data, name.size);
	text[name.size] = 0;
	int rc = judge(server, dir, name, text, &verdict);
	if (rc < 0)
		return rc;
	struct lfs_node *node;
	if ((rc = enter(server, dir, name, &verdict, &node)) < 0)
		return rc;
	if (attr) {
		if (verdict.flags & LFS_HERE) {
			lfs_attr_from_stat(&verdict.status, attr);
			lfs_attr_finish(server, node, attr);
		} else {
			rc = lfs_attr(server, node, attr);
		}
	}
	if (rc < 0)
		lfs_node_put(server, node);
	else
		*out = node;
	return rc;
}

int lfs_look_low(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, uint64_t low, struct lfs_node **out,
		 struct fuse_attr *attr)
{
	struct lfs_inode inode;
	lfs_tidy_soon(server);
	if (name.size > LFS_NAME_MAX || lfs_name_find(server, dir, name))
		return lfs_look(server, dir, name, out, attr);
	int rc = lfs_low_inode(server, low, &inode);
	if (rc < 0)
		return rc;
	if (!S_ISDIR(inode.mode) && inode.nlink > 1)
		return lfs_look(server, dir, name, out, attr);
	struct verdict verdict = {.low = low};
	judge_low(server, &inode, &verdict);
	rc = make_node(server, &verdict, out);
	if (rc < 0)
		return rc;
	rc = lfs_name_add(server, dir, name, *out);
	if (rc >= 0)
		rc = lfs_attr(server, *out, attr);
	if (rc < 0)
		lfs_node_put(server, *out);
	return rc;
}

/* --- attributes --- */

void lfs_attr_finish(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr)
{
	attr->ino = node->ino;
	if (lfs_node_is_dir(node) && node->low && !(node->flags & LFS_UNLINKED))
		attr->nlink = 1; /* nobody counts subdirectories on both sides; 1 keeps find(1) from relying on the number */
	if (node->flags & LFS_METACOPY)
		attr->blocks = attr->size / 512 + (attr->size % 512 != 0);
	if (node->flags & LFS_BLOCKS)
		lfs_blocks_attr(server, node, attr);
}

static int low_links_left(struct lfs_server *server, const struct lfs_node *node, uint32_t *nlink)
{
	struct lfs_spots spots = {0};
	int rc = lfs_visible_links(server, node->low, &spots);
	if (rc >= 0)
		*nlink = spots.count ? (uint32_t)spots.count : 1;
	lfs_spots_free(server, &spots);
	return rc;
}

static int attr_of_split(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr)
{
	struct fuse_attr old;
	int rc = lfs_low_attr(server, node->low, &old);
	if (rc >= 0)
		rc = lfs_attr(server, node->file->successor, attr);
	if (rc >= 0) {
		attr->size = old.size; /* what the old descriptor reads */
		attr->blocks = old.blocks;
	}
	return rc;
}

int lfs_attr(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr)
{
	struct stat status;
	if (node->flags & LFS_LATE) {
		int late = lfs_wake(server, node);
		if (late < 0)
			return late;
	}
	if (node->flags & LFS_SPLIT && node->file && node->file->successor)
		return attr_of_split(server, node, attr);
	if (!(node->flags & LFS_HERE)) {
		int rc = lfs_low_attr(server, node->low, attr);
		if (rc >= 0 && node->flags & LFS_UNLINKED) {
			attr->nlink = 0;
			return 0;
		}
		if (rc < 0 || lfs_node_is_dir(node))
			return rc;
		return attr->nlink > 1 && server->upper.present ? low_links_left(server, node, &attr->nlink) : 0;
	}
	int rc = lfs_entry_stat(server, node, &status);
	if (rc < 0)
		return rc;
	lfs_attr_from_stat(&status, attr);
	lfs_attr_finish(server, node, attr);
	return 0;
}

/* --- facts that changes need --- */

bool lfs_low_shows(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name)
{
	uint64_t low;
	if (dir->flags & LFS_LATE && lfs_wake(server, dir) < 0)
		return false;
	return dir->low && lfs_low_child(server, dir->low, name, &low) == 0;
}

int lfs_upper_entry(struct lfs_server *server, struct lfs_node *dir, const char *name, struct stat *status)
{
	if (!(dir->flags & LFS_HERE))
		return -ENOENT;
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	return fstatat(fd, name, status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}
