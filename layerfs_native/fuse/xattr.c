/* Extended attributes. Users' own names that look like overlayfs's marks are stored one level deeper (`trusted.overlay.overlay.x`), and the
 * marks themselves are never shown. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "server.h"

#define INNER "overlay."
#define NAME_ROOM 300

static bool has_prefix(struct lfs_bytes name, const char *prefix, size_t size)
{
	return name.size >= size && !memcmp(name.data, prefix, size);
}

static int escape(const struct lfs_server *server, struct lfs_bytes name, char out[NAME_ROOM])
{
	size_t prefix = server->upper.marks_size;
	if (name.size > LFS_NAME_MAX)
		return -ERANGE;
	if (has_prefix(name, server->upper.marks, prefix))
		snprintf(out, NAME_ROOM, "%s" INNER "%.*s", server->upper.marks, (int)(name.size - prefix), (const char *)name.data + prefix);
	else
		snprintf(out, NAME_ROOM, "%.*s", (int)name.size, (const char *)name.data);
	return 0;
}

/* What the user sees of a stored name, in place; false for overlayfs's own. */
static bool unescape(const struct lfs_server *server, char *name)
{
	size_t prefix = server->upper.marks_size;
	if (strncmp(name, server->upper.marks, prefix))
		return true;
	if (strncmp(name + prefix, INNER, strlen(INNER)))
		return false;
	memmove(name + prefix, name + prefix + strlen(INNER), strlen(name + prefix + strlen(INNER)) + 1);
	return true;
}

/* A path, from the working directory, that means the entry itself for the l*xattr calls. */
static int entry_path(struct lfs_server *server, struct lfs_node *node, char path[300], bool *follow)
{
	const char *name;
	*follow = true;
	if (lfs_node_is_dir(node)) {
		int fd = lfs_dir_fd(server, node);
		if (fd < 0)
			return fd;
		lfs_fd_path(fd, NULL, path);
		return 0;
	}
	if (lfs_is_pinned(node)) {
		int pinned = lfs_pinned_fd(server, node);
		if (pinned >= 0)
			lfs_fd_path(pinned, NULL, path);
		return pinned < 0 ? pinned : 0;
	}
	int fd = lfs_place(server, node, &name);
	if (fd < 0)
		return fd;
	lfs_fd_path(fd, name, path);
	*follow = false;
	return 0;
}

static struct lfs_node *real_node(struct lfs_server *server, struct lfs_node *node)
{
	if (node->flags & LFS_SPLIT && node->file && node->file->successor)
		node = node->file->successor;
	if (node->flags & LFS_LATE)
		lfs_wake(server, node); /* without success there is nothing below */
	return node;
}

/* --- the tree's --- */

static bool is_tree_mark(const char *name)
{
	return !strncmp(name, "trusted.overlay.", 16);
}

static int low_get(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, void *out, size_t size)
{
	struct lfs_inode inode;
	struct lfs_bytes value;
	struct lfs_node *frozen;
	char found[LFS_NAME_MAX + 32];
	if (node->low & LFS_FROZEN) {
		struct lfs_server *layer = lfs_layer(server, node->low, &frozen);
		return frozen ? lfs_xattr_get(layer, frozen, name, out, size) : -EIO;
	}
	int rc = lfs_low_inode(server, node->low, &inode);
	for (size_t i = 0; rc >= 0; i++) {
		rc = lfs_image_xattr(&server->lower.image, &inode, i, found, &value);
		if (rc < 0 || is_tree_mark(found) || strlen(found) != name.size || memcmp(found, name.data, name.size))
			continue;
		if (size && value.size > size)
			return -ERANGE;
		if (size)
			memcpy(out, value.data, value.size);
		return (int)value.size;
	}
	return rc;
}

static int low_list(struct lfs_server *server, struct lfs_node *node, char *out, size_t size)
{
	struct lfs_inode inode;
	struct lfs_bytes value;
	struct lfs_node *frozen;
	char found[LFS_NAME_MAX + 32];
	size_t used = 0;
	if (node->low & LFS_FROZEN) {
		struct lfs_server *layer = lfs_layer(server, node->low, &frozen);
		return frozen ? lfs_xattr_list(layer, frozen, out, size) : -EIO;
	}
	int rc = lfs_low_inode(server, node->low, &inode);
	for (size_t i = 0; rc >= 0; i++) {
		rc = lfs_image_xattr(&server->lower.image, &inode, i, found, &value);
		if (rc < 0 || is_tree_mark(found))
			continue;
		size_t length = strlen(found) + 1;
		if (used + length > size)
			return -E2BIG;
		memcpy(out + used, found, length);
		used += length;
	}
	return rc == -ENODATA ? (int)used : rc;
}

/* All but overlayfs's own, and what protects it: as it is stored. */
static int copy_stored(struct lfs_server *server, uint64_t low, int fd)
{
	char source[300], target[300], protection[64], *list = malloc(65536), *value = malloc(65536);
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(server, low, &node);
	bool follow;
	int rc = !list || !value ? -ENOMEM : node ? entry_path(layer, node, source, &follow) : -EIO;
	lfs_fd_path(fd, NULL, target);
	snprintf(protection, sizeof protection, "%sprotattr", server->upper.marks);
	ssize_t size = rc < 0 ? 0 : follow ? listxattr(source, list, 65536) : llistxattr(source, list, 65536);
	if (size < 0)
		rc = errno == ENOTSUP ? 0 : -errno;
	for (ssize_t at = 0; rc >= 0 && at < size; at += (ssize_t)strlen(list + at) + 1) {
		const char *name = list + at, *rest = name + server->upper.marks_size;
		if (!strncmp(name, server->upper.marks, server->upper.marks_size) && strncmp(rest, INNER, strlen(INNER)) && strcmp(name, protection))
			continue;
		ssize_t got = follow ? getxattr(source, name, value, 65536) : lgetxattr(source, name, value, 65536);
		if (got < 0 || (setxattr(target, name, value, (size_t)got, 0) < 0 && errno != ENOTSUP && errno != EPERM))
			rc = -errno;
	}
	free(list);
	free(value);
	return rc;
}

