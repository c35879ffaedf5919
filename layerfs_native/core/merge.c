/* Folding layer trees into a merged tree: docs/format.md, "Merging". All in memory, written once at the end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "tree_source.h"

/* An implicit directory of the layer that met a symlink: applied after the rest of the layer. */
struct aside {
	uint64_t nid;
	uint32_t directory; /* where the symlink is */
	struct lfs_bytes name;
};

struct merge {
	struct lfs_source source;
	struct aside *aside;
	size_t aside_count, aside_room;
};

static int broken_link(const struct merge *merge, struct lfs_bytes path, const char *why)
{
	return lfs_fail(merge->source.error, -EBADMSG, "hard link to %.*s: %s", (int)(path.size < 300 ? path.size : 300),
			(const char *)path.data, why);
}

/* --- before the layer: its links, and which implicit directories make anything --- */

static int find_target(struct merge *merge, struct lfs_bytes path, uint32_t *node)
{
	struct lfs_tree *tree = merge->source.tree;
	const char *text = path.data;
	size_t start = path.size;
	while (start && text[start - 1] != '/')
		start--;
	struct lfs_bytes base = {text + start, path.size - start};
	struct lfs_walk walk;
	lfs_walk_start(&walk, LFS_ROOT, (struct lfs_bytes){text, start});
	int rc = lfs_walk_run(tree, &walk, LFS_WALK_LOOK, merge->source.error);
	if (rc < 0)
		return rc;
	uint32_t name = rc || base.size > LFS_NAME_MAX ? LFS_NONE : lfs_name_find(tree, walk.directory, base);
	if (name == LFS_NONE)
		return broken_link(merge, path, "no such file in the layers below");
	*node = lfs_name_at(tree, name)->node;
	if (lfs_node_is_directory(lfs_node_at(tree, *node)))
		return broken_link(merge, path, "it is a directory");
	return 0;
}

static int resolve_link(struct merge *merge, uint64_t nid, struct lfs_bytes path)
{
	uint32_t node = LFS_NONE;
	if (lfs_source_mapped(&merge->source, nid) != LFS_NONE)
		return 0;
	int rc = find_target(merge, path, &node);
	return rc < 0 ? rc : lfs_source_map(&merge->source, nid, node);
}

/* Something was found below the innermost directory: all implicit ones above it make something. */
static void mark_frames(struct lfs_source *source)
{
	for (size_t i = source->frame_count; i-- && !lfs_bit(source->lays, source->frames[i].nid);)
		lfs_bit_set(source->lays, source->frames[i].nid);
}

static int survey(struct merge *merge)
{
	struct lfs_source *source = &merge->source;
	struct lfs_dirent entry;
	struct lfs_inode inode;
	struct lfs_image_marks marks;
	int rc = lfs_source_enter(source, LFS_ROOT_NID, 0);
	while (!rc && !(rc = lfs_source_next(source, &entry, &inode))) {
		if (lfs_image_marks(&source->image, &inode, &marks) < 0)
			return lfs_source_damaged(source, "extended attributes");
		if (!marks.whiteout && !marks.implicit)
			mark_frames(source);
		if (marks.link)
			rc = resolve_link(merge, inode.nid, marks.path);
		else if (S_ISDIR(inode.mode))
			rc = lfs_source_enter(source, inode.nid, 0);
	}
	lfs_source_rewind(source);
	return rc < 0 ? rc : 0;
}

/* --- applying --- */

static int set_name(struct lfs_source *source, uint32_t directory, struct lfs_bytes text, uint32_t found, uint32_t node)
{
	int rc = 0;
	if (found == LFS_NONE)
		rc = lfs_name_add(source->tree, directory, text, node, NULL);
	else if (lfs_name_at(source->tree, found)->node != node)
		rc = lfs_name_set(source->tree, found, node);
	return rc < 0 ? lfs_source_fail(source, rc) : 0;
}

static int put_aside(struct merge *merge, uint32_t directory, struct lfs_bytes name, uint64_t nid)
{
	if (merge->aside_count == merge->aside_room) {
		size_t room = merge->aside_room ? 2 * merge->aside_room : 16;
		struct aside *grown = realloc(merge->aside, room * sizeof *grown);
		if (!grown)
			return lfs_source_fail(&merge->source, -ENOMEM);
		merge->aside = grown;
		merge->aside_room = room;
	}
	merge->aside[merge->aside_count++] = (struct aside){nid, directory, name};
	return 0;
}

/* The layer's directory goes onto a directory of the tree. */
static int enter_directory(struct merge *merge, uint32_t number, const struct lfs_inode *inode, const struct lfs_image_marks *marks)
{
	struct lfs_source *source = &merge->source;
	int rc = marks->implicit ? 0 : lfs_source_attributes(source, inode, lfs_node_at(source->tree, number));
	if (rc < 0)
		return rc;
	if (marks->opaque)
		lfs_tree_empty(source->tree, number);
	return lfs_source_enter(source, inode->nid, number);
}

static int apply_directory(struct merge *merge, uint32_t directory, struct lfs_bytes name, const struct lfs_inode *inode,
			   const struct lfs_image_marks *marks)
{
	struct lfs_source *source = &merge->source;
	struct lfs_tree *tree = source->tree;
	uint32_t found = lfs_name_find(tree, directory, name), number = LFS_NONE;
	const struct lfs_node *old = NULL;
	if (found != LFS_NONE)
		old = lfs_node_at(tree, number = lfs_name_at(tree, found)->node);
	if (!old || !lfs_node_is_directory(old)) {
		if (marks->implicit && old && S_ISLNK(old->mode))
			return put_aside(merge, directory, name, inode->nid);
		if (marks->implicit && !lfs_bit(source->lays, inode->nid))
			return 0;
		int rc = lfs_walk_make(tree, directory, name, found, &number);
		if (rc < 0)
			return lfs_source_fail(source, rc);
	}
	return enter_directory(merge, number, inode, marks);
}

