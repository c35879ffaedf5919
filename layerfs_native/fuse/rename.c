/* renameat2(2): in constant time also for lower directories, which go on finding their lower half by a redirect. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

struct side { /* one of the two names */
	struct lfs_node *dir, *node; /* node: referenced; NULL: the name shows nothing */
	struct lfs_bytes name;
	char text[LFS_NAME_MAX + 1];
	bool lower, whiteout;
};

static int look_side(struct lfs_server *server, struct side *side)
{
	struct stat status;
	if (side->name.size > LFS_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(side->text, side->name.data, side->name.size);
	side->text[side->name.size] = 0;
	int rc = lfs_look(server, side->dir, side->name, &side->node, NULL);
	if (rc < 0) {
		side->node = NULL;
		if (rc != -ENOENT)
			return rc;
	}
	side->lower = lfs_low_shows(server, side->dir, side->name);
	side->whiteout = !side->node && lfs_upper_entry(server, side->dir, side->text, &status) == 0;
	return 0;
}

static void put_side(struct lfs_server *server, struct side *side)
{
	if (side->node)
		lfs_node_put(server, side->node);
	side->node = NULL;
}

static bool is_above(const struct lfs_node *above, const struct lfs_node *node)
{
	for (; node; node = node->names ? node->names->dir : NULL)
		if (node == above)
			return true;
	return false;
}

static int check(struct lfs_server *server, const struct side *old, const struct side *new, unsigned flags)
{
	if (old->dir->flags & LFS_UNLINKED || new->dir->flags & LFS_UNLINKED || !old->node)
		return -ENOENT;
	if (is_above(old->node, new->dir))
		return -EINVAL;
	int rc = lfs_may_remove(server, old->dir, old->node);
	if (rc >= 0)
		rc = new->node ? lfs_may_remove(server, new->dir, new->node) : lfs_may_add(server, new->dir);
	if (rc < 0)
		return rc;
	if (flags & RENAME_EXCHANGE)
		return !new->node ? -ENOENT : is_above(new->node, old->dir) ? -EINVAL : 0;
	if (!new->node)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (is_above(new->node, old->dir))
		return -ENOTEMPTY;
	if (lfs_node_is_dir(new->node) != lfs_node_is_dir(old->node))
		return lfs_node_is_dir(new->node) ? -EISDIR : -ENOTDIR;
	return lfs_node_is_dir(new->node) ? lfs_dir_empty(server, new->node) : 0;
}

/* --- what an entry needs so that it means the same at another name --- */

/* One that was moved before keeps saying where it stands; a short word does not hold in another directory. */
static int redirect_over_layers(struct lfs_server *server, const struct side *from, const struct side *to, int fd)
{
	char path[LFS_BLOCK];
	int size = lfs_mark_get(server, fd, NULL, "redirect", path, sizeof path);
	if (size > 0 && (path[0] == '/' || from->dir == to->dir))
		return 0;
	if (size <= 0 && from->dir == to->dir)
		return lfs_mark_set(server, fd, NULL, "redirect", from->name.data, from->name.size);
	struct lfs_bytes name = size > 0 ? (struct lfs_bytes){memcpy(path + sizeof path / 2, path, (size_t)size), (size_t)size} : from->name;
	size = lfs_lower_path(server, from->dir, name, path, sizeof path / 2);
	return size < 0 ? size : lfs_mark_set(server, fd, NULL, "redirect", path, (size_t)size);
}

static int redirect_directory(struct lfs_server *server, const struct side *from, const struct side *to)
{
	char path[LFS_BLOCK];
	struct lfs_link place;
	int fd = lfs_dir_fd(server, from->node);
	if (fd < 0)
		return fd;
	if (server->layer_count)
		return redirect_over_layers(server, from, to, fd);
	int rc = lfs_low_dir_place(server, from->node->low, &place);
	if (rc < 0)
		return rc == -ENOENT ? -EIO : rc;
	if (from->dir == to->dir && place.dir == to->dir->low)
		return lfs_mark_set(server, fd, NULL, "redirect", place.name.data, place.name.size);
	int size = lfs_low_path(server, place.dir, place.name, path, sizeof path);
	return size < 0 ? size : lfs_mark_set(server, fd, NULL, "redirect", path, (size_t)size);
}

static int redirect_file(struct lfs_server *server, const struct side *from)
{
	char path[LFS_BLOCK];
	int fd = lfs_dir_fd(server, from->dir);
	if (fd < 0)
		return fd;
	if (lfs_mark_get(server, fd, from->text, "redirect", NULL, 0) >= 0)
		return 0; /* moved or linked before: the lower name does not change */
	if (!from->dir->low)
		return -EIO;
	int size = server->layer_count ? lfs_lower_path(server, from->dir, from->name, path, sizeof path)
				       : lfs_low_path(server, from->dir->low, from->name, path, sizeof path);
	if (size < 0)
		return size;
	uint64_t weight = lfs_quota_weight(server, from->node);
	int rc = lfs_mark_set(server, fd, from->text, "redirect", path, (size_t)size);
	lfs_quota_changed(server, from->node, weight);
	return rc;
}

static int keep_identity(struct lfs_server *server, const struct side *from, const struct side *to)
{
	struct lfs_node *node = from->node;
	struct stat status;
	int rc = 0;
	if (lfs_node_is_dir(node) && node->low)
		rc = redirect_directory(server, from, to);
	else if (node->flags & LFS_METACOPY)
		rc = redirect_file(server, from);
	else if (lfs_node_is_dir(node) && to->dir->low) {
		int fd = lfs_dir_fd(server, node);
		rc = fd < 0 ? fd : lfs_mark_set(server, fd, NULL, "opaque", "y", 1);
	}
	if (rc == -ENOSPC || rc == -E2BIG || rc == -ERANGE)
		return -EXDEV; /* too long for this host's xattrs: mv(1) then copies */
	if (rc < 0)
		return rc;
	rc = lfs_upper_entry(server, from->dir, from->text, &status);
	if (rc >= 0 && (node->ino != status.st_ino || node->flags & LFS_METACOPY))
		rc = lfs_impure(server, to->dir);
	return rc;
}

/* --- moving --- */

/* A directory that shows nothing becomes opaque and loses its whiteouts, so that a rename may replace it. */
static int clear(struct lfs_server *server, struct lfs_node *dir)
{
	int fd = lfs_dir_fd(server, dir);
	int rc = fd < 0 ? fd : lfs_dir_litter(server, dir);
	if (rc <= 0)
		return rc;
	rc = lfs_mark_set(server, fd, NULL, "opaque", "y", 1);
	dir->low = 0;
	struct lfs_listing *listing = dir->listing;
	for (uint32_t i = 0; rc >= 0 && listing && i < listing->count; i++)
		if (unlinkat(fd, listing->names + listing->items[i].name, 0) < 0 && errno != ENOENT)
			rc = -errno;
	lfs_listing_drop(server, dir);
	return rc;
}

static int move_leaving_whiteout(struct lfs_server *server, const struct side *old, const struct side *new, int old_fd, int new_fd)
{
	int rc = lfs_rename_at(server, old_fd, old->text, new_fd, new->text, RENAME_WHITEOUT);
	if (rc != -EINVAL && rc != -EPERM && rc != -ENOSYS)
		return rc;
	rc = lfs_rename_at(server, old_fd, old->text, new_fd, new->text, 0);
	return rc < 0 ? rc : lfs_whiteout_put(server, old->dir, old->text);
}

/* One rename shows the whole change; only a host without RENAME_WHITEOUT needs two. */
static int move(struct lfs_server *server, const struct side *old, const struct side *new, unsigned flags)
{
	int rc = 0;
	if (!(flags & RENAME_EXCHANGE) && old->lower)
		rc = lfs_allow_alternate(server, old->dir);
	if (rc >= 0 && !(flags & RENAME_EXCHANGE) && old->lower && !new->node && !new->whiteout)
		rc = lfs_whiteout_put(server, new->dir, new->text);
	int old_fd = rc < 0 ? rc : lfs_dir_fd(server, old->dir), new_fd = rc < 0 ? rc : lfs_dir_fd(server, new->dir);
	if (old_fd < 0 || new_fd < 0)
		return old_fd < 0 ? old_fd : new_fd;
	if (flags & RENAME_EXCHANGE)
		return lfs_rename_at(server, old_fd, old->text, new_fd, new->text, RENAME_EXCHANGE);
	if (!old->lower && (!new->whiteout || !lfs_node_is_dir(old->node)))
		return lfs_rename_at(server, old_fd, old->text, new_fd, new->text, 0);
	if (new->node)
		return move_leaving_whiteout(server, old, new, old_fd, new_fd);
	rc = lfs_rename_at(server, old_fd, old->text, new_fd, new->text, RENAME_EXCHANGE); /* the whiteout goes to the old name */
	if (rc >= 0 && !old->lower && unlinkat(old_fd, old->text, 0) < 0)
		rc = -errno;
	return rc;
}

/* --- afterwards --- */

static int rename_known(struct lfs_server *server, const struct side *from, const struct side *to)
{
	struct lfs_name *known = lfs_name_find(server, from->dir, from->name);
	int rc = lfs_name_add(server, to->dir, to->name, from->node);
	if (known)
		lfs_name_drop(server, known);
	return rc;
}

static int exchange_known(struct lfs_server *server, const struct side *old, const struct side *new)
{
	struct lfs_name *first = lfs_name_find(server, old->dir, old->name), *second = lfs_name_find(server, new->dir, new->name);
	if (first)
		lfs_name_drop(server, first);
	if (second)
		lfs_name_drop(server, second);
	int rc = lfs_name_add(server, new->dir, new->name, old->node);
	return rc < 0 ? rc : lfs_name_add(server, old->dir, old->name, new->node);
}

static void relist(struct lfs_server *server, const struct side *old, const struct side *new, unsigned flags)
{
	uint32_t moved = (uint32_t)old->node->type << 12;
	lfs_listing_gone(server, new->dir, new->text);
	lfs_listing_add(server, new->dir, new->text, moved);
	if (flags & RENAME_EXCHANGE) {
		lfs_listing_gone(server, old->dir, old->text);
		lfs_listing_add(server, old->dir, old->text, (uint32_t)new->node->type << 12);
	} else if (old->lower) {
		lfs_listing_whiteout(server, old->dir, old->text);
	} else {
		lfs_listing_gone(server, old->dir, old->text);
	}
}

/* Whether the replaced entry loses its last name; a descriptor to keep it by. */
static int replaced(struct lfs_server *server, struct lfs_node *node, bool *last)
{
	struct stat status;
	struct lfs_inode inode;
	*last = lfs_node_is_dir(node);
	if (!(node->flags & LFS_HERE)) {
		*last |= lfs_low_inode(server, node->low, &inode) == 0 && inode.nlink == 1;
		return LFS_NO_FD;
	}
	*last |= lfs_entry_stat(server, node, &status) == 0 && status.st_nlink <= 1;
	return lfs_pin_before(server, node, *last);
}

/* Names that come to a directory make it grow, also those of whiteouts. */
static int room_for_name(struct lfs_server *server)
{
	lfs_quota_removing(server, true);
	int rc = lfs_quota_want(server, 0, 0);
	lfs_quota_removing(server, false);
	return rc;
}

static int perform(struct lfs_server *server, const struct side *old, const struct side *new, unsigned flags)
{
	bool exchange = flags & RENAME_EXCHANGE, last = false;
	LFS_AUTO_FD kept = LFS_NO_FD;
	int rc = exchange || (!old->lower && (new->node || old->dir == new->dir)) ? 0 : room_for_name(server);
	if (rc >= 0)
		rc = keep_identity(server, old, new);
	if (rc >= 0 && exchange)
		rc = keep_identity(server, new, old);
	uint64_t weight = 0;
	if (rc >= 0 && new->node && !exchange) {
		if (lfs_node_is_dir(new->node) && new->node->flags & LFS_HERE)
			rc = clear(server, new->node);
		if (rc >= 0)
			kept = replaced(server, new->node, &last);
		weight = lfs_quota_weight(server, new->node);
	}
	if (rc >= 0)
		rc = move(server, old, new, flags);
	lfs_quota_settle_dir(server, old->dir);
	lfs_quota_settle_dir(server, new->dir);
	if (rc < 0) {
		if (new->node && !exchange)
			lfs_pin_undo(server, new->node, lfs_steal_fd(&kept));
		return rc;
	}
	if (last && new->node->flags & LFS_HERE && kept < 0 && !lfs_is_pinned(new->node))
		lfs_quota_add(server, -1, -(int64_t)weight);
	relist(server, old, new, flags);
	if (lfs_node_is_dir(old->node) || (new->node && lfs_node_is_dir(new->node)))
		lfs_moves_forget(server);
	if (exchange)
		return exchange_known(server, old, new);
	struct lfs_name *lost = new->node ? lfs_name_find(server, new->dir, new->name) : NULL;
	if (lost)
		lfs_name_lost(server, lost, last, lfs_steal_fd(&kept));
	return rename_known(server, old, new);
}

/* Copying up may let the lock go: 1 when the names have to be looked at again. */
static int bring_up(struct lfs_server *server, struct side *old, struct side *new, unsigned flags)
{
	struct lfs_node *old_node = old->node, *new_node = new->node;
	int rc = lfs_copy_up(server, old->node, LFS_DATA_NONE);
	if (rc >= 0 && flags & RENAME_EXCHANGE)
		rc = lfs_copy_up(server, new->node, LFS_DATA_NONE);
	if (rc >= 0)
		rc = lfs_dir_here(server, old->dir);
	if (rc >= 0)
		rc = lfs_dir_here(server, new->dir);
	if (rc < 0)
		return rc;
	struct lfs_name *first = lfs_name_find(server, old->dir, old->name), *second = lfs_name_find(server, new->dir, new->name);
	return !first || first->node != old_node || (second ? second->node : NULL) != new_node;
}

int lfs_rename(struct lfs_server *server, struct lfs_node *old_dir, struct lfs_bytes old_name, struct lfs_node *new_dir,
	       struct lfs_bytes new_name, unsigned flags)
{
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	if (!server->writable)
		return -EROFS;
	for (;;) {
		struct side old = {.dir = old_dir, .name = old_name}, new = {.dir = new_dir, .name = new_name};
		int rc = look_side(server, &old);
		if (rc >= 0)
			rc = look_side(server, &new);
		if (rc >= 0)
			rc = check(server, &old, &new, flags);
		bool nothing = rc >= 0 && old.node == new.node; /* two names of one file */
		if (rc >= 0 && !nothing)
			rc = bring_up(server, &old, &new, flags);
		if (!rc && !nothing)
			rc = perform(server, &old, &new, flags);
		put_side(server, &old);
		put_side(server, &new);
		if (rc <= 0)
			return rc;
	}
}
