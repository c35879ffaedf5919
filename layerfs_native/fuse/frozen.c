/* Frozen layers: upper directories that are written no more, between the tree and the upper. A layer is a server of its own that serves
 * nobody: nodes, look-ups, listings, marks and links of it are those of any union, read-only. What others know of its inodes is
 * LFS_FROZEN, the layer and the node's slot; an entry that only those further below have is known by their number, so depth costs nothing
 * where nothing was changed. Nodes that others know stay as long as the mount. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "server.h"

#define SLOT_BITS 25
#define SLOT_MASK ((1u << SLOT_BITS) - 1)

_Static_assert((uint64_t)LFS_LAYERS_MAX << SLOT_BITS < LFS_FROZEN, "layer and slot fit below the flag");

/* --- numbers --- */

struct lfs_server *lfs_layer(const struct lfs_server *server, uint64_t low, struct lfs_node **node)
{
	struct lfs_server *layer = server->layers[(low & ~LFS_FROZEN) >> SLOT_BITS];
	*node = lfs_node_find(layer, (low & SLOT_MASK) + 1);
	return layer;
}

uint64_t lfs_layer_number(const struct lfs_server *layer, const struct lfs_node *node)
{
	if (!(node->flags & LFS_HERE))
		return node->low;
	if (node->slot > SLOT_MASK)
		return 0;
	return LFS_FROZEN | (uint64_t)layer->layer_count << SLOT_BITS | node->slot;
}

uint64_t lfs_low_root(const struct lfs_server *server)
{
	if (!server->layer_count)
		return LFS_ROOT_NID;
	const struct lfs_server *top = server->layers[server->layer_count - 1];
	return lfs_layer_number(top, top->nodes.root);
}

uint64_t lfs_low_ino(const struct lfs_server *server, uint64_t low)
{
	struct lfs_node *node;
	if (!(low & LFS_FROZEN))
		return LFS_TREE_INO | low;
	lfs_layer(server, low, &node);
	return node ? node->ino : 0;
}

/* --- one layer --- */

int lfs_layer_add(struct lfs_server *server, struct lfs_server **out)
{
	if (server->layer_count == LFS_LAYERS_MAX)
		return -EMLINK;
	struct lfs_server *layer = malloc(sizeof *layer);
	if (!layer)
		return -ENOMEM;
	lfs_server_init(layer);
	layer->options.mount_flags = server->options.mount_flags;
	layer->options.strict = server->options.strict;
	layer->rights = server->rights;
	layer->proc = server->proc;
	layer->lower = server->lower;
	layer->lower.links = layer->lower.dirs = NULL;
	layer->lower.link_count = layer->lower.dir_count = 0;
	layer->lower.indexed = false;
	memcpy(layer->layers, server->layers, sizeof layer->layers);
	layer->layer_count = server->layer_count;
	int rc = lfs_nodes_init(layer);
	if (rc < 0) {
		free(layer);
		return rc;
	}
	memcpy(layer->nodes.seed, server->nodes.seed, sizeof layer->nodes.seed); /* listings keep their offsets when they go down */
	*out = layer;
	return 0;
}

void lfs_layer_free(struct lfs_server *layer)
{
	lfs_linked_forget(layer);
	lfs_moves_forget(layer);
	lfs_nodes_free(layer);
	lfs_upper_close(layer);
	free(layer->lower.links);
	free(layer->lower.dirs);
	free(layer->options.upper);
	free(layer);
}

void lfs_layers_close(struct lfs_server *server)
{
	while (server->layer_count)
		lfs_layer_free(server->layers[--server->layer_count]);
}

int lfs_layers_open(struct lfs_server *server, struct lfs_error *error)
{
	for (size_t i = server->options.frozen_count; i--;) {
		struct lfs_server *layer;
		int rc = lfs_layer_add(server, &layer);
		if (rc < 0)
			return lfs_fail(error, rc, "frozen layers: %s", strerror(-rc));
		layer->options.upper = strdup(server->options.frozen[i]);
		rc = layer->options.upper ? lfs_upper_open(layer, error) : lfs_fail(error, -ENOMEM, "out of memory");
		if (rc < 0) {
			lfs_layer_free(layer);
			return rc;
		}
		server->layers[server->layer_count++] = layer;
	}
	server->nodes.root->low = (uint32_t)lfs_low_root(server);
	server->nodes.root->ino = lfs_low_ino(server, server->nodes.root->low);
	return 0;
}

/* --- its inodes --- */

int lfs_layer_child(const struct lfs_server *server, uint64_t dir, struct lfs_bytes name, uint64_t *low)
{
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(server, dir, &node);
	if (!node)
		return -EIO;
	if (!lfs_node_is_dir(node) || name.size > LFS_NAME_MAX)
		return -ENOENT;
	return lfs_look_through(layer, node, name, low);
}

