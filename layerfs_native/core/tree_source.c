/* Reading a tree file into a tree in memory. The file may be hostile: names and structure are checked here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "tree_source.h"

int lfs_source_damaged(const struct lfs_source *source, const char *what)
{
	return lfs_fail(source->error, -EIO, "damaged tree file: %s", what);
}

int lfs_source_fail(const struct lfs_source *source, int rc)
{
	return lfs_tree_fail(source->error, rc);
}

int lfs_source_open(struct lfs_source *source, struct lfs_tree *tree, const char *path, struct lfs_error *error)
{
	*source = (struct lfs_source){.tree = tree, .error = error};
	int rc = lfs_image_open(path, &source->image, error);
	if (rc < 0)
		return rc;
	size_t words = lfs_image_slots(&source->image) / 64 + 1;
	source->entered = calloc(words, sizeof *source->entered);
	source->lays = calloc(words, sizeof *source->lays);
	rc = source->entered && source->lays ? lfs_image_checksums(&source->image, error) : lfs_source_fail(source, -ENOMEM);
	if (rc < 0)
		lfs_source_close(source);
	return rc;
}

void lfs_source_release(struct lfs_source *source)
{
	for (size_t i = 0; i < source->map_room; i++) {
		if (source->map_keys[i])
			lfs_node_drop(source->tree, source->map_nodes[i]);
		source->map_keys[i] = 0;
	}
	source->map_count = 0;
}

void lfs_source_close(struct lfs_source *source)
{
	lfs_source_release(source);
	lfs_image_close(&source->image);
	free(source->frames);
	free(source->entered);
	free(source->lays);
	free(source->map_keys);
	free(source->map_nodes);
	free(source->xattrs);
	free(source->xattr_names);
	*source = (struct lfs_source){0};
}

void lfs_source_rewind(struct lfs_source *source)
{
	memset(source->entered, 0, (lfs_image_slots(&source->image) / 64 + 1) * sizeof *source->entered);
	source->frame_count = 0;
}

/* --- walking --- */

int lfs_source_enter(struct lfs_source *source, uint64_t nid, uint32_t directory)
{
	if (lfs_image_inode(&source->image, nid, &source->directory) < 0 || !S_ISDIR(source->directory.mode) ||
	    lfs_bit(source->entered, nid))
		return lfs_source_damaged(source, "a directory with two names, or none");
	lfs_bit_set(source->entered, nid);
	if (source->frame_count == source->frame_room) {
		size_t room = source->frame_room ? 2 * source->frame_room : 64;
		struct lfs_frame *grown = realloc(source->frames, room * sizeof *grown);
		if (!grown)
			return lfs_source_fail(source, -ENOMEM);
		source->frames = grown;
		source->frame_room = room;
	}
	source->frames[source->frame_count++] = (struct lfs_frame){.nid = nid, .directory = directory};
	return 0;
}

static int leave(struct lfs_source *source)
{
	if (!--source->frame_count)
		return 1;
	uint64_t nid = source->frames[source->frame_count - 1].nid;
	return lfs_image_inode(&source->image, nid, &source->directory) < 0 ? lfs_source_damaged(source, "a directory") : 0;
}

int lfs_source_next(struct lfs_source *source, struct lfs_dirent *entry, struct lfs_inode *inode)
{
	for (;;) {
		struct lfs_frame *frame = &source->frames[source->frame_count - 1];
		int rc = lfs_image_next(&source->image, &source->directory, &frame->position, entry);
		if (rc == 1) {
			if ((rc = leave(source)))
				return rc;
			continue;
		}
		if (rc < 0 || lfs_image_inode(&source->image, entry->nid, inode) < 0)
			return lfs_source_damaged(source, "a directory or inode");
		if (lfs_is_dots(entry->name))
			continue;
		if (memchr(entry->name.data, '/', entry->name.size) || memchr(entry->name.data, 0, entry->name.size))
			return lfs_source_damaged(source, "a name with a slash or NUL");
		return 0;
	}
}

/* --- inodes with several names --- */

static size_t map_slot(const struct lfs_source *source, uint64_t nid)
{
	size_t at = ((nid + 1) ^ source->tree->key[0]) * 0x9E3779B97F4A7C15u >> 20;
	while (source->map_keys[at & (source->map_room - 1)] && source->map_keys[at & (source->map_room - 1)] != nid + 1)
		at++;
	return at & (source->map_room - 1);
}

uint32_t lfs_source_mapped(const struct lfs_source *source, uint64_t nid)
{
	if (!source->map_room)
		return LFS_NONE;
	size_t slot = map_slot(source, nid);
	return source->map_keys[slot] ? source->map_nodes[slot] : LFS_NONE;
}

