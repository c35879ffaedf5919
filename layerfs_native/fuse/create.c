/* New entries. Where the upper has nothing at the name, the host makes them in their place, as the caller: so owner, group inheritance,
 * umask and default ACLs are the host's work. Over a whiteout they are made in a directory of scratch that stands in for the parent. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "server.h"

void lfs_identity(uint32_t uid, uint32_t gid, uint32_t mask)
{
	static _Thread_local struct {
		uint32_t uid, gid, mask;
		bool known;
	} now;
	if (!now.known || now.gid != gid)
		setfsgid(gid);
	if (!now.known || now.uid != uid)
		setfsuid(uid);
	if (!now.known || now.mask != mask)
		umask(mask & 0777);
	now.uid = uid, now.gid = gid, now.mask = mask, now.known = true;
}

/* What stands in the way of a new name. */
struct place {
	char text[LFS_NAME_MAX + 1];
	bool whiteout, lower;
};

static int free_place(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct place *place)
{
	struct lfs_node *there;
	struct stat status;
	if (!server->writable)
		return -EROFS;
	if (name.size > LFS_NAME_MAX)
		return -ENAMETOOLONG;
	int rc = lfs_look(server, dir, name, &there, NULL);
	if (rc >= 0) {
		lfs_node_put(server, there);
		return -EEXIST;
	}
	if (rc != -ENOENT)
		return rc;
	memcpy(place->text, name.data, name.size);
	place->text[name.size] = 0;
	place->lower = lfs_low_shows(server, dir, name);
	rc = lfs_upper_entry(server, dir, place->text, &status);
	place->whiteout = rc >= 0;
	if (rc < 0 && rc != -ENOENT)
		return rc;
	rc = lfs_may_add(server, dir);
	return rc < 0 ? rc : lfs_dir_here(server, dir);
}

/* Most often nothing is there, and making the entry says so: -EEXIST then leads to free_place. */
static bool may_be_free(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct place *place)
{
	if (!server->writable || name.size > LFS_NAME_MAX || !lfs_node_is_dir(dir) || (dir->flags & (LFS_HERE | LFS_UNLINKED)) != LFS_HERE ||
	    lfs_name_find(server, dir, name) || lfs_low_shows(server, dir, name) || lfs_may_add(server, dir) < 0)
		return false;
	memcpy(place->text, name.data, name.size);
	place->text[name.size] = 0;
	place->whiteout = place->lower = false;
	return true;
}

/* Makes the entry at dir_fd/name, as the caller. */
static int make(int dir_fd, const char *name, const struct lfs_new *what)
{
	lfs_identity(what->uid, what->gid, what->umask);
	switch (what->mode & S_IFMT) {
	case S_IFDIR:
		return mkdirat(dir_fd, name, what->mode & 07777) < 0 ? -errno : 0;
	case S_IFLNK:
		return symlinkat(what->target, dir_fd, name) < 0 ? -errno : 0;
	case S_IFREG:
		if (what->fd) {
			*what->fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, what->mode & 07777);
			return *what->fd < 0 ? -errno : 0;
		}
		/* fall through */
	default:
		return mknodat(dir_fd, name, what->mode, makedev(what->rdev >> 8 & 0xfff, (what->rdev & 0xff) | (what->rdev >> 12 & 0xfff00))) < 0
			       ? -errno
			       : 0;
	}
}

/* A directory in scratch that hands on group and default ACL as `dir` does. */
static int make_stand_in(struct lfs_server *server, int dir_fd, const char *temp)
{
	struct stat status;
	char path[300], acl[4096];
	if (fstat(dir_fd, &status) < 0)
		return -errno;
	lfs_identity(0, 0, 0);
	if (mkdirat(server->upper.scratch, temp, 0700) < 0)
		return -errno;
	LFS_AUTO_FD fd = openat(server->upper.scratch, temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || (server->rights.give && fchown(fd, status.st_uid, status.st_gid) < 0) || fchmod(fd, status.st_mode & 07777) < 0)
		return -errno;
	lfs_fd_path(dir_fd, NULL, path);
	ssize_t size = getxattr(path, "system.posix_acl_default", acl, sizeof acl);
	lfs_fd_path(fd, NULL, path);
	if (size > 0 && setxattr(path, "system.posix_acl_default", acl, (size_t)size, 0) < 0)
		return -errno;
	return lfs_steal_fd(&fd);
}