static int apply_entry(struct merge *merge, uint32_t directory, struct lfs_bytes name, const struct lfs_inode *inode)
{
	struct lfs_source *source = &merge->source;
	struct lfs_image_marks marks = {0};
	if (lfs_image_marks(&source->image, inode, &marks) < 0)
		return lfs_source_damaged(source, "extended attributes");
	if (source->image.merged && (marks.whiteout || marks.opaque || marks.implicit || marks.link))
		return lfs_source_damaged(source, "a merged tree with marks of a layer");
	if (S_ISDIR(inode->mode))
		return apply_directory(merge, directory, name, inode, &marks);
	uint32_t found = lfs_name_find(source->tree, directory, name), node;
	if (marks.whiteout) {
		if (found != LFS_NONE)
			lfs_name_remove(source->tree, found);
		return 0;
	}
	int rc = 0;
	if (marks.link)
		node = lfs_source_mapped(source, inode->nid);
	else
		rc = lfs_source_node(source, inode, &node);
	return rc < 0 ? rc : set_name(source, directory, name, found, node);
}

static int apply_frames(struct merge *merge)
{
	struct lfs_source *source = &merge->source;
	struct lfs_dirent entry;
	struct lfs_inode inode;
	int rc = 0;
	while (!rc && source->frame_count && !(rc = lfs_source_next(source, &entry, &inode)))
		rc = apply_entry(merge, source->frames[source->frame_count - 1].directory, entry.name, &inode);
	return rc < 0 ? rc : 0;
}

/* The directory that the symlink leads to; 1: nowhere, and nothing is to be made. */
static int follow_aside(struct merge *merge, const struct aside *aside, const struct lfs_node *symlink, uint32_t *directory)
{
	struct lfs_source *source = &merge->source;
	struct lfs_walk walk;
	lfs_walk_start(&walk, aside->directory, (struct lfs_bytes){"", 0});
	int rc = lfs_walk_follow(&walk, symlink, source->error);
	if (!rc)
		rc = lfs_walk_run(source->tree, &walk, lfs_bit(source->lays, aside->nid) ? LFS_WALK_MAKE : LFS_WALK_LOOK, source->error);
	*directory = walk.directory;
	return rc;
}

static int apply_aside(struct merge *merge, const struct aside *aside)
{
	struct lfs_source *source = &merge->source;
	struct lfs_inode inode;
	struct lfs_image_marks marks;
	if (lfs_image_inode(&source->image, aside->nid, &inode) < 0 || lfs_image_marks(&source->image, &inode, &marks) < 0)
		return lfs_source_damaged(source, "a directory");
	uint32_t found = lfs_name_find(source->tree, aside->directory, aside->name), directory;
	const struct lfs_node *old = found == LFS_NONE ? NULL : lfs_node_at(source->tree, lfs_name_at(source->tree, found)->node);
	int rc;
	if (!old || !S_ISLNK(old->mode)) /* no longer a symlink */
		rc = apply_directory(merge, aside->directory, aside->name, &inode, &marks);
	else if (!(rc = follow_aside(merge, aside, old, &directory)))
		rc = enter_directory(merge, directory, &inode, &marks);
	if (rc)
		return rc < 0 ? rc : 0;
	return apply_frames(merge);
}

static int apply_root(struct merge *merge)
{
	struct lfs_source *source = &merge->source;
	struct lfs_inode root;
	struct lfs_image_marks marks;
	if (lfs_image_inode(&source->image, LFS_ROOT_NID, &root) < 0 || lfs_image_marks(&source->image, &root, &marks) < 0)
		return lfs_source_damaged(source, "its root");
	int rc = enter_directory(merge, LFS_ROOT, &root, &marks);
	return rc < 0 ? rc : apply_frames(merge);
}

static int apply_tree(struct merge *merge, bool first)
{
	if (merge->source.image.merged && !first)
		return lfs_fail(merge->source.error, -EINVAL, "a merged tree above another");
	int rc = merge->source.image.merged ? 0 : survey(merge);
	if (!rc)
		rc = apply_root(merge);
	for (size_t i = 0; !rc && i < merge->aside_count; i++) {
		struct aside aside = merge->aside[i];
		rc = apply_aside(merge, &aside);
	}
	return rc;
}

int lfs_merge_add(struct lfs_tree *tree, const char *path, bool first, struct lfs_error *error)
{
	struct merge merge = {0};
	int rc = lfs_source_open(&merge.source, tree, path, error);
	if (rc < 0)
		return rc;
	rc = apply_tree(&merge, first);
	free(merge.aside);
	lfs_source_close(&merge.source);
	lfs_tree_bury(tree);
	return rc;
}

int lfs_merge(const char *const *paths, size_t count, const char *out_path, const uint8_t subject[LFS_ID_SIZE],
	      struct lfs_tree_stats *stats, struct lfs_error *error)
{
	struct lfs_tree *tree;
	int rc = lfs_tree_new(&tree);
	if (rc < 0)
		return lfs_fail(error, rc, "out of memory");
	for (size_t i = 0; !rc && i < count; i++)
		rc = lfs_merge_add(tree, paths[i], i == 0, error);
	if (!rc)
		rc = lfs_tree_write(tree, out_path, true, subject, NULL, 0, stats, error);
	lfs_tree_free(tree);
	return rc;
}
