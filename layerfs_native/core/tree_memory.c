/* Memory of the tree: an arena for strings, pages of records, and the table of packs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tree_internal.h"

#define ARENA_BLOCK (256u << 10)

struct lfs_arena_block {
	struct lfs_arena_block *next;
	size_t used, room;
	uint8_t data[] __attribute__((aligned(8)));
};

static struct lfs_arena_block *arena_block(struct lfs_tree *tree, size_t size)
{
	size_t room = size > ARENA_BLOCK / 4 ? size : ARENA_BLOCK - sizeof(struct lfs_arena_block);
	struct lfs_arena_block *block = malloc(sizeof *block + room);
	if (!block)
		return NULL;
	block->used = 0;
	block->room = room;
	struct lfs_arena_block *head = tree->arena;
	if (head && room == size) { /* a big string: what is left of the current block stays in use */
		block->next = head->next;
		head->next = block;
	} else {
		block->next = head;
		tree->arena = block;
	}
	return block;
}

static void *arena_take(struct lfs_tree *tree, size_t size, size_t align)
{
	struct lfs_arena_block *block = tree->arena;
	size_t at = block ? (block->used + align - 1) & ~(align - 1) : 0;
	if (!block || at > block->room || size > block->room - at) {
		block = arena_block(tree, size);
		if (!block)
			return NULL;
		at = 0;
	}
	block->used = at + size;
	return block->data + at;
}

void *lfs_tree_alloc(struct lfs_tree *tree, size_t size)
{
	return arena_take(tree, size, 8);
}

void *lfs_tree_copy(struct lfs_tree *tree, const void *data, size_t size)
{
	void *copy = arena_take(tree, size, 1);
	if (copy && size)
		memcpy(copy, data, size);
	return copy;
}

void lfs_tree_release(struct lfs_tree *tree, const void *data, size_t size)
{
	struct lfs_arena_block *block = tree->arena;
	if (block->data + block->used == (const uint8_t *)data + size)
		block->used -= size;
}

int lfs_pages_take(struct lfs_pages *pages, size_t record, uint32_t *number)
{
	if (pages->used >= UINT32_MAX - 16)
		return -EOVERFLOW;
	if (pages->used >> LFS_PAGE_BITS == pages->page_count) {
		if (!(pages->page_count & (pages->page_count - 1))) { /* full at powers of two */
			size_t room = pages->page_count ? 2 * (size_t)pages->page_count : 1;
			void **grown = realloc(pages->pages, room * sizeof *grown);
			if (!grown)
				return -ENOMEM;
			pages->pages = grown;
		}
		void *page = malloc(record << LFS_PAGE_BITS);
		if (!page)
			return -ENOMEM;
		pages->pages[pages->page_count++] = page;
	}
	*number = pages->used++;
	return 0;
}

void lfs_pages_free(struct lfs_pages *pages)
{
	for (uint32_t i = 0; i < pages->page_count; i++)
		free(pages->pages[i]);
	free(pages->pages);
}

void lfs_arena_free(struct lfs_tree *tree)
{
	for (struct lfs_arena_block *block = tree->arena, *next; block; block = next) {
		next = block->next;
		free(block);
	}
}

/* --- packs --- */

static uint32_t *pack_slot(const struct lfs_tree *tree, uint64_t id)
{
	uint32_t at = (uint32_t)((id ^ tree->key[0]) * 0x9E3779B97F4A7C15u >> 32);
	for (;; at++) {
		uint32_t *slot = &tree->pack_slots[at & tree->pack_mask];
		if (*slot == LFS_NONE || tree->packs[*slot] == id)
			return slot;
	}
}

static int packs_grow(struct lfs_tree *tree)
{
	uint32_t room = tree->pack_room ? 2 * tree->pack_room : 16;
	if (room > 1u << 28)
		return -EOVERFLOW;
	uint64_t *packs = realloc(tree->packs, room * sizeof *packs);
	if (!packs)
		return -ENOMEM;
	tree->packs = packs;
	uint32_t *slots = malloc(2 * (size_t)room * sizeof *slots);
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, 2 * (size_t)room * sizeof *slots);
	free(tree->pack_slots);
	tree->pack_slots = slots;
	tree->pack_mask = 2 * room - 1;
	tree->pack_room = room;
	for (uint32_t i = 0; i < tree->pack_count; i++)
		*pack_slot(tree, packs[i]) = i;
	return 0;
}

int lfs_tree_pack(struct lfs_tree *tree, uint64_t id, uint32_t *number)
{
	if (tree->last_pack < tree->pack_count && tree->packs[tree->last_pack] == id) {
		*number = tree->last_pack;
		return 0;
	}
	if (tree->pack_count == tree->pack_room) {
		int rc = packs_grow(tree);
		if (rc < 0)
			return rc;
	}
	uint32_t *slot = pack_slot(tree, id);
	if (*slot == LFS_NONE) {
		tree->packs[tree->pack_count] = id;
		*slot = tree->pack_count++;
	}
	*number = tree->last_pack = *slot;
	return 0;
}
