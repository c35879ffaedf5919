/* The order of inodes, breadth first, and the sorted lists of directories: docs/format.md, "Order". */
#define _GNU_SOURCE /* qsort_r */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_layout.h"

struct lfs_bytes lfs_layout_name(const struct lfs_layout *layout, uint32_t listed)
{
	if (listed == LFS_LIST_DOT || listed == LFS_LIST_DOTDOT)
		return (struct lfs_bytes){"..", listed == LFS_LIST_DOT ? 1 : 2};
	const struct lfs_name *name = lfs_name_at(layout->tree, listed);
	return (struct lfs_bytes){name->text, name->size};
}

static int compare_names(const void *left, const void *right, void *context)
{
	struct lfs_bytes a = lfs_layout_name(context, *(const uint32_t *)left);
	struct lfs_bytes b = lfs_layout_name(context, *(const uint32_t *)right);
	size_t common = a.size < b.size ? a.size : b.size;
	int order = memcmp(a.data, b.data, common);
	return order ? order : (a.size > b.size) - (a.size < b.size);
}

static int list_reserve(struct lfs_layout *layout, size_t more)
{
	if (layout->list_room - layout->list_used >= more)
		return 0;
	size_t room = layout->list_room + layout->list_room / 2 + more;
	uint32_t *grown = realloc(layout->lists, room * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	layout->lists = grown;
	layout->list_room = room;
	return 0;
}

/* Members of a tar, and of trees being merged, mostly come sorted; then there is nothing to do. */
static void sort_list(struct lfs_layout *layout, uint32_t *list, uint32_t count)
{
	for (uint32_t i = 1; i < count; i++) {
		if (compare_names(&list[i - 1], &list[i], layout) > 0) {
			qsort_r(list, count, sizeof *list, compare_names, layout);
			return;
		}
	}
}

static void insert_dots(struct lfs_layout *layout, uint32_t *list, uint32_t count)
{
	static const uint32_t dots[2] = {LFS_LIST_DOTDOT, LFS_LIST_DOT};
	for (unsigned i = 0; i < 2; i++) { /* the later one first */
		uint32_t low = 0, high = count;
		while (low < high) {
			uint32_t middle = low + (high - low) / 2;
			if (compare_names(&list[middle], &dots[i], layout) < 0)
				low = middle + 1;
			else
				high = middle;
		}
		memmove(list + low + 1, list + low, (count - low) * sizeof *list);
		list[low] = dots[i];
		count++;
	}
}

static int list_children(struct lfs_layout *layout, struct lfs_node *directory)
{
	uint32_t count = 0;
	for (uint32_t at = directory->directory.first; at != LFS_NONE; at = lfs_name_at(layout->tree, at)->next)
		count++;
	int rc = list_reserve(layout, (size_t)count + 3);
	if (rc < 0)
		return rc;
	if (layout->list_used + count + 3 > LFS_LIST_DOTDOT)
		return -EFBIG;
	directory->directory.list = (uint32_t)layout->list_used;
	uint32_t *list = layout->lists + layout->list_used;
	layout->list_used += (size_t)count + 3;
	*list++ = count + 2;
	uint32_t filled = 0;
	for (uint32_t at = directory->directory.first; at != LFS_NONE; at = lfs_name_at(layout->tree, at)->next)
		list[filled++] = at;
	sort_list(layout, list, count);
	insert_dots(layout, list, count);
	return 0;
}

static int reset_numbers(struct lfs_layout *layout)
{
	struct lfs_tree *tree = layout->tree;
	layout->order = malloc(((size_t)tree->name_count + 1) * sizeof *layout->order);
	layout->list_room = (size_t)tree->name_count + tree->name_count / 4 + 64;
	layout->lists = malloc(layout->list_room * sizeof *layout->lists);
	if (!layout->order || !layout->lists)
		return -ENOMEM;
	for (uint32_t i = 0; i < tree->nodes.used; i++)
		lfs_node_at(tree, i)->ino = 0;
	return 0;
}

static void number_node(struct lfs_layout *layout, uint32_t number)
{
	struct lfs_node *node = lfs_node_at(layout->tree, number);
	if (node->ino)
		return; /* another of its names came before */
	node->ino = 1;
	layout->order[layout->inode_count++] = number;
	layout->content_count += (node->flags & LFS_NODE_CONTENT) != 0;
	if (S_ISREG(node->mode) && !(node->flags & LFS_NODE_LINK))
		layout->stats.content_size += node->size;
}

int lfs_layout_order(struct lfs_layout *layout)
{
	struct lfs_tree *tree = layout->tree;
	int rc = reset_numbers(layout);
	if (rc < 0)
		return rc;
	number_node(layout, LFS_ROOT);
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		struct lfs_node *node = lfs_node_at(tree, layout->order[i]);
		if (!lfs_node_is_directory(node))
			continue;
		if ((rc = list_children(layout, node)) < 0)
			return rc;
		const uint32_t *list = layout->lists + node->directory.list;
		for (uint32_t j = 1; j <= list[0]; j++) {
			if (list[j] >= LFS_LIST_DOTDOT)
				continue;
			uint32_t child = lfs_name_at(tree, list[j])->node;
			layout->stats.unresolved_links += (lfs_node_at(tree, child)->flags & LFS_NODE_LINK) != 0;
			number_node(layout, child);
		}
	}
	layout->stats.entries = tree->name_count;
	return 0;
}