static int map_grow(struct lfs_source *source)
{
	size_t old_room = source->map_room, room = old_room ? 2 * old_room : 64;
	uint64_t *old_keys = source->map_keys, *keys = calloc(room, sizeof *keys);
	uint32_t *old_nodes = source->map_nodes, *nodes = calloc(room, sizeof *nodes);
	if (!keys || !nodes) {
		free(keys);
		free(nodes);
		return -ENOMEM;
	}
	source->map_keys = keys;
	source->map_nodes = nodes;
	source->map_room = room;
	for (size_t i = 0; i < old_room; i++) {
		if (!old_keys[i])
			continue;
		size_t slot = map_slot(source, old_keys[i] - 1);
		keys[slot] = old_keys[i];
		nodes[slot] = old_nodes[i];
	}
	free(old_keys);
	free(old_nodes);
	return 0;
}

int lfs_source_map(struct lfs_source *source, uint64_t nid, uint32_t node)
{
	if (2 * source->map_count >= source->map_room && map_grow(source) < 0)
		return lfs_source_fail(source, -ENOMEM);
	size_t slot = map_slot(source, nid);
	source->map_keys[slot] = nid + 1;
	source->map_nodes[slot] = node;
	source->map_count++;
	lfs_node_at(source->tree, node)->names++;
	return 0;
}

/* --- inodes --- */

static int xattr_reserve(struct lfs_source *source, size_t count)
{
	if (count <= source->xattr_room)
		return 0;
	size_t room = count * 2 + 8;
	void *xattrs = realloc(source->xattrs, room * sizeof *source->xattrs);
	if (xattrs)
		source->xattrs = xattrs;
	void *names = realloc(source->xattr_names, room * sizeof *source->xattr_names);
	if (names)
		source->xattr_names = names;
	if (!xattrs || !names)
		return -ENOMEM;
	source->xattr_room = room;
	return 0;
}

/* Reads the entries into the scratch arrays; returns their number. */
static ssize_t read_xattrs(struct lfs_source *source, const struct lfs_inode *inode)
{
	struct lfs_image_xattr_entry entry;
	uint64_t offset = 0;
	size_t count = 0;
	int rc;
	while (!(rc = lfs_image_next_xattr(&source->image, inode, &offset, &entry))) {
		if (xattr_reserve(source, count + 1) < 0)
			return lfs_source_fail(source, -ENOMEM);
		char *name = source->xattr_names[count];
		char *end = stpcpy(name, entry.prefix);
		memcpy(end, entry.rest.data, entry.rest.size);
		source->xattrs[count].name.size = (size_t)(end - name) + entry.rest.size;
		source->xattrs[count++].value = entry.value;
	}
	for (size_t i = 0; i < count; i++) /* only now: growing moves them */
		source->xattrs[i].name.data = source->xattr_names[i];
	return rc == 1 ? (ssize_t)count : lfs_source_damaged(source, "extended attributes");
}

int lfs_source_attributes(struct lfs_source *source, const struct lfs_inode *inode, struct lfs_node *node)
{
	node->mode = (uint16_t)inode->mode;
	node->uid = inode->uid;
	node->gid = inode->gid;
	node->mtime = inode->mtime;
	node->mtime_nsec = inode->mtime_nsec;
	node->xattrs = NULL;
	node->xattr_size = 0;
	if (!inode->xattr_size)
		return 0;
	ssize_t count = read_xattrs(source, inode);
	return count < 0 ? (int)count : lfs_tree_set_xattrs(source->tree, node, source->xattrs, (size_t)count, source->error);
}

static int fill_node(struct lfs_source *source, const struct lfs_inode *inode, struct lfs_node *node)
{
	int rc = lfs_source_attributes(source, inode, node);
	if (rc < 0)
		return rc;
	if (S_ISREG(inode->mode)) {
		struct lfs_content content;
		if (lfs_image_content(&source->image, inode, &content) < 0)
			return lfs_source_damaged(source, "a content");
		return lfs_tree_set_content(source->tree, node, &content, source->error);
	}
	if (S_ISLNK(inode->mode)) {
		struct lfs_bytes target;
		if (lfs_image_readlink(&source->image, inode, &target) < 0)
			return lfs_source_damaged(source, "a symbolic link");
		node->size = target.size;
		node->text = lfs_tree_copy(source->tree, target.data, target.size);
		return node->text ? 0 : lfs_source_fail(source, -ENOMEM);
	}
	if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode))
		node->device = inode->raw_block;
	return 0;
}

int lfs_source_node(struct lfs_source *source, const struct lfs_inode *inode, uint32_t *number)
{
	if (inode->nlink > 1 && (*number = lfs_source_mapped(source, inode->nid)) != LFS_NONE)
		return 0;
	int rc = lfs_node_new(source->tree, inode->mode, number);
	if (rc < 0)
		return lfs_source_fail(source, rc);
	rc = fill_node(source, inode, lfs_node_at(source->tree, *number));
	return rc < 0 || inode->nlink <= 1 ? rc : lfs_source_map(source, inode->nid, *number);
}
