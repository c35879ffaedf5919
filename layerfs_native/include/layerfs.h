/* layerfs core: plain C, no Python. A function returns 0 (or an owned fd) or -errno.
 * On -errno, `struct lfs_error` (when taken) holds one line for the user. Formats: docs/format.md. */
#ifndef LAYERFS_H
#define LAYERFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#define LFS_ID_SIZE 32
#define LFS_BLOCK 4096u
#define LFS_PACK_MAX 131072u /* contents up to this size live in packs */
#define LFS_NAME_MAX 255u
#define LFS_ROOT_NID 1u /* of every tree file; not 0: the kernel gives nids out as inode numbers, and C libraries skip entries with number 0 */

enum { LFS_KIND_NONE = 0, LFS_KIND_PACK = 1, LFS_KIND_OBJECT = 2 };
enum { LFS_FLAG_SPARSE = 1, LFS_FLAG_DELTA = 2 /* kept as what differs from another object */ };

struct lfs_error {
	char text[512];
};
int lfs_fail(struct lfs_error *error, int negative_errno, const char *format, ...)
	__attribute__((format(printf, 3, 4))); /* fills text, returns negative_errno */

static inline void lfs_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
static inline int lfs_steal_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}
#define LFS_AUTO_FD __attribute__((cleanup(lfs_close_fd))) int

/* --- hashes (core/sha256.c, core/xxh64.c, core/crc32c.c) --- */
struct lfs_sha256 {
	uint32_t state[8];
	uint64_t length;
	uint8_t buffer[64];
};
void lfs_sha256_init(struct lfs_sha256 *hash);
void lfs_sha256_update(struct lfs_sha256 *hash, const void *data, size_t size);
void lfs_sha256_final(struct lfs_sha256 *hash, uint8_t out[LFS_ID_SIZE]);

struct lfs_xxh64 {
	uint64_t lanes[4];
	uint64_t length;
	uint8_t buffer[32];
};
void lfs_xxh64_init(struct lfs_xxh64 *hash);
void lfs_xxh64_update(struct lfs_xxh64 *hash, const void *data, size_t size);
uint64_t lfs_xxh64_final(const struct lfs_xxh64 *hash);
/* Hashes over the same bytes, where the CPU has instructions for it: XXH64 beside SHA-256 costs nothing, another SHA-256 little. */
void lfs_sha256_update_xxh64(struct lfs_sha256 *sha, struct lfs_xxh64 *xxh, const void *data, size_t size);
void lfs_sha256_update_pair(struct lfs_sha256 *other, struct lfs_sha256 *sha, struct lfs_xxh64 *xxh, const void *data, size_t size);
uint32_t lfs_crc32c(uint32_t crc, const void *data, size_t size); /* no inversion at either end */
bool lfs_sha256_portable(bool on); /* for tests: without the CPU's instructions; whether they are in use now */
bool lfs_crc32c_portable(bool on);

/* --- a tree in memory (core/tree.c), written by core/erofs_write.c --- */
struct lfs_tree;

struct lfs_bytes {
	const void *data;
	size_t size;
};
struct lfs_xattr {
	struct lfs_bytes name; /* full name, "user.x" */
	struct lfs_bytes value;
};
struct lfs_attr {
	uint32_t mode; /* with type bits */
	uint32_t uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint32_t major, minor; /* devices */
	const struct lfs_xattr *xattrs;
	size_t xattr_count;
};
struct lfs_content { /* where the bytes of a regular file are */
	uint8_t identity[LFS_ID_SIZE];
	uint8_t kind; /* LFS_KIND_NONE: empty file */
	uint8_t flags;
	uint32_t block;
	uint64_t pack;
	uint64_t size;
};

/* Paths given to these are cleaned by the caller's tar rules except what needs the tree: implicit parents, symlinked
 * parents (followed inside the root, 40 hops), replacing. They are relative, no leading slash, parts joined by single slashes, no "."
 * or ".."; "" is the root. xattrs in trusted.overlay.* and user.overlay.* are dropped here. Strings are copied. */
int lfs_tree_new(struct lfs_tree **out);
void lfs_tree_free(struct lfs_tree *tree);
int lfs_tree_put(struct lfs_tree *tree, struct lfs_bytes path, const struct lfs_attr *attr,
		 const struct lfs_content *content, struct lfs_bytes target, struct lfs_error *error);
		 /* content: regular files; target: symlinks */
int lfs_tree_link(struct lfs_tree *tree, struct lfs_bytes path, struct lfs_bytes target, struct lfs_error *error);
int lfs_tree_whiteout(struct lfs_tree *tree, struct lfs_bytes directory, struct lfs_bytes name, struct lfs_error *error);
int lfs_tree_opaque(struct lfs_tree *tree, struct lfs_bytes directory, struct lfs_error *error);

struct lfs_tree_stats {
	uint64_t entries;      /* names */
	uint64_t content_size; /* regular files, each inode once */
	uint64_t unresolved_links;
};
/* Writes the EROFS file. extra: contents that only the tar-split record uses (layer trees), any order, may hold duplicates and
 * identities that inodes use. Creates out_path with mode 0444, replacing nothing (O_EXCL). */
int lfs_tree_write(struct lfs_tree *tree, const char *out_path, bool merged, const uint8_t subject[LFS_ID_SIZE],
		   const struct lfs_content *extra, size_t extra_count, struct lfs_tree_stats *stats, struct lfs_error *error);

