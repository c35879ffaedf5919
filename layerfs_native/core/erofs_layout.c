/* Numbers and places of inodes: docs/format.md, "Inodes". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "erofs_layout.h"

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

#define ROOT_AT ((uint64_t)LFS_ROOT_NID * EROFS_SLOT)

struct place {
	uint64_t meta, data; /* cursors */
};

/* What an inode whose tail is inline may take: a block, into which it can be moved; but the root has to stay where it is. */
static uint64_t room_of(uint64_t at)
{
	return at == ROOT_AT ? LFS_BLOCK - at : LFS_BLOCK;
}

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
	if (tail && head + tail <= room_of(at)) {
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
	struct place place = {ROOT_AT, 0};
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

int lfs_layout_make(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
{
	int rc = lfs_layout_order(layout);
	if (rc < 0)
		return rc == -EFBIG ? too_big(error) : lfs_tree_fail(error, rc);
	if ((rc = lfs_layout_contents(layout, extra, extra_count, error)) < 0 || (rc = place_nodes(layout, error)) < 0)
		return rc;
	layout->meta = lfs_round_up(EROFS_DEVICES_AT + (uint64_t)EROFS_DEVICE_SIZE * layout->device_count, LFS_BLOCK);
	layout->data = layout->meta + lfs_round_up(layout->meta_size, LFS_BLOCK);
	layout->table = layout->data + layout->data_blocks * LFS_BLOCK;
	layout->size = layout->table + lfs_round_up((layout->content_count + layout->extra_count) * LFS_ID_SIZE, LFS_BLOCK);
	return layout->size / LFS_BLOCK >= LFS_NONE ? too_big(error) : 0;
}
