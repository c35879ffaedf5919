/* Takes the contents of one layer and keeps those that the store lacks: small ones in the pack, big ones as objects.
 * They are collected in batches, so that one lookup and few large writes serve many. */
#ifndef LFS_DEPOT_H
#define LFS_DEPOT_H

#include "buffer.h"
#include "identity.h"
#include "layerfs.h"
#include "table.h"

#define LFS_NO_CONTENT UINT32_MAX

enum lfs_depot_form {
	LFS_DEPOT_SMALL,  /* in the batch, for the pack */
	LFS_DEPOT_MEDIUM, /* in the batch, for an object */
	LFS_DEPOT_FILE,	  /* written to a temporary file as it comes */
};

struct lfs_depot {
	const struct lfs_ingest_config *config;
	struct lfs_table table;
	struct lfs_buffer rows;	 /* struct lfs_new_content */
	struct lfs_buffer items; /* contents of this batch that were not seen in this layer before */
	struct lfs_buffer asked; /* scratch of a lookup */
	uint8_t *batch;
	size_t batch_used;
	bool file_waits; /* a temporary file is in the batch: settle soon, it costs disk */
	uint64_t blocks; /* of the pack, so far */

	struct { /* the content that is coming in */
		enum lfs_depot_form form;
		struct lfs_identity identity;
		uint64_t size, at;
		int fd;
		uint64_t temporary;
	} now;
};

int lfs_depot_init(struct lfs_depot *depot, const struct lfs_ingest_config *config);
void lfs_depot_free(struct lfs_depot *depot); /* removes temporary files */

/* One content: begin, data in rising order (gaps are zeros), end. `other` hashes the bytes too. */
int lfs_depot_begin(struct lfs_depot *depot, uint64_t size, bool sparse, struct lfs_error *error);
int lfs_depot_data(struct lfs_depot *depot, uint64_t offset, const uint8_t *data, size_t size, struct lfs_sha256 *other,
		   struct lfs_error *error);
int lfs_depot_end(struct lfs_depot *depot, uint32_t *index, struct lfs_error *error);

bool lfs_depot_full(const struct lfs_depot *depot);
/* Looks the batch up and writes what is unknown. After it, every content of the table has its place. */
int lfs_depot_settle(struct lfs_depot *depot, struct lfs_error *error);

#endif
