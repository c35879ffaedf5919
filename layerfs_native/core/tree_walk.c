/* Following a path to a directory in the tree: never out of the root, 40 symlinks at most, no recursion. */
#include <errno.h>
#include <string.h>

#include "tree_internal.h"

void lfs_walk_start(struct lfs_walk *walk, uint32_t directory, struct lfs_bytes path)
{
	walk->directory = directory;
	walk->hops = 0;
	walk->depth = 1;
	walk->rest[0].at = path.data;
	walk->rest[0].end = (const char *)path.data + path.size;
}

int lfs_walk_follow(struct lfs_walk *walk, const struct lfs_node *symlink, struct lfs_error *error)
{
	if (++walk->hops > LFS_HOPS_MAX)
		return lfs_fail(error, -EBADMSG, "more than %d symbolic links on the way", LFS_HOPS_MAX);
	while (walk->depth && walk->rest[walk->depth - 1].at == walk->rest[walk->depth - 1].end)
		walk->depth--;
	if (symlink->text[0] == '/')
		walk->directory = LFS_ROOT;
	walk->rest[walk->depth].at = symlink->text;
	walk->rest[walk->depth].end = symlink->text + symlink->size;
	walk->depth++;
	return 0;
}

/* The next part of the path that is neither empty nor "."; false at the end. */
static bool next_part(struct lfs_walk *walk, struct lfs_bytes *part)
{
	while (walk->depth) {
		const char **at = &walk->rest[walk->depth - 1].at, *end = walk->rest[walk->depth - 1].end;
		while (*at < end) {
			const char *slash = memchr(*at, '/', (size_t)(end - *at));
			const char *stop = slash ? slash : end;
			*part = (struct lfs_bytes){*at, (size_t)(stop - *at)};
			*at = slash ? slash + 1 : end;
			if (part->size && !(part->size == 1 && *(const char *)part->data == '.'))
				return true;
		}
		walk->depth--;
	}
	return false;
}

int lfs_walk_make(struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text, uint32_t found, uint32_t *node)
{
	int rc = lfs_node_new(tree, S_IFDIR | 0755, node);
	if (rc < 0)
		return rc;
	lfs_node_at(tree, *node)->flags = LFS_NODE_IMPLICIT;
	if (found == LFS_NONE)
		return lfs_name_add(tree, directory, text, *node, NULL);
	return lfs_name_set(tree, found, *node);
}

/* One named part. 0: walked; 1: stopped at it; or -errno. */
static int step(struct lfs_tree *tree, struct lfs_walk *walk, struct lfs_bytes part, enum lfs_walk_mode mode, struct lfs_error *error)
{
	uint32_t found = part.size > LFS_NAME_MAX ? LFS_NONE : lfs_name_find(tree, walk->directory, part);
	if (found != LFS_NONE) {
		uint32_t number = lfs_name_at(tree, found)->node;
		const struct lfs_node *node = lfs_node_at(tree, number);
		if (S_ISDIR(node->mode)) {
			walk->directory = number;
			return 0;
		}
		if (S_ISLNK(node->mode))
			return lfs_walk_follow(walk, node, error);
		if (mode == LFS_WALK_MARK && !(node->flags & LFS_NODE_WHITEOUT))
			return 1;
	}
	if (mode == LFS_WALK_LOOK)
		return 1;
	if (part.size > LFS_NAME_MAX)
		return lfs_fail(error, -EBADMSG, "name longer than 255 bytes");
	int rc = lfs_walk_make(tree, walk->directory, part, found, &walk->directory);
	return rc < 0 ? lfs_tree_fail(error, rc) : 0;
}

int lfs_walk_run(struct lfs_tree *tree, struct lfs_walk *walk, enum lfs_walk_mode mode, struct lfs_error *error)
{
	struct lfs_bytes part;
	while (next_part(walk, &part)) {
		if (part.size == 2 && !memcmp(part.data, "..", 2)) {
			walk->directory = lfs_tree_parent(tree, walk->directory);
			continue;
		}
		unsigned depth = walk->depth;
		int rc = step(tree, walk, part, mode, error);
		if (rc) {
			if (rc == 1)
				walk->rest[depth - 1].at = part.data;
			return rc;
		}
	}
	return 0;
}
