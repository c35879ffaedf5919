/* Building a layer's tree from the members of its tar: docs/format.md, "Reading a layer tar". */
#define _GNU_SOURCE /* memrchr */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "tree_internal.h"

#define MAJOR_MAX 0xfffu
#define MINOR_MAX 0xfffffu

static struct lfs_bytes split_path(struct lfs_bytes path, struct lfs_bytes *base)
{
	const char *text = path.data, *slash = path.size ? memrchr(text, '/', path.size) : NULL;
	size_t directory = slash ? (size_t)(slash - text) : 0, start = slash ? directory + 1 : 0;
	*base = (struct lfs_bytes){text + start, path.size - start};
	return (struct lfs_bytes){text, directory};
}

static int check_name(struct lfs_bytes name, struct lfs_error *error)
{
	if (name.size > LFS_NAME_MAX)
		return lfs_fail(error, -EBADMSG, "name longer than 255 bytes");
	if (!name.size || lfs_is_dots(name))
		return lfs_fail(error, -EBADMSG, "empty or reserved name");
	return 0;
}

/* The directory of a new entry, made where missing. */
static int walk_to_parent(struct lfs_tree *tree, struct lfs_bytes path, uint32_t *directory, struct lfs_bytes *base,
			  struct lfs_error *error)
{
	struct lfs_walk walk;
	lfs_walk_start(&walk, LFS_ROOT, split_path(path, base));
	int rc = check_name(*base, error);
	if (!rc)
		rc = lfs_walk_run(tree, &walk, LFS_WALK_MAKE, error);
	*directory = walk.directory;
	return rc;
}

int lfs_tree_set_content(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_content *content, struct lfs_error *error)
{
	if (!content || content->kind == LFS_KIND_NONE)
		return 0;
	bool packed = content->kind == LFS_KIND_PACK;
	if (!content->size || content->size > INT64_MAX || (packed && content->size > LFS_PACK_MAX))
		return lfs_fail(error, -EINVAL, "content of an impossible size");
	if (packed && content->block > UINT32_MAX - 1 - LFS_PACK_MAX / LFS_BLOCK)
		return lfs_fail(error, -EINVAL, "pack block out of range");
	node->size = content->size;
	node->flags |= packed ? LFS_NODE_PACKED : LFS_NODE_OBJECT;
	node->content.identity = lfs_tree_copy(tree, content->identity, LFS_ID_SIZE);
	if (!node->content.identity)
		return lfs_tree_fail(error, -ENOMEM);
	node->content.block = content->block;
	int rc = packed ? lfs_tree_pack(tree, content->pack, &node->content.pack) : 0;
	return rc < 0 ? lfs_tree_fail(error, rc) : 0;
}

static int set_device(struct lfs_node *node, const struct lfs_attr *attr, struct lfs_error *error)
{
	if (S_ISCHR(attr->mode) && !attr->major && !attr->minor)
		return lfs_fail(error, -EBADMSG, "character device 0:0 (it would act as a whiteout)");
	if (attr->major > MAJOR_MAX || attr->minor > MINOR_MAX)
		return lfs_fail(error, -EBADMSG, "device number out of range");
	node->device = (attr->minor & 0xff) | attr->major << 8 | (attr->minor & ~0xffu) << 12;
	return 0;
}

static int set_target(struct lfs_tree *tree, struct lfs_node *node, struct lfs_bytes target, struct lfs_error *error)
{
	if (!target.size || target.size > LFS_TARGET_MAX)
		return lfs_fail(error, -EBADMSG, "symbolic link target of %zu bytes", target.size);
	node->size = target.size;
	node->text = lfs_tree_copy(tree, target.data, target.size);
	return node->text ? 0 : lfs_tree_fail(error, -ENOMEM);
}

static int set_attributes(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_attr *attr, struct lfs_error *error)
{
	if (!lfs_file_type(attr->mode) || attr->mode > UINT16_MAX || attr->mtime_nsec > 999999999)
		return lfs_fail(error, -EINVAL, "bad mode or time");
	node->mode = (uint16_t)attr->mode;
	node->uid = attr->uid;
	node->gid = attr->gid;
	node->mtime = attr->mtime;
	node->mtime_nsec = attr->mtime_nsec;
	return lfs_tree_set_xattrs(tree, node, attr->xattrs, attr->xattr_count, error);
}

