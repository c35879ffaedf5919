/* unlink and rmdir: a whiteout only where something below would show. An entry that loses its last name while the kernel may still use
 * it keeps a descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>

#include "server.h"

/* After the entry lost this name on disk. `last`: it was the last one. */
void lfs_name_lost(struct lfs_server *server, struct lfs_name *name, bool last, int fd)
{
	struct lfs_node *node = name->node;
	lfs_node_get(node);
	if (last) {
		if (lfs_node_is_dir(node)) {
			lfs_listing_drop(server, node); /* the place of `file` from now on */
			lfs_dir_forget(server, node);
		}
		node->flags |= LFS_UNLINKED;
		if (node->flags & LFS_SHARED)
			lfs_same_set(server, node, 0);
	}
	if (fd >= 0 && (last || !node->names->sibling))
		lfs_pin(server, node, fd);
	else if (fd >= 0)
		close(fd);
	lfs_name_drop(server, name);
	lfs_node_put(server, node);
}

static int check(struct lfs_server *server, struct lfs_node *node, bool directory)
{
	if (!directory)
		return lfs_node_is_dir(node) ? -EISDIR : 0;
	return lfs_node_is_dir(node) ? lfs_dir_empty(server, node) : -ENOTDIR;
}

static int cover_directory(struct lfs_server *server, struct lfs_node *dir, const char *name)
{
	char temp[LFS_TEMP_SIZE];
	int rc = lfs_allow_alternate(server, dir), fd = rc < 0 ? rc : lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	if ((rc = lfs_whiteout_make(server, temp)) < 0)
		return rc;
	rc = lfs_rename_at(server, server->upper.scratch, temp, fd, name, RENAME_EXCHANGE);
	lfs_scratch_remove(server, temp); /* the directory, or the whiteout when that failed */
	return rc;
}

static int remove_directory(struct lfs_server *server, struct lfs_node *dir, const char *name)
{
	char temp[LFS_TEMP_SIZE];
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	if (unlinkat(fd, name, AT_REMOVEDIR) == 0)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	lfs_temp_name(server, temp); /* it holds whiteouts */
	int rc = lfs_rename_at(server, fd, name, server->upper.scratch, temp, 0);
	if (rc >= 0)
		lfs_scratch_remove(server, temp);
	return rc;
}

static int remove_entry(struct lfs_server *server, struct lfs_node *dir, struct lfs_node *node, const char *name, bool lower)
{
	bool directory = lfs_node_is_dir(node);
	if (!(node->flags & LFS_HERE))
		return lfs_whiteout_put(server, dir, name);
	if (lower)
		return directory ? cover_directory(server, dir, name) : lfs_whiteout_put(server, dir, name);
	if (directory)
		return remove_directory(server, dir, name);
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	return unlinkat(fd, name, 0) < 0 ? -errno : 0;
}

/* Whether this is the last name of the entry, and a descriptor to keep it by. */
static int last_name(struct lfs_server *server, struct lfs_node *node, bool *last)
{
	struct stat status;
	struct lfs_inode inode;
	if (!(node->flags & LFS_HERE)) {
		*last = lfs_node_is_dir(node) || (lfs_low_inode(server, node->low, &inode) == 0 && inode.nlink == 1);
		if (!*last && !node->names->sibling) {
			struct lfs_spots spots = {0};
			*last = lfs_visible_links(server, node->low, &spots) == 0 && spots.count <= 1;
			lfs_spots_free(server, &spots);
		}
		return LFS_NO_FD;
	}
	*last = lfs_node_is_dir(node) || (lfs_entry_stat(server, node, &status) == 0 && status.st_nlink <= 1);
	return lfs_pin_before(server, node, *last);
}

int lfs_unlink(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, bool directory)
{
	struct lfs_node *node;
	if (!server->writable)
		return -EROFS;
	int rc = lfs_look(server, dir, name, &node, NULL);
	if (rc < 0)
		return rc;
	rc = lfs_may_remove(server, dir, node);
	if (rc >= 0)
		rc = check(server, node, directory);
	lfs_quota_removing(server, true);
	if (rc >= 0)
		rc = lfs_dir_here(server, dir);
	struct lfs_name *known = lfs_name_find(server, dir, name);
	bool last, lower = lfs_low_shows(server, dir, name);
	if (rc >= 0 && lower)
		rc = lfs_quota_want(server, 0, 0); /* whiteouts make directories grow */
	if (rc >= 0 && known) {
		int fd = last_name(server, node, &last);
		uint64_t weight = lfs_quota_weight(server, node);
		rc = remove_entry(server, dir, node, known->text, lower);
		if (rc < 0) {
			lfs_pin_undo(server, node, fd);
		} else {
			if (lower || !(node->flags & LFS_HERE))
				lfs_listing_whiteout(server, dir, known->text);
			else
				lfs_listing_gone(server, dir, known->text);
			if (lfs_node_is_dir(node))
				lfs_moves_forget(server);
			if (last && node->flags & LFS_HERE && fd < 0 && !lfs_is_pinned(node))
				lfs_quota_add(server, -1, -(int64_t)weight);
			lfs_name_lost(server, known, last, fd < 0 ? LFS_NO_FD : fd);
		}
		lfs_quota_settle_dir(server, dir);
	}
	lfs_quota_removing(server, false);
	lfs_node_put(server, node);
	return rc;
}
