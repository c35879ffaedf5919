/* The contents of one layer by identity: a list in order of appearance, and a hash table over it. */
#ifndef LFS_TABLE_H
#define LFS_TABLE_H

#include "buffer.h"
#include "layerfs.h"

struct lfs_table {
	struct lfs_buffer list; /* struct lfs_content */
	uint32_t *slots;	/* number in list + 1; 0 free */
	unsigned bits;
	uint64_t seed; /* so that nobody can aim at one slot */
};

static inline struct lfs_content *lfs_table_at(const struct lfs_table *table, uint32_t index)
{
	return (struct lfs_content *)table->list.data + index;
}
static inline size_t lfs_table_count(const struct lfs_table *table)
{
	return table->list.size / sizeof(struct lfs_content);
}
/* The number of the content with that identity; *added tells whether it is new (kind NONE). */
int lfs_table_add(struct lfs_table *table, const uint8_t identity[LFS_ID_SIZE], uint32_t *index, bool *added);
void lfs_table_free(struct lfs_table *table);

#endif