int lfs_xattr_copy(struct lfs_server *server, uint64_t low, int fd)
{
	if (low & LFS_FROZEN)
		return copy_stored(server, low, fd);
	struct lfs_inode inode;
	struct lfs_bytes value;
	char found[LFS_NAME_MAX + 32], stored[NAME_ROOM], path[300];
	lfs_fd_path(fd, NULL, path);
	int rc = lfs_low_inode(server, low, &inode);
	for (size_t i = 0; rc >= 0; i++) {
		rc = lfs_image_xattr(&server->lower.image, &inode, i, found, &value);
		if (rc < 0 || is_tree_mark(found))
			continue;
		if (escape(server, (struct lfs_bytes){found, strlen(found)}, stored) < 0)
			continue;
		if (setxattr(path, stored, value.data, value.size, 0) < 0 && errno != ENOTSUP && errno != EPERM)
			return -errno; /* what this host or user cannot hold is left out, as overlayfs does it */
	}
	return rc == -ENODATA ? 0 : rc;
}

/* --- both --- */

static bool is_capability(struct lfs_bytes name)
{
	return name.size == strlen(LFS_CAPABILITY) && !memcmp(name.data, LFS_CAPABILITY, name.size);
}

int lfs_xattr_get(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, void *out, size_t size)
{
	char path[300], stored[NAME_ROOM];
	bool follow;
	node = real_node(server, node);
	if (!(node->flags & LFS_HERE))
		return low_get(server, node, name, out, size);
	bool capability = is_capability(name) && lfs_node_is_file(node);
	if (capability && node->flags & LFS_INCAPABLE)
		return -ENODATA;
	int rc = escape(server, name, stored);
	if (rc >= 0)
		rc = entry_path(server, node, path, &follow);
	if (rc < 0)
		return rc;
	ssize_t got = follow ? getxattr(path, stored, out, size) : lgetxattr(path, stored, out, size);
	rc = got < 0 ? -errno : (int)got;
	if (capability && rc == -ENODATA)
		node->flags |= LFS_INCAPABLE;
	return rc;
}

int lfs_xattr_list(struct lfs_server *server, struct lfs_node *node, char *out, size_t size)
{
	char path[300];
	bool follow;
	size_t used = 0;
	node = real_node(server, node);
	if (!(node->flags & LFS_HERE))
		return low_list(server, node, out, size);
	int rc = entry_path(server, node, path, &follow);
	if (rc < 0)
		return rc;
	ssize_t got = follow ? listxattr(path, out, size) : llistxattr(path, out, size);
	if (got < 0)
		return errno == ENOTSUP ? 0 : -errno;
	for (ssize_t at = 0; at < got;) {
		size_t length = strlen(out + at) + 1;
		char *name = out + at;
		at += (ssize_t)length;
		if (!unescape(server, name))
			continue;
		length = strlen(name) + 1;
		memmove(out + used, name, length);
		used += length;
	}
	return (int)used;
}

int lfs_xattr_set(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, struct lfs_bytes value, int flags)
{
	char path[300], stored[NAME_ROOM];
	bool follow;
	int rc = escape(server, name, stored);
	if (rc >= 0)
		rc = lfs_copy_up(server, node, LFS_DATA_NONE);
	if (rc >= 0)
		rc = entry_path(server, real_node(server, node), path, &follow);
	if (rc < 0)
		return rc;
	node = real_node(server, node);
	if ((rc = lfs_quota_want(server, 0, value.size)) < 0)
		return rc;
	if (is_capability(name))
		node->flags &= (uint16_t)~LFS_INCAPABLE;
	uint64_t weight = lfs_quota_weight(server, node);
	rc = follow ? setxattr(path, stored, value.data, value.size, flags) : lsetxattr(path, stored, value.data, value.size, flags);
	rc = rc < 0 ? -errno : 0;
	lfs_quota_changed(server, node, weight);
	if (rc >= 0 && lfs_node_is_file(node) && node->file && node->file->past_cache && is_capability(name))
		node->file->capable = true;
	return rc;
}

int lfs_xattr_remove(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name)
{
	char path[300], stored[NAME_ROOM];
	bool follow;
	if (!server->writable)
		return -EROFS;
	int rc = lfs_xattr_get(server, node, name, NULL, 0); /* an absent name copies nothing up */
	if (rc >= 0)
		rc = escape(server, name, stored);
	if (rc >= 0)
		rc = lfs_copy_up(server, node, LFS_DATA_NONE);
	if (rc >= 0)
		rc = entry_path(server, real_node(server, node), path, &follow);
	if (rc < 0)
		return rc;
	node = real_node(server, node);
	uint64_t weight = lfs_quota_weight(server, node);
	rc = (follow ? removexattr(path, stored) : lremovexattr(path, stored)) < 0 ? -errno : 0;
	lfs_quota_changed(server, node, weight);
	return rc;
}