static int fill_node(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_attr *attr, const struct lfs_content *content,
		     struct lfs_bytes target, struct lfs_error *error)
{
	int rc = set_attributes(tree, node, attr, error);
	if (rc < 0)
		return rc;
	switch (attr->mode & S_IFMT) {
	case S_IFREG:
		return lfs_tree_set_content(tree, node, content, error);
	case S_IFLNK:
		return set_target(tree, node, target, error);
	case S_IFCHR:
	case S_IFBLK:
		return set_device(node, attr, error);
	default:
		return 0;
	}
}

/* An entry for a directory that is there: its attributes change, its children stay. */
static int update_directory(struct lfs_tree *tree, uint32_t number, const struct lfs_attr *attr, struct lfs_error *error)
{
	struct lfs_node *node = lfs_node_at(tree, number);
	node->flags &= (uint8_t)~LFS_NODE_IMPLICIT;
	return set_attributes(tree, node, attr, error);
}

int lfs_tree_put(struct lfs_tree *tree, struct lfs_bytes path, const struct lfs_attr *attr, const struct lfs_content *content,
		 struct lfs_bytes target, struct lfs_error *error)
{
	bool is_directory = S_ISDIR(attr->mode);
	if (!path.size)
		return is_directory ? update_directory(tree, LFS_ROOT, attr, error)
				    : lfs_fail(error, -EBADMSG, "the root is not a directory");
	uint32_t directory, number, name;
	struct lfs_bytes base;
	int rc = walk_to_parent(tree, path, &directory, &base, error);
	if (rc < 0)
		return rc;
	name = lfs_name_find(tree, directory, base);
	if (is_directory && name != LFS_NONE && lfs_node_is_directory(lfs_node_at(tree, lfs_name_at(tree, name)->node)))
		return update_directory(tree, lfs_name_at(tree, name)->node, attr, error);
	if ((rc = lfs_node_new(tree, attr->mode, &number)) < 0)
		return lfs_tree_fail(error, rc);
	if ((rc = fill_node(tree, lfs_node_at(tree, number), attr, content, target, error)) < 0)
		return rc;
	rc = name != LFS_NONE ? lfs_name_set(tree, name, number) : lfs_name_add(tree, directory, base, number, NULL);
	lfs_tree_bury(tree);
	return rc < 0 ? lfs_tree_fail(error, rc) : 0;
}

/* --- hard links --- */

/* Appends the parts of text to a clean path by text alone; returns the new size. The buffer has room. */
static size_t clean_append(char *path, size_t size, const char *text, const char *end)
{
	while (text < end) {
		const char *slash = memchr(text, '/', (size_t)(end - text));
		struct lfs_bytes part = {text, (size_t)((slash ? slash : end) - text)};
		text = slash ? slash + 1 : end;
		if (part.size == 2 && lfs_is_dots(part)) {
			const char *last = size ? memrchr(path, '/', size) : NULL;
			size = last ? (size_t)(last - path) : 0;
		} else if (part.size && !lfs_is_dots(part)) {
			if (size)
				path[size++] = '/';
			memcpy(path + size, part.data, part.size);
			size += part.size;
		}
	}
	return size;
}

static size_t directory_path(const struct lfs_tree *tree, uint32_t directory, char *path)
{
	size_t size = 0;
	for (uint32_t at = directory; at != LFS_ROOT; at = lfs_tree_parent(tree, at))
		size += lfs_name_at(tree, lfs_node_at(tree, at)->directory.self)->size + 1u;
	if (!path || !size)
		return size ? size - 1 : 0;
	char *end = path + size - 1;
	for (uint32_t at = directory; at != LFS_ROOT; at = lfs_tree_parent(tree, at)) {
		const struct lfs_name *name = lfs_name_at(tree, lfs_node_at(tree, at)->directory.self);
		end -= name->size;
		memcpy(end, name->text, name->size);
		if (end > path)
			*--end = '/';
	}
	return size - 1;
}

/* A placeholder for a link whose target this layer does not have: where the walk stopped, the parts not walked, the base. */
static int link_placeholder(struct lfs_tree *tree, const struct lfs_walk *walk, struct lfs_bytes base, uint32_t *number,
			    struct lfs_error *error)
{
	size_t room = directory_path(tree, walk->directory, NULL) + base.size + 2;
	for (unsigned i = 0; i < walk->depth; i++)
		room += (size_t)(walk->rest[i].end - walk->rest[i].at) + 1;
	char *path = malloc(room);
	if (!path)
		return lfs_tree_fail(error, -ENOMEM);
	size_t size = directory_path(tree, walk->directory, path);
	for (unsigned i = walk->depth; i--;)
		size = clean_append(path, size, walk->rest[i].at, walk->rest[i].end);
	size = clean_append(path, size, base.data, (const char *)base.data + base.size);
	int rc = 0;
	if (!size || size > LFS_PATH_MAX)
		rc = lfs_fail(error, -EBADMSG, size ? "hard link target longer than 4095 bytes" : "hard link to the root");
	else if ((rc = lfs_node_new(tree, S_IFREG, number)) < 0)
		lfs_tree_fail(error, rc);
	if (!rc) {
		struct lfs_node *node = lfs_node_at(tree, *number);
		node->flags = LFS_NODE_LINK;
		node->size = size;
		node->text = lfs_tree_copy(tree, path, size);
		if (!node->text)
			rc = lfs_tree_fail(error, -ENOMEM);
	}
	free(path);
	return rc;
}

