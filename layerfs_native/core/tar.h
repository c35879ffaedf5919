/* A streaming reader of tar archives (docs/format.md "Reading a layer tar"). It knows formats, not layers: names come as they stand. */
#ifndef LFS_TAR_H
#define LFS_TAR_H

#include "buffer.h"
#include "layerfs.h"
#include "pax.h"
#include "sparse.h"

#define LFS_TAR_BLOCK 512u

enum lfs_member_type {
	LFS_MEMBER_FILE,
	LFS_MEMBER_LINK,
	LFS_MEMBER_SYMLINK,
	LFS_MEMBER_CHARACTER,
	LFS_MEMBER_DEVICE, /* block device */
	LFS_MEMBER_DIRECTORY,
	LFS_MEMBER_FIFO,
};

struct lfs_member { /* valid while its callbacks run; the map until done */
	enum lfs_member_type type;
	struct lfs_bytes name, target; /* as in the archive */
	uint32_t mode;		       /* 12 bits */
	uint32_t uid, gid, major, minor;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint64_t size;		   /* of the file, with holes; 0 for other types */
	const struct lfs_map *map; /* where its stored bytes belong; one piece or none without holes */
	const struct lfs_xattr *xattrs;
	size_t xattr_count;
};

/* Every byte of the archive comes through raw or data, in order. Callbacks return 0, or -errno to stop. */
struct lfs_tar_events {
	int (*raw)(void *context, const uint8_t *data, size_t size, struct lfs_error *error);
	int (*member)(void *context, const struct lfs_member *member, struct lfs_error *error);
	int (*data)(void *context, uint64_t offset, const uint8_t *data, size_t size, struct lfs_error *error); /* files only */
	int (*done)(void *context, const struct lfs_member *member, struct lfs_error *error);		       /* files only */
};

struct lfs_tar_header { /* one decoded header block */
	uint8_t type;
	struct lfs_bytes name, link;
	char name_text[512]; /* with its prefix */
	char link_text[100];
	uint32_t mode, uid, gid, major, minor;
	int64_t mtime;
	uint64_t size;
	uint64_t real_size; /* GNU sparse */
};

enum lfs_tar_state {
	LFS_TAR_HEADER,
	LFS_TAR_META,	 /* the text of an x, g, L or K member */
	LFS_TAR_OLD_MAP, /* extension blocks of a GNU sparse header */
	LFS_TAR_MAP,	 /* a PAX 1.0 sparse map at the head of the data */
	LFS_TAR_DATA,
	LFS_TAR_SKIP,
	LFS_TAR_PADDING,
	LFS_TAR_END, /* after a zero block: whatever comes is raw */
};

struct lfs_tar {
	const struct lfs_tar_events *events;
	void *context;
	enum lfs_tar_state state;
	uint64_t offset;       /* of the next byte fed */
	uint64_t header_at;    /* offset of the header in work, for messages */
	uint64_t remaining;    /* bytes of META, DATA (stored), SKIP or PADDING */
	uint64_t data_size;    /* stored bytes of the member in work, for the padding */
	size_t piece;	       /* DATA: the piece of the map in work */
	uint64_t piece_at;     /* and bytes of it that came */
	size_t held;	       /* bytes in block */
	uint8_t block[LFS_TAR_BLOCK];
	uint8_t meta;	       /* META: its type */
	bool pending;	       /* an x, L or K waits for its member */
	struct lfs_buffer text, long_name, long_link;
	bool have_name, have_link;
	struct lfs_pax local, global;
	struct lfs_pax_view view; /* of the member in work */
	struct lfs_tar_header header;
	struct lfs_member member;
	struct lfs_map map;
	struct lfs_map_reader map_reader;
};

void lfs_tar_init(struct lfs_tar *tar, const struct lfs_tar_events *events, void *context);
void lfs_tar_free(struct lfs_tar *tar);
int lfs_tar_feed(struct lfs_tar *tar, const uint8_t *data, size_t size, struct lfs_error *error);
bool lfs_tar_in_data(const struct lfs_tar *tar, uint64_t size); /* whether the next `size` bytes are stored ones of one file */
int lfs_tar_pass(struct lfs_tar *tar, uint64_t size, struct lfs_error *error); /* those, that were taken without it */
int lfs_tar_finish(struct lfs_tar *tar, struct lfs_error *error); /* the archive ends here: -EBADMSG when it may not */

/* core/tar_member.c. Each may leave the reader in another state. */
int lfs_tar_begin_member(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error);
int lfs_tar_old_extension(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error); /* of a GNU sparse map */
int lfs_tar_map_block(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error);     /* of a PAX 1.0 map */
int lfs_tar_next_piece(struct lfs_tar *tar, struct lfs_error *error);

/* core/tar.c, for those. */
void lfs_tar_skip(struct lfs_tar *tar, enum lfs_tar_state state, uint64_t size);
void lfs_tar_end_of_data(struct lfs_tar *tar);
void lfs_tar_forget_meta(struct lfs_tar *tar);

/* core/tar_header.c. decode answers 1 for a block of zeros. */
int lfs_tar_decode(const uint8_t block[LFS_TAR_BLOCK], struct lfs_tar_header *header, struct lfs_error *error);
bool lfs_tar_number(const uint8_t *field, size_t size, int64_t *value);

#endif
