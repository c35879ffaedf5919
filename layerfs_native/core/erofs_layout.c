/* The order, numbers and places of inodes: docs/format.md, "Order" and "Inodes". */
#define _GNU_SOURCE /* qsort_r */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "erofs_layout.h"

static int no_memory(struct lfs_error *error)
{
	return lfs_fail(error, -ENOMEM, "out of memory");
}

static int too_big(struct lfs_error *error)
{
	return lfs_fail(error, -EFBIG, "tree too big for its format");
}

void lfs_layout_free(struct lfs_layout *layout)
{
	free(layout->order);
	free(layout->lists);
	free(layout->extra);
	free(layout->devices);
	free(layout->slots);
}

/* --- breadth first --- */

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

static int order_nodes(struct lfs_layout *layout)
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

/* --- places --- */

uint32_t lfs_layout_block(const struct lfs_layout *layout, const uint32_t *list, uint32_t count, uint32_t from, uint32_t *used)
{
	uint32_t size = 0, at = from;
	for (; at < count; at++) {
		uint32_t more = EROFS_DIRENT_SIZE + (uint32_t)lfs_layout_name(layout, list[at]).size;
		if (size + more > LFS_BLOCK)
			break;
		size += more;
	}
	*used = size;
	return at;
}

static uint32_t directory_tail(const struct lfs_layout *layout, struct lfs_node *node, uint64_t *blocks)
{
	const uint32_t *list = layout->lists + node->directory.list;
	uint32_t used = 0;
	*blocks = 0;
	for (uint32_t at = 0; at < list[0]; ++*blocks)
		at = lfs_layout_block(layout, list + 1, list[0], at, &used);
	node->size = (*blocks - 1) * LFS_BLOCK + used;
	return used;
}

struct place {
	uint64_t meta, data; /* cursors */
};

static int place_node(const struct lfs_layout *layout, struct lfs_node *node, struct place *place)
{
	size_t split, entries = lfs_xattr_layout(node, lfs_layout_opaque(layout, node), lfs_layout_implicit(layout, node), &split);
	if (entries > LFS_XATTRS_MAX)
		return -EBADMSG;
	uint64_t head = EROFS_INODE_SIZE + (entries ? EROFS_XATTR_HEADER + entries : 0), extent = head, blocks = 0;
	uint32_t tail = 0;
	node->layout = EROFS_PLAIN;
	if (lfs_node_is_directory(node)) {
		tail = directory_tail(layout, node, &blocks);
	} else if (S_ISLNK(node->mode)) {
		tail = (uint32_t)node->size;
		blocks = 1;
	} else if (node->flags & LFS_NODE_CONTENT) {
		node->layout = EROFS_CHUNKED;
		extent = lfs_round_up(head, EROFS_CHUNK_INDEX_SIZE) +
			 EROFS_CHUNK_INDEX_SIZE * lfs_chunk_count(node->size, lfs_chunk_bits(node->size));
	}
	uint64_t at = lfs_round_up(place->meta, EROFS_SLOT);
	if (tail && head + tail <= LFS_BLOCK) {
		node->layout = EROFS_INLINE;
		extent = head + tail;
		blocks--;
		if (at % LFS_BLOCK + extent > LFS_BLOCK)
			at = lfs_round_up(at, LFS_BLOCK);
	}
	if (at / EROFS_SLOT >= LFS_NONE || place->data + blocks >= LFS_NONE)
		return -EFBIG;
	node->position = (uint32_t)(at / EROFS_SLOT);
	node->data = blocks ? (uint32_t)place->data : LFS_NONE;
	place->meta = at + extent;
	place->data += blocks;
	return 0;
}

static int place_nodes(struct lfs_layout *layout, struct lfs_error *error)
{
	struct place place = {(uint64_t)LFS_ROOT_NID * EROFS_SLOT, 0};
	uint32_t with_content = 0, without = layout->content_count;
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		struct lfs_node *node = lfs_node_at(layout->tree, layout->order[i]);
		node->ino = node->flags & LFS_NODE_CONTENT ? ++with_content : ++without;
		if (layout->merged && node->flags & (LFS_NODE_WHITEOUT | LFS_NODE_LINK))
			return lfs_fail(error, -EINVAL, "a merged tree with marks of a layer");
		int rc = place_node(layout, node, &place);
		if (rc == -EBADMSG)
			return lfs_fail(error, rc, "extended attributes of one file larger than 262128 bytes");
		if (rc < 0)
			return too_big(error);
	}
	layout->meta_size = place.meta;
	layout->data_blocks = place.data;
	return 0;
}

/* --- contents and packs --- */

/* A set of identities, open addressing. They are digests: already mixed. */
struct identity_set {
	const uint8_t **slots;
	size_t mask;
};

static bool set_insert(struct identity_set *set, const uint8_t *identity) /* false: was there */
{
	uint64_t at;
	memcpy(&at, identity + 8, sizeof at);
	for (;; at++) {
		const uint8_t **slot = &set->slots[at & set->mask];
		if (!*slot) {
			*slot = identity;
			return true;
		}
		if (!memcmp(*slot, identity, LFS_ID_SIZE))
			return false;
	}
}