int lfs_layer_inode(const struct lfs_server *server, uint64_t low, struct lfs_inode *inode)
{
	struct fuse_attr attr;
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(server, low, &node);
	int rc = node ? lfs_attr(layer, node, &attr) : -EIO;
	if (rc < 0)
		return rc;
	*inode = (struct lfs_inode){
		.nid = low,
		.mode = attr.mode,
		.uid = attr.uid,
		.gid = attr.gid,
		.nlink = attr.nlink,
		.size = attr.size,
		.mtime = (int64_t)attr.mtime,
		.mtime_nsec = attr.mtimensec,
		.major = attr.rdev >> 8 & 0xfff,
		.minor = (attr.rdev & 0xff) | (attr.rdev >> 12 & 0xfff00),
	};
	return 0;
}

int lfs_layer_content(const struct lfs_server *server, uint64_t low, struct lfs_content *content)
{
	struct stat status;
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(server, low, &node);
	if (!node)
		return -EIO;
	if (node->flags & LFS_METACOPY)
		return node->low ? lfs_low_content(layer, node->low, content) : -EIO;
	int rc = lfs_entry_stat(layer, node, &status);
	if (rc < 0)
		return rc;
	if (!S_ISREG(status.st_mode))
		return -EIO;
	*content = (struct lfs_content){
		.kind = status.st_size ? LFS_KIND_FROZEN : LFS_KIND_NONE,
		.block = (uint32_t)low,
		.flags = node->flags & LFS_BLOCKS ? 1 : 0,
		.size = (uint64_t)status.st_size,
	};
	return 0;
}

int lfs_layer_open(const struct lfs_server *server, uint64_t low)
{
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(server, low, &node);
	if (!node)
		return -EIO;
	int flags = server->options.mount_flags & MS_NOATIME ? O_NOATIME : 0;
	int fd = lfs_entry_open(layer, node, O_RDONLY | flags);
	return fd == -EPERM && flags ? lfs_entry_open(layer, node, O_RDONLY) : fd;
}

/* --- nodes of the server above, after its upper was frozen --- */

int lfs_wake(struct lfs_server *server, struct lfs_node *node)
{
	size_t depth = 0;
	for (struct lfs_node *at = node; at->flags & LFS_LATE; at = at->names->dir, depth++)
		if (!at->names)
			return -ESTALE;
	while (depth) { /* from the topmost one down; without memory for the way */
		struct lfs_node *at = node;
		uint64_t low;
		for (size_t i = --depth; i; i--)
			at = at->names->dir;
		int rc = lfs_low_child(server, at->names->dir->low, (struct lfs_bytes){at->names->text, at->names->size}, &low);
		if (rc < 0)
			return rc == -ENOENT ? -EIO : rc;
		at->low = (uint32_t)low;
		at->flags &= (uint16_t)~LFS_LATE;
	}
	return 0;
}

/* --- paths below: told by the upper's own marks, as directories that were moved in a layer have another place than in the tree --- */

static int redirect_of(struct lfs_server *server, struct lfs_node *dir, struct lfs_marks *marks)
{
	*marks = (struct lfs_marks){0};
	if (!(dir->flags & LFS_HERE))
		return 0;
	int fd = lfs_dir_fd(server, dir);
	return fd < 0 ? fd : lfs_marks_read(server, fd, ".", marks);
}

static int put_front(char *out, size_t *at, struct lfs_bytes part, bool slash)
{
	if (part.size + slash > *at)
		return -ENAMETOOLONG;
	*at -= part.size;
	memcpy(out + *at, part.data, part.size);
	if (slash)
		out[--*at] = '/';
	return 0;
}

int lfs_lower_path(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, char *out, size_t size)
{
	size_t at = size; /* written from its end */
	int rc = put_front(out, &at, name, true);
	while (rc >= 0 && dir != server->nodes.root) {
		struct lfs_marks marks;
		if (!dir->names)
			return -EIO;
		if ((rc = redirect_of(server, dir, &marks)) < 0)
			return rc;
		struct lfs_bytes part = {dir->names->text, dir->names->size};
		if (marks.has_redirect)
			part = (struct lfs_bytes){marks.redirect, marks.redirect_size};
		bool whole = marks.has_redirect && part.size && marks.redirect[0] == '/';
		rc = put_front(out, &at, part, !whole);
		lfs_marks_free(&marks);
		if (whole)
			break;
		dir = dir->names->dir;
	}
	if (rc < 0)
		return rc;
	memmove(out, out + at, size - at);
	return (int)(size - at);
}
