/* What goes to the content table and the device table: docs/format.md, "Order" and "Superblock". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "erofs_layout.h"

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
			return lfs_tree_fail(error, -ENOMEM);
	}
	size_t count = layout->tree->pack_count ? layout->tree->pack_count : 1;
	layout->devices = calloc(count, sizeof *layout->devices);
	layout->slots = calloc(count, sizeof *layout->slots);
	return layout->devices && layout->slots ? 0 : lfs_tree_fail(error, -ENOMEM);
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
	int rc = set.slots && layout->extra ? gather_extra(layout, &set, extra, extra_count) : lfs_tree_fail(error, -ENOMEM);
	free(set.slots);
	return rc;
}

static int compare_devices(const void *left, const void *right)
{
	const struct lfs_device *a = left, *b = right;
	return (a->pack > b->pack) - (a->pack < b->pack);
}

int lfs_layout_contents(struct lfs_layout *layout, const struct lfs_content *extra, size_t extra_count, struct lfs_error *error)
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
