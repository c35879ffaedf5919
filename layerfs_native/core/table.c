#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_BITS 10

static size_t slot_of(const struct lfs_table *table, const uint8_t *identity)
{
	uint64_t start;
	memcpy(&start, identity, sizeof start);
	return (size_t)(start * (table->seed | 1) >> (64 - table->bits));
}

static void place(struct lfs_table *table, uint32_t index)
{
	size_t mask = ((size_t)1 << table->bits) - 1, slot = slot_of(table, lfs_table_at(table, index)->identity);
	while (table->slots[slot])
		slot = (slot + 1) & mask;
	table->slots[slot] = index + 1;
}

static int grow(struct lfs_table *table)
{
	unsigned bits = table->bits ? table->bits + 1 : FIRST_BITS;
	uint32_t *slots = calloc((size_t)1 << bits, sizeof *slots);
	if (!slots)
		return -ENOMEM;
	if (!table->bits && getrandom(&table->seed, sizeof table->seed, GRND_NONBLOCK) < 0)
		table->seed = (uintptr_t)slots;
	free(table->slots);
	table->slots = slots;
	table->bits = bits;
	for (size_t i = 0; i < lfs_table_count(table); i++)
		place(table, (uint32_t)i);
	return 0;
}

int lfs_table_add(struct lfs_table *table, const uint8_t identity[LFS_ID_SIZE], uint32_t *index, bool *added)
{
	size_t count = lfs_table_count(table);
	int rc = count >= UINT32_MAX / 2 ? -E2BIG : 0;
	if (rc == 0 && (!table->bits || 2 * count >= (size_t)1 << table->bits))
		rc = grow(table);
	if (rc < 0)
		return rc;

	size_t mask = ((size_t)1 << table->bits) - 1, slot = slot_of(table, identity);
	for (; table->slots[slot]; slot = (slot + 1) & mask) {
		*index = table->slots[slot] - 1;
		if (memcmp(lfs_table_at(table, *index)->identity, identity, LFS_ID_SIZE) == 0) {
			*added = false;
			return 0;
		}
	}
	struct lfs_content content = {.kind = LFS_KIND_NONE};
	memcpy(content.identity, identity, LFS_ID_SIZE);
	rc = lfs_buffer_append(&table->list, &content, sizeof content);
	if (rc < 0)
		return rc;
	*index = (uint32_t)count;
	*added = true;
	table->slots[slot] = *index + 1;
	return 0;
}

void lfs_table_free(struct lfs_table *table)
{
	free(table->slots);
	lfs_buffer_free(&table->list);
}