static int compare_identities(const void *left, const void *right)
{
	return memcmp(*(const uint8_t *const *)left, *(const uint8_t *const *)right, LFS_ID_SIZE);
}

static int use_pack(struct lfs_layout *layout, uint32_t number, uint32_t block, uint64_t size)
{
	uint64_t end = block + (size + LFS_BLOCK - 1) / LFS_BLOCK;
	if (!layout->slots[number]) {
		layout->slots[number] = ++layout->device_count;
		layout->devices[layout->device_count - 1] = (struct lfs_device){.pack = layout->tree->packs[number], .number = number};
	}
	struct lfs_device *device = &layout->devices[layout->slots[number] - 1];
	if (end > device->blocks)
		device->blocks = (uint32_t)end;
	return 0;
}

static int room_for_packs(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
{
	uint32_t number;
	for (size_t i = 0; i < extra_count; i++) {
		if (extra[i].kind != LFS_KIND_PACK)
			continue;
		if (!extra[i].size || extra[i].size > LFS_PACK_MAX || extra[i].block > LFS_NONE - 1 - LFS_PACK_MAX / LFS_BLOCK)
			return lfs_fail(error, -EINVAL, "content of an impossible size or place");
		if (lfs_tree_pack(layout->tree, extra[i].pack, &number) < 0)
			return no_memory(error);
	}
	size_t count = layout->tree->pack_count ? layout->tree->pack_count : 1;
	layout->devices = calloc(count, sizeof *layout->devices);
	layout->slots = calloc(count, sizeof *layout->slots);
	return layout->devices && layout->slots ? 0 : no_memory(error);
}

static int gather_extra(struct lfs_layout *layout, struct identity_set *set, const struct lfs_content *extra, size_t extra_count)
{
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		const struct lfs_node *node = lfs_node_at(layout->tree, layout->order[i]);
		if (node->flags & LFS_NODE_CONTENT)
			set_insert(set, node->content.identity);
	}
	for (size_t i = 0; i < extra_count; i++) {
		if (extra[i].kind == LFS_KIND_NONE || !set_insert(set, extra[i].identity))
			continue;
		layout->extra[layout->extra_count++] = extra[i].identity;
		uint32_t number;
		if (extra[i].kind == LFS_KIND_PACK) {
			lfs_tree_pack(layout->tree, extra[i].pack, &number); /* there since room_for_packs() */
			use_pack(layout, number, extra[i].block, extra[i].size);
		}
	}
	qsort(layout->extra, layout->extra_count, sizeof *layout->extra, compare_identities);
	return 0;
}

static int add_extra(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
{
	if (!extra_count)
		return 0;
	size_t room = 64;
	while (room < 2 * (layout->content_count + extra_count))
		room *= 2;
	struct identity_set set = {calloc(room, sizeof *set.slots), room - 1};
	layout->extra = malloc(extra_count * sizeof *layout->extra);
	int rc = set.slots && layout->extra ? gather_extra(layout, &set, extra, extra_count) : no_memory(error);
	free(set.slots);
	return rc;
}

static int compare_devices(const void *left, const void *right)
{
	const struct lfs_device *a = left, *b = right;
	return (a->pack > b->pack) - (a->pack < b->pack);
}

static int find_contents(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
{
	int rc = room_for_packs(layout, extra, extra_count, error);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		const struct lfs_node *node = lfs_node_at(layout->tree, layout->order[i]);
		if (node->flags & LFS_NODE_PACKED)
			use_pack(layout, node->content.pack, node->content.block, node->size);
	}
	if ((rc = add_extra(layout, extra, extra_count, error)) < 0)
		return rc;
	if (layout->device_count > EROFS_DEVICES_MAX)
		return lfs_fail(error, -EFBIG, "contents in more than 65535 packs");
	qsort(layout->devices, layout->device_count, sizeof *layout->devices, compare_devices);
	for (uint32_t i = 0; i < layout->device_count; i++)
		layout->slots[layout->devices[i].number] = i + 1;
	return 0;
}

int lfs_layout_make(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
{
	int rc = order_nodes(layout);
	if (rc < 0)
		return rc == -EFBIG ? too_big(error) : no_memory(error);
	if ((rc = find_contents(layout, extra, extra_count, error)) < 0 || (rc = place_nodes(layout, error)) < 0)
		return rc;
	layout->meta = lfs_round_up(EROFS_DEVICES_AT + (uint64_t)EROFS_DEVICE_SIZE * layout->device_count, LFS_BLOCK);
	layout->data = layout->meta + lfs_round_up(layout->meta_size, LFS_BLOCK);
	layout->table = layout->data + layout->data_blocks * LFS_BLOCK;
	layout->size = layout->table + lfs_round_up((layout->content_count + layout->extra_count) * LFS_ID_SIZE, LFS_BLOCK);
	return layout->size / LFS_BLOCK >= LFS_NONE ? too_big(error) : 0;
}
