/* PAX extended headers: records, and what they say about one member. */
#ifndef LFS_PAX_H
#define LFS_PAX_H

#include "buffer.h"
#include "layerfs.h"

struct lfs_pax_record { /* offsets into the text */
	uint32_t key, key_size, value, value_size;
};
struct lfs_pax {
	struct lfs_buffer text, records;
	bool pairs; /* it has the map of sparse format 0.0 */
};

/* Splits text into records. -EBADMSG on a bad one. */
int lfs_pax_parse(struct lfs_pax *pax, struct lfs_error *error);
/* Adds a global header's records to those in force. */
int lfs_pax_merge(struct lfs_pax *global, const struct lfs_pax *more, struct lfs_error *error);
void lfs_pax_clear(struct lfs_pax *pax);
void lfs_pax_free(struct lfs_pax *pax);

/* What the global and then the local records say; data is NULL where they are silent. Points into their texts. */
struct lfs_pax_view {
	struct lfs_bytes path, linkpath, size, uid, gid, mtime;
	struct lfs_bytes sparse_major, sparse_minor, sparse_name, sparse_size, sparse_realsize, sparse_numblocks, sparse_map;
	struct lfs_buffer pairs;  /* struct lfs_bytes: values of GNU.sparse.offset and numbytes, in turn; go before sparse_map */
	struct lfs_buffer xattrs; /* struct lfs_xattr, by name, each once; lfs_pax_xattrs fills it */
	struct lfs_buffer found;  /* scratch: candidates */
	struct lfs_buffer decoded;
};
int lfs_pax_look(struct lfs_pax_view *view, const struct lfs_pax *global, const struct lfs_pax *local);
void lfs_pax_view_free(struct lfs_pax_view *view);

/* "-?digits[.digits]", cut to nanoseconds and then negated. */
bool lfs_pax_time(struct lfs_bytes text, int64_t *seconds, uint32_t *nanoseconds);

/* core/pax_xattr.c: fills view->xattrs from view->found. */
struct lfs_pax_xattr {
	struct lfs_bytes key, value; /* key without its prefix */
	bool libarchive;	     /* base64, percent-encoded name */
	uint32_t order;
};
int lfs_pax_xattrs(struct lfs_pax_view *view, struct lfs_error *error);

#endif