static int link_target(struct lfs_tree *tree, struct lfs_bytes target, uint32_t *number, struct lfs_error *error)
{
	struct lfs_walk walk;
	struct lfs_bytes base;
	lfs_walk_start(&walk, LFS_ROOT, split_path(target, &base));
	if (!base.size)
		return lfs_fail(error, -EBADMSG, "hard link to the root");
	int rc = lfs_walk_run(tree, &walk, LFS_WALK_LOOK, error);
	if (rc < 0)
		return rc;
	uint32_t name = rc || base.size > LFS_NAME_MAX ? LFS_NONE : lfs_name_find(tree, walk.directory, base);
	if (name == LFS_NONE || lfs_node_at(tree, lfs_name_at(tree, name)->node)->flags & LFS_NODE_WHITEOUT)
		return link_placeholder(tree, &walk, base, number, error);
	*number = lfs_name_at(tree, name)->node;
	if (lfs_node_is_directory(lfs_node_at(tree, *number)))
		return lfs_fail(error, -EBADMSG, "hard link to a directory: %.*s", (int)(target.size < 400 ? target.size : 400),
				(const char *)target.data);
	return 0;
}

static int link_name(struct lfs_tree *tree, struct lfs_bytes path, uint32_t number, struct lfs_error *error)
{
	uint32_t directory;
	struct lfs_bytes base;
	int rc = walk_to_parent(tree, path, &directory, &base, error);
	if (rc < 0)
		return rc;
	uint32_t name = lfs_name_find(tree, directory, base);
	if (name == LFS_NONE)
		rc = lfs_name_add(tree, directory, base, number, NULL);
	else if (lfs_name_at(tree, name)->node != number)
		rc = lfs_name_set(tree, name, number);
	return rc < 0 ? lfs_tree_fail(error, rc) : 0;
}

int lfs_tree_link(struct lfs_tree *tree, struct lfs_bytes path, struct lfs_bytes target, struct lfs_error *error)
{
	if (!path.size)
		return lfs_fail(error, -EBADMSG, "the root as a hard link");
	uint32_t number;
	int rc = link_target(tree, target, &number, error);
	if (rc < 0)
		return rc;
	lfs_node_at(tree, number)->names++; /* a hold: making the parents may remove the target's name */
	rc = link_name(tree, path, number, error);
	lfs_node_drop(tree, number);
	lfs_tree_bury(tree);
	return rc;
}

/* --- markers --- */

int lfs_tree_whiteout(struct lfs_tree *tree, struct lfs_bytes directory, struct lfs_bytes name, struct lfs_error *error)
{
	struct lfs_walk walk;
	lfs_walk_start(&walk, LFS_ROOT, directory);
	int rc = check_name(name, error);
	if (!rc)
		rc = lfs_walk_run(tree, &walk, LFS_WALK_MARK, error);
	if (rc)
		return rc == 1 ? 0 : rc; /* below another kind of file: nothing is there to hide */
	uint32_t number = lfs_name_find(tree, walk.directory, name), node;
	if (number == LFS_NONE) {
		if ((rc = lfs_node_new(tree, S_IFCHR, &node)) < 0)
			return lfs_tree_fail(error, rc);
		lfs_node_at(tree, node)->flags = LFS_NODE_WHITEOUT;
		if ((rc = lfs_name_add(tree, walk.directory, name, node, &number)) < 0)
			return lfs_tree_fail(error, rc);
	}
	lfs_name_at(tree, number)->hidden = true;
	tree->has_whiteouts = true;
	return 0;
}

int lfs_tree_opaque(struct lfs_tree *tree, struct lfs_bytes directory, struct lfs_error *error)
{
	struct lfs_walk walk;
	lfs_walk_start(&walk, LFS_ROOT, directory);
	int rc = lfs_walk_run(tree, &walk, LFS_WALK_MARK, error);
	if (!rc)
		lfs_node_at(tree, walk.directory)->flags |= LFS_NODE_OPAQUE;
	return rc == 1 ? 0 : rc;
}
