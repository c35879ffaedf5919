/* Takes the contents of one layer and keeps those that the store lacks: small ones in the pack, big ones as objects.
 * They are collected in batches, so that one lookup and few large writes serve many. A thread of the depot writes one
 * batch while the next is collected. */
#ifndef LFS_DEPOT_H
#define LFS_DEPOT_H

#include "buffer.h"
#include "identity.h"
#include "layerfs.h"
#include "table.h"
#include "worker.h"

#define LFS_NO_CONTENT UINT32_MAX
#ifndef LFS_BATCH_BYTES /* fuzzers make these small: more happens in less memory */
#define LFS_BATCH_BYTES (4u << 20)
#define LFS_MEDIUM_MAX (16u << 20) /* contents up to this size are looked up before anything is written */
#endif
#define LFS_BATCH_ITEMS 1024u
#define LFS_APART_FROM (64u << 10) /* bytes: worth waking a thread for */

enum lfs_item_form {
	LFS_ITEM_SMALL,	 /* content for the pack, if unknown */
	LFS_ITEM_MEDIUM, /* content for an object, if unknown */
	LFS_ITEM_PIECE,	 /* part of a temporary file */
	LFS_ITEM_FILE,	 /* the temporary file is complete: an object, if unknown */
	LFS_ITEM_DELTA,	 /* the same of a file that the caller has made: a delta object */
};
enum lfs_item_fate { LFS_FATE_OPEN, LFS_FATE_KEEP, LFS_FATE_DROP, LFS_FATE_DONE };

struct lfs_item {
	enum lfs_item_form form;
	enum lfs_item_fate fate;
	uint32_t index; /* in the table */
	uint32_t block; /* SMALL, kept: in the pack */
	uint8_t identity[LFS_ID_SIZE];
	uint64_t size, xxh64;
	uint8_t *data;	    /* in the batch, padded to blocks */
	int fd;		    /* PIECE, FILE */
	uint64_t offset;    /* PIECE */
	uint64_t temporary; /* FILE, DELTA: its number */
};

struct lfs_batch {
	struct lfs_buffer items; /* struct lfs_item */
	uint8_t *data;
	size_t used;
	int pack_fd, objects_fd;
};

struct lfs_depot {
	const struct lfs_ingest_config *config;
	struct lfs_table table;
	struct lfs_buffer rows;	 /* struct lfs_new_content */
	struct lfs_buffer asked; /* scratch of a lookup */
	struct lfs_batch batches[2], *batch; /* batch: the one being collected */
	struct lfs_worker worker;
	bool several;	  /* processors */
	bool settle_soon; /* a temporary file waits for its fate: it costs disk */
	uint64_t blocks;  /* of the pack, given out so far */
	bool delta_next;  /* the next content over LFS_PACK_MAX is kept by the caller, in this file: */
	uint64_t delta;

	struct { /* the content that is coming in */
		enum lfs_item_form form;
		struct lfs_identity identity;
		uint64_t size, at;
		int fd;
		uint64_t temporary;
	} now;
};

int lfs_depot_init(struct lfs_depot *depot, const struct lfs_ingest_config *config);
void lfs_depot_free(struct lfs_depot *depot); /* removes temporary files */

void lfs_depot_delta(struct lfs_depot *depot, uint64_t number); /* as lfs_ingest_delta */

/* One content: begin, data in rising order (gaps are zeros), end. `other` hashes the bytes too. */
int lfs_depot_begin(struct lfs_depot *depot, uint64_t size, bool sparse, struct lfs_error *error);
int lfs_depot_data(struct lfs_depot *depot, uint64_t offset, const uint8_t *data, size_t size, struct lfs_sha256 *other,
		   struct lfs_error *error);
/* Data of a file that is only hashed and not sparse: two threads read it, each for a hash of its own. */
int lfs_depot_ranges(struct lfs_depot *depot, const struct lfs_file_range *ranges, size_t count, struct lfs_sha256 *other, struct lfs_error *error);
int lfs_depot_end(struct lfs_depot *depot, uint32_t *index, struct lfs_error *error);

bool lfs_depot_full(const struct lfs_depot *depot);
/* Looks the batch up and has the unknown written. After it, every content of the table has its place. A failed write is
 * reported by this or a later call. */
int lfs_depot_settle(struct lfs_depot *depot, struct lfs_error *error);
int lfs_depot_wait(struct lfs_depot *depot, struct lfs_error *error); /* until all is written */

/* core/depot_write.c: what the thread does with a batch, and temporary files. */
int lfs_batch_write(void *batch, struct lfs_error *error);
void lfs_batch_abandon(struct lfs_batch *batch);
int lfs_temporary_open(int directory, uint64_t *number, struct lfs_error *error); /* an owned fd */
void lfs_temporary_remove(int directory, uint64_t number);

static inline size_t lfs_blocks(uint64_t size)
{
	return (size_t)((size + LFS_BLOCK - 1) / LFS_BLOCK);
}

#endif
