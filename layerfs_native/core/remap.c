/* Rewriting a tree after gc has moved packed files: docs/format.md, "Moving packed files". The tree is read into memory as it
 * is, marks of a layer included, and written again, so the result is what a fresh writer makes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "tree_source.h"

struct remap {
	struct lfs_source source;
	const struct lfs_move *moves;
	size_t move_count;
	uint64_t contents; /* inodes with content */
};

static const struct lfs_move *find_move(const struct remap *remap, uint64_t pack, uint32_t block)
{
	size_t low = 0, high = remap->move_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct lfs_move *move = &remap->moves[middle];
		if (move->old_pack == pack && move->old_block == block)
			return move;
		if (move->old_pack < pack || (move->old_pack == pack && move->old_block < block))
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static int move_content(struct remap *remap, struct lfs_node *node)
{
	struct lfs_tree *tree = remap->source.tree;
	remap->contents++;
	if (!(node->flags & LFS_NODE_PACKED))
		return 0;
	const struct lfs_move *move = find_move(remap, tree->packs[node->content.pack], node->content.block);
	if (!move)
		return 0;
	if (move->new_block > UINT32_MAX - 1 - LFS_PACK_MAX / LFS_BLOCK)
		return lfs_fail(remap->source.error, -EINVAL, "pack block out of range");
	node->content.block = move->new_block;
	int rc = lfs_tree_pack(tree, move->new_pack, &node->content.pack);
	return rc < 0 ? lfs_source_fail(&remap->source, rc) : 0;
}

static int link_node(struct lfs_source *source, const struct lfs_inode *inode, struct lfs_bytes path, uint32_t *number)
{
	if ((*number = lfs_source_mapped(source, inode->nid)) != LFS_NONE)
		return 0;
	int rc = path.size && path.size <= LFS_PATH_MAX ? lfs_node_new(source->tree, S_IFREG, number)
							  : lfs_source_damaged(source, "a link into lower layers");
	if (rc < 0)
		return rc;
	struct lfs_node *node = lfs_node_at(source->tree, *number);
	node->flags = LFS_NODE_LINK;
	node->size = path.size;
	node->text = lfs_tree_copy(source->tree, path.data, path.size);
	return node->text ? lfs_source_map(source, inode->nid, *number) : lfs_source_fail(source, -ENOMEM);
}

static int make_node(struct remap *remap, const struct lfs_inode *inode, const struct lfs_image_marks *marks, uint32_t *number)
{
	struct lfs_source *source = &remap->source;
	if (marks->link)
		return link_node(source, inode, marks->path, number);
	if (marks->whiteout) {
		int rc = lfs_node_new(source->tree, S_IFCHR, number);
		if (rc < 0)
			return lfs_source_fail(source, rc);
		lfs_node_at(source->tree, *number)->flags = LFS_NODE_WHITEOUT;
		return 0;
	}
	bool known = inode->nlink > 1 && !S_ISDIR(inode->mode) && lfs_source_mapped(source, inode->nid) != LFS_NONE;
	int rc = 0;
	if (!S_ISDIR(inode->mode))
		rc = lfs_source_node(source, inode, number);
	else if ((rc = lfs_node_new(source->tree, inode->mode, number)) < 0)
		lfs_source_fail(source, rc);
	else
		rc = lfs_source_attributes(source, inode, lfs_node_at(source->tree, *number));
	if (rc < 0 || known)
		return rc;
	struct lfs_node *node = lfs_node_at(source->tree, *number);
	return node->flags & LFS_NODE_CONTENT ? move_content(remap, node) : 0;
}

static void set_marks(struct lfs_node *node, const struct lfs_image_marks *marks)
{
	node->flags &= (uint8_t) ~(LFS_NODE_OPAQUE | LFS_NODE_IMPLICIT);
	node->flags |= (marks->opaque ? LFS_NODE_OPAQUE : 0) | (marks->implicit ? LFS_NODE_IMPLICIT : 0);
}

static int load_entry(struct remap *remap, struct lfs_bytes name, const struct lfs_inode *inode)
{
	struct lfs_source *source = &remap->source;
	struct lfs_image_marks marks;
	uint32_t directory = source->frames[source->frame_count - 1].directory, number;
	if (lfs_image_marks(&source->image, inode, &marks) < 0)
		return lfs_source_damaged(source, "extended attributes");
	if (source->image.merged && (marks.whiteout || marks.opaque || marks.implicit || marks.link))
		return lfs_source_damaged(source, "a merged tree with marks of a layer");
	if (lfs_name_find(source->tree, directory, name) != LFS_NONE)
		return lfs_source_damaged(source, "a name twice in one directory");
	int rc = make_node(remap, inode, &marks, &number);
	if (rc < 0)
		return rc;
	if ((rc = lfs_name_add(source->tree, directory, name, number, NULL)) < 0)
		return lfs_source_fail(source, rc);
	if (!S_ISDIR(inode->mode))
		return 0;
	set_marks(lfs_node_at(source->tree, number), &marks);
	return lfs_source_enter(source, inode->nid, number);
}

static int load(struct remap *remap)
{
	struct lfs_source *source = &remap->source;
	struct lfs_image_marks marks;
	struct lfs_dirent entry;
	struct lfs_inode inode;
	struct lfs_node *root = lfs_node_at(source->tree, LFS_ROOT);
	int rc = lfs_source_enter(source, LFS_ROOT_NID, LFS_ROOT);
	if (rc < 0)
		return rc;
	inode = source->directory;
	if (lfs_image_marks(&source->image, &inode, &marks) < 0)
		return lfs_source_damaged(source, "extended attributes");
	if ((rc = lfs_source_attributes(source, &inode, root)) < 0)
		return rc;
	set_marks(root, &marks);
	while (!(rc = lfs_source_next(source, &entry, &inode))) {
		if ((rc = load_entry(remap, entry.name, &inode)) < 0)
			return rc;
	}
	return rc < 0 ? rc : 0;
}

/* What only the tar-split record uses is carried over by identity. */
static int write_again(struct remap *remap, const char *out_path)
{
	const struct lfs_image *image = &remap->source.image;
	if (remap->contents > image->table_count)
		return lfs_source_damaged(&remap->source, "its content table");
	size_t count = image->table_count - remap->contents;
	struct lfs_content *extra = calloc(count ? count : 1, sizeof *extra);
	if (!extra)
		return lfs_source_fail(&remap->source, -ENOMEM);
	for (size_t i = 0; i < count; i++) {
		extra[i].kind = LFS_KIND_OBJECT;
		memcpy(extra[i].identity, image->base + image->table + (remap->contents + i) * LFS_ID_SIZE, LFS_ID_SIZE);
	}
	int rc = lfs_tree_write(remap->source.tree, out_path, image->merged, image->subject, extra, count, NULL, remap->source.error);
	free(extra);
	return rc;
}

int lfs_remap(const char *path, const char *out_path, const struct lfs_move *moves, size_t count, struct lfs_error *error)
{
	struct remap remap = {.moves = moves, .move_count = count};
	struct lfs_tree *tree;
	int rc = lfs_tree_new(&tree);
	if (rc < 0)
		return lfs_fail(error, rc, "out of memory");
	rc = lfs_source_open(&remap.source, tree, path, error);
	if (!rc && !(rc = load(&remap))) {
		lfs_source_release(&remap.source);
		rc = write_again(&remap, out_path);
	}
	lfs_source_close(&remap.source);
	lfs_tree_free(tree);
	return rc;
}