static int make_over_whiteout(struct lfs_server *server, struct lfs_node *dir, const struct place *place, const struct lfs_new *what)
{
	char temp[LFS_TEMP_SIZE];
	bool directory = S_ISDIR(what->mode);
	int target = lfs_dir_fd(server, dir);
	if (target < 0)
		return target;
	lfs_temp_name(server, temp);
	LFS_AUTO_FD stand_in = make_stand_in(server, target, temp);
	int rc = stand_in < 0 ? stand_in : make(stand_in, "e", what);
	if (rc >= 0 && directory)
		rc = lfs_mark_set(server, stand_in, "e", "opaque", "y", 1);
	if (rc >= 0)
		rc = lfs_rename_at(server, stand_in, "e", target, place->text, directory ? RENAME_EXCHANGE : 0);
	lfs_scratch_remove(server, temp); /* with the whiteout, when they changed places */
	if (rc < 0 && what->fd && *what->fd >= 0)
		close(lfs_steal_fd(what->fd));
	return rc;
}

static int adopt(struct lfs_server *server, struct lfs_node *dir, const char *text, int fd, struct lfs_node **out, struct fuse_attr *attr)
{
	struct stat status;
	int rc = fd < 0 ? lfs_upper_entry(server, dir, text, &status) : fstat(fd, &status) < 0 ? -errno : 0;
	if (rc < 0 || (rc = lfs_node_new(server, status.st_mode, out)) < 0)
		return rc;
	(*out)->flags |= LFS_HERE;
	(*out)->ino = status.st_ino;
	lfs_quota_add(server, 1, status.st_blocks);
	lfs_quota_settle_dir(server, dir);
	rc = lfs_name_add(server, dir, (struct lfs_bytes){text, strlen(text)}, *out);
	if (rc < 0) {
		lfs_node_put(server, *out);
		return rc;
	}
	lfs_listing_add(server, dir, text, status.st_mode);
	if (attr) {
		lfs_attr_from_stat(&status, attr);
		lfs_attr_finish(server, *out, attr);
	}
	return 0;
}

static int make_place(struct lfs_server *server, struct lfs_node *dir, const struct place *place, const struct lfs_new *what)
{
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	return place->whiteout ? make_over_whiteout(server, dir, place, what) : make(fd, place->text, what);
}

int lfs_create(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, const struct lfs_new *what, struct lfs_node **out,
	       struct fuse_attr *attr)
{
	struct place place;
	if (S_ISCHR(what->mode) && !what->rdev)
		return -EPERM; /* it would be a whiteout */
	bool guessed = may_be_free(server, dir, name, &place);
	int rc = guessed ? 0 : free_place(server, dir, name, &place);
	if (rc >= 0)
		rc = lfs_quota_want(server, 1, S_ISDIR(what->mode) ? LFS_BLOCK : 0);
	if (rc >= 0)
		rc = make_place(server, dir, &place, what);
	if (rc == -EEXIST && guessed && (rc = free_place(server, dir, name, &place)) >= 0)
		rc = make_place(server, dir, &place, what);
	if (rc >= 0)
		rc = adopt(server, dir, place.text, what->fd ? *what->fd : LFS_NO_FD, out, attr);
	if (rc >= 0 && S_ISREG(what->mode))
		(*out)->flags |= LFS_INCAPABLE;
	if (rc >= 0 && S_ISREG(what->mode) && !place.whiteout)
		lfs_newest_made(server, dir, *out);
	if (rc < 0 && what->fd && *what->fd >= 0)
		close(lfs_steal_fd(what->fd));
	return rc;
}

int lfs_tmpfile(struct lfs_server *server, struct lfs_node *dir, const struct lfs_new *what, struct lfs_node **out)
{
	struct stat status;
	int rc = lfs_may_add(server, dir);
	if (rc >= 0)
		rc = lfs_quota_want(server, 1, 0);
	if (rc >= 0)
		rc = lfs_dir_here(server, dir);
	int fd = rc < 0 ? rc : lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	lfs_identity(what->uid, what->gid, what->umask);
	LFS_AUTO_FD file = openat(fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, what->mode & 07777);
	if (file < 0 || fstat(file, &status) < 0)
		return -errno;
	if ((rc = lfs_node_new(server, S_IFREG, out)) < 0)
		return rc;
	(*out)->flags |= LFS_HERE | LFS_UNLINKED;
	(*out)->ino = status.st_ino;
	lfs_quota_add(server, 1, status.st_blocks);
	rc = lfs_pin(server, *out, lfs_steal_fd(&file));
	if (rc < 0)
		lfs_node_put(server, *out);
	return rc;
}