/* --- reading tree files (core/erofs_read.c): bounds-checked against hostile files --- */
struct lfs_image { /* a mapped tree file */
	const uint8_t *base;
	uint64_t size;
	uint64_t meta; /* offset of nid 0 */
	uint64_t table;
	uint64_t table_count;
	uint32_t devices;
	bool merged;
	uint8_t subject[LFS_ID_SIZE];
};
struct lfs_inode {
	uint64_t nid;
	uint32_t ino; /* i_ino */
	uint32_t mode, uid, gid, nlink;
	uint64_t size;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint32_t major, minor;
	uint8_t layout;
	uint64_t xattr_offset, xattr_size; /* entries only, file offsets; size 0: none */
	uint64_t tail_offset;		   /* inline tail or chunk indexes */
	uint32_t raw_block;
};
int lfs_image_open(const char *path, struct lfs_image *image, struct lfs_error *error); /* maps read-only */
void lfs_image_close(struct lfs_image *image);
int lfs_image_inode(const struct lfs_image *image, uint64_t nid, struct lfs_inode *inode);
int lfs_image_lookup(const struct lfs_image *image, const struct lfs_inode *directory, struct lfs_bytes name,
		     uint64_t *nid, uint8_t *type); /* binary search; -ENOENT */
struct lfs_dirent {
	uint64_t nid;
	struct lfs_bytes name; /* points into the map */
	uint8_t type;
};
/* Calls each for every entry from position `from` (0 = first, in directory order, "." and ".." included); each returns 0 to go on.
 * Positions grow but are not dense: to go on behind an entry, pass its position + 1. */
int lfs_image_readdir(const struct lfs_image *image, const struct lfs_inode *directory, uint64_t from,
		      int (*each)(void *context, uint64_t position, const struct lfs_dirent *entry), void *context);
int lfs_image_readlink(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_bytes *target);
int lfs_image_xattr(const struct lfs_image *image, const struct lfs_inode *inode, size_t index,
		    char name[LFS_NAME_MAX + 32], struct lfs_bytes *value); /* -ENODATA past the last */
/* Where a regular file's bytes are; kind, block, pack, size, identity (zero identity for an empty file). flags is not known here (0). */
int lfs_image_content(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_content *content);
int lfs_image_verify(const struct lfs_image *image, struct lfs_error *error); /* checksums and structure */

/* --- merging and moving (core/merge.c) --- */
int lfs_merge(const char *const *paths, size_t count, const char *out_path, const uint8_t subject[LFS_ID_SIZE],
	      struct lfs_tree_stats *stats, struct lfs_error *error);
/* One more tree file onto the tree in memory, which is of no use after an error; lfs_tree_write(…, merged) may come after each. */
int lfs_merge_add(struct lfs_tree *tree, const char *path, bool first, struct lfs_error *error);
struct lfs_move {
	uint64_t old_pack;
	uint32_t old_block, new_block;
	uint64_t new_pack;
	uint64_t zero;
};
int lfs_remap(const char *path, const char *out_path, const struct lfs_move *moves, size_t count, struct lfs_error *error);

/* --- reading layer tars (core/tar.c, core/ingest.c) --- */
struct lfs_ingest;
struct lfs_new_content { /* 64 bytes, as handed to Python */
	uint8_t identity[LFS_ID_SIZE];
	uint64_t size, xxh64, block;
	uint8_t kind, flags, zero[6];
};
struct lfs_ingest_config {
	int pack_fd, objects_fd; /* duplicated: a thread may write between calls; finish, an error and free wait for it */
	uint64_t pack_id;
	uint64_t max_entries, max_file_size;
	int (*lookup)(void *context, const uint8_t *identities, size_t count, uint8_t *values); /* 32-byte index values */
	void *context;
};
struct lfs_ingest_result {
	uint8_t diff_id[LFS_ID_SIZE];
	uint64_t tar_size, pack_blocks;
	struct lfs_tree_stats tree;
	const struct lfs_new_content *contents; /* owned by the ingest */
	size_t content_count;
};
int lfs_ingest_new(const struct lfs_ingest_config *config, struct lfs_ingest **out);
void lfs_ingest_free(struct lfs_ingest *ingest);
int lfs_ingest_feed(struct lfs_ingest *ingest, const void *data, size_t size, struct lfs_error *error);
/* The bytes of the next file over 128 KiB are kept by the caller, in `.delta-<number>` of the objects' directory: they are only hashed, and the file
 * gets their identity as its name, or goes when they are known. */
void lfs_ingest_delta(struct lfs_ingest *ingest, uint64_t number);
/* The next bytes of the tar are those of files: all of a file, or a part of it, that lfs_ingest_delta announced (-EINVAL else). */
struct lfs_file_range { /* 24 bytes, as handed over by Python */
	int64_t fd; /* -1: zeros */
	uint64_t offset, size;
};
int lfs_ingest_feed_ranges(struct lfs_ingest *ingest, const struct lfs_file_range *ranges, size_t count, struct lfs_error *error);
struct lfs_bytes lfs_ingest_split(struct lfs_ingest *ingest); /* bytes since the last call, valid until the next call of any kind */
int lfs_ingest_finish(struct lfs_ingest *ingest, const char *tree_path, struct lfs_ingest_result *result, struct lfs_error *error);
int lfs_hash_fd(int fd, bool sparse, uint8_t identity[LFS_ID_SIZE], uint64_t *xxh64);

#endif