/* --- hard links --- */

/* A metacopy that is going to be at another name must say where its bytes are. */
static int keep_bytes(struct lfs_server *server, struct lfs_node *node)
{
	char path[LFS_BLOCK];
	const char *name;
	if (!(node->flags & LFS_METACOPY) || !node->names)
		return 0;
	int fd = lfs_place(server, node, &name);
	if (fd < 0)
		return fd;
	if (lfs_mark_get(server, fd, name, "redirect", NULL, 0) >= 0)
		return 0;
	const struct lfs_name *known = node->names;
	struct lfs_bytes text = {known->text, known->size};
	int size = !known->dir->low	  ? -EIO
		   : server->layer_count ? lfs_lower_path(server, known->dir, text, path, sizeof path)
					 : lfs_low_path(server, known->dir->low, text, path, sizeof path);
	if (size < 0)
		return size;
	uint64_t weight = lfs_quota_weight(server, node);
	int rc = lfs_mark_set(server, fd, name, "redirect", path, (size_t)size);
	lfs_quota_changed(server, node, weight);
	return rc;
}

static int link_into(struct lfs_server *server, struct lfs_node *node, int dir_fd, const char *name)
{
	const char *old;
	if (lfs_is_pinned(node)) {
		char path[300];
		int pinned = lfs_pinned_fd(server, node);
		if (pinned < 0)
			return pinned;
		lfs_fd_path(pinned, NULL, path);
		return linkat(server->upper.links, path, dir_fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
	}
	int fd = lfs_place(server, node, &old);
	if (fd < 0)
		return fd;
	return linkat(fd, old, dir_fd, name, 0) < 0 ? -errno : 0;
}

static int link_place(struct lfs_server *server, struct lfs_node *node, struct lfs_node *dir, const struct place *place)
{
	char temp[LFS_TEMP_SIZE];
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	if (!place->whiteout)
		return link_into(server, node, fd, place->text);
	lfs_temp_name(server, temp);
	int rc = link_into(server, node, server->upper.scratch, temp);
	if (rc >= 0 && (rc = lfs_rename_at(server, server->upper.scratch, temp, fd, place->text, 0)) < 0)
		unlinkat(server->upper.scratch, temp, 0);
	return rc;
}

void lfs_named_again(struct lfs_server *server, struct lfs_node *node)
{
	node->flags &= (uint16_t)~LFS_UNLINKED;
	if (!lfs_is_pinned(node))
		return;
	atomic_fetch_sub(&server->quota.doomed, 1);
	lfs_pin_end(server, node);
	if (!node->file->handles && !node->file->busy)
		lfs_file_free(server, node);
}

int lfs_link(struct lfs_server *server, struct lfs_node *node, struct lfs_node *dir, struct lfs_bytes name)
{
	struct place place;
	struct stat status;
	if (lfs_node_is_dir(node))
		return -EPERM;
	int rc = lfs_may_link(server, node);
	if (rc >= 0)
		rc = lfs_copy_up(server, node, LFS_DATA_NONE);
	if (rc >= 0)
		rc = lfs_settle_names(server, node);
	if (rc >= 0 && node->flags & LFS_SPLIT && node->file && node->file->successor)
		node = node->file->successor;
	if (rc >= 0)
		rc = free_place(server, dir, name, &place);
	if (rc >= 0)
		rc = lfs_quota_want(server, 0, 0);
	if (rc >= 0)
		rc = keep_bytes(server, node);
	if (rc >= 0)
		rc = lfs_entry_stat(server, node, &status);
	if (rc >= 0 && node->ino != status.st_ino)
		rc = lfs_impure(server, dir);
	if (rc >= 0)
		rc = link_place(server, node, dir, &place);
	lfs_quota_settle_dir(server, dir);
	if (rc >= 0)
		rc = lfs_name_add(server, dir, name, node);
	if (rc < 0)
		return rc;
	lfs_named_again(server, node);
	lfs_listing_add(server, dir, place.text, status.st_mode);
	return status.st_nlink ? lfs_same_set(server, node, status.st_ino) : 0;
}
