/* The tree in memory, as core/ sees it. Nodes (inodes) and names (directory entries) are numbered records in pages that
 * never move; strings live in an arena that only grows. Number NONE is "none"; node 0 is the root. */
#ifndef LFS_TREE_INTERNAL_H
#define LFS_TREE_INTERNAL_H

#include <sys/stat.h>

#include "layerfs.h"

#define LFS_NONE UINT32_MAX
#define LFS_ROOT 0u
#define LFS_PAGE_BITS 12
#define LFS_HOPS_MAX 40
#define LFS_VALUE_MAX 65535u	   /* an xattr value */
#define LFS_XATTRS_MAX 262128u	   /* all entries of one inode */
#define LFS_TARGET_MAX 4095u	   /* a symlink */
#define LFS_PATH_MAX 4095u	   /* where anything lies, and the path of a link into lower layers */

enum {
	LFS_NODE_IMPLICIT = 1, /* directory: no entry of its own yet */
	LFS_NODE_OPAQUE = 2,   /* directory: .wh..wh..opq */
	LFS_NODE_WHITEOUT = 4,
	LFS_NODE_LINK = 8,    /* link into lower layers; text is the path */
	LFS_NODE_PACKED = 16, /* regular file in a pack */
	LFS_NODE_OBJECT = 32, /* regular file in an object */
	LFS_NODE_HOLLOW = 64, /* directory: see tree_settle.c */
};
#define LFS_NODE_CONTENT (LFS_NODE_PACKED | LFS_NODE_OBJECT)

struct lfs_node {
	uint64_t size; /* regular: bytes; symlink, link: length of text; directory: i_size, set by the layout */
	int64_t mtime;
	const uint8_t *xattrs; /* on-disk entries, sorted, without those in trusted.overlay.* */
	union {
		struct {
			uint32_t first, last; /* children */
			uint32_t self;	      /* its name */
			uint32_t list;	      /* layout: where its sorted children are; else: next doomed directory */
		} directory;
		struct {
			const uint8_t *identity;
			uint32_t pack; /* number in tree->packs */
			uint32_t block;
		} content;
		const char *text;
		uint32_t device; /* as on disk */
	};
	uint32_t xattr_size;
	uint32_t mtime_nsec;
	uint32_t uid, gid;
	uint32_t names;	   /* that name it; also holds */
	uint32_t ino;	   /* layout; 0: not numbered yet */
	uint32_t position; /* layout: nid */
	uint32_t data;	   /* layout: first block in the data region, or NONE */
	uint16_t mode;
	uint16_t depth; /* directory: bytes of its path */
	uint8_t flags;
	uint8_t layout;
};

struct lfs_name {
	const char *text;
	uint32_t directory, node;
	uint32_t hash, chain; /* chain: also the free list */
	uint32_t next, previous;
	uint8_t size;
	bool hidden; /* the layer has a whiteout for it */
};

struct lfs_pages {
	void **pages;
	uint32_t page_count;
	uint32_t used; /* records ever given out */
	uint32_t free; /* head of the free list */
};

struct lfs_arena_block;
struct lfs_tree {
	struct lfs_pages nodes, names;
	uint32_t *buckets;
	uint32_t bucket_mask;
	uint32_t name_count;
	uint64_t key[2];
	struct lfs_arena_block *arena;
	uint32_t doomed; /* directories that nothing names any more */
	bool has_whiteouts;
	uint64_t *packs;
	uint32_t pack_count, pack_room;
	uint32_t *pack_slots; /* open addressing: number in packs, or NONE */
	uint32_t pack_mask, last_pack;
	const uint8_t *last_xattrs; /* equal neighbours share their entries */
	uint32_t last_xattr_size;
};

static inline struct lfs_node *lfs_node_at(const struct lfs_tree *tree, uint32_t number)
{
	return (struct lfs_node *)tree->nodes.pages[number >> LFS_PAGE_BITS] + (number & ((1u << LFS_PAGE_BITS) - 1));
}
static inline struct lfs_name *lfs_name_at(const struct lfs_tree *tree, uint32_t number)
{
	return (struct lfs_name *)tree->names.pages[number >> LFS_PAGE_BITS] + (number & ((1u << LFS_PAGE_BITS) - 1));
}
static inline bool lfs_node_is_directory(const struct lfs_node *node)
{
	return S_ISDIR(node->mode);
}
static inline bool lfs_is_dots(struct lfs_bytes name)
{
	const char *text = name.data;
	return (name.size == 1 && text[0] == '.') || (name.size == 2 && text[0] == '.' && text[1] == '.');
}

/* --- tree_memory.c, tree_names.c, tree_nodes.c: records; all return 0 or -ENOMEM, -EOVERFLOW at 2^32 records, -ENAMETOOLONG past LFS_PATH_MAX --- */
int lfs_tree_fail(struct lfs_error *error, int rc); /* those as an error with its text */
void *lfs_tree_copy(struct lfs_tree *tree, const void *data, size_t size);  /* into the arena; NULL: no memory */
void *lfs_tree_alloc(struct lfs_tree *tree, size_t size);		     /* 8-byte aligned */
void lfs_tree_release(struct lfs_tree *tree, const void *data, size_t size); /* gives the newest allocation back */
int lfs_node_new(struct lfs_tree *tree, uint32_t mode, uint32_t *number);   /* zeroed, no names */
void lfs_node_drop(struct lfs_tree *tree, uint32_t number);		     /* one name or hold fewer; the last frees it */
uint32_t lfs_name_find(const struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text);
int lfs_name_add(struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text, uint32_t node, uint32_t *number); /* not there yet */
int lfs_name_set(struct lfs_tree *tree, uint32_t number, uint32_t node);    /* another node for the name */
void lfs_name_remove(struct lfs_tree *tree, uint32_t number);
void lfs_tree_empty(struct lfs_tree *tree, uint32_t directory);	     /* removes all children */
void lfs_tree_bury(struct lfs_tree *tree);				     /* frees directories without a name, with all below */
int lfs_tree_pack(struct lfs_tree *tree, uint64_t id, uint32_t *number); /* the pack's number in tree->packs */
void lfs_name_release(struct lfs_tree *tree, uint32_t number);		     /* a record that is in no directory */
int lfs_names_grow(struct lfs_tree *tree);				     /* more buckets */
int lfs_pages_take(struct lfs_pages *pages, size_t record, uint32_t *number);
void lfs_pages_free(struct lfs_pages *pages);
void lfs_arena_free(struct lfs_tree *tree);
static inline uint32_t lfs_tree_parent(const struct lfs_tree *tree, uint32_t directory)
{
	uint32_t self = lfs_node_at(tree, directory)->directory.self;
	return self == LFS_NONE ? directory : lfs_name_at(tree, self)->directory;
}
int lfs_tree_set_content(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_content *content, struct lfs_error *error);

/* --- tree_settle.c --- */
int lfs_tree_settle(struct lfs_tree *tree); /* before a layer is written; 0, -ENOMEM or -EOVERFLOW */

/* --- tree_xattr.c --- */
/* Encodes, sorts and stores the entries that a tree keeps. */
int lfs_tree_set_xattrs(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_xattr *xattrs, size_t count,
			struct lfs_error *error);
/* Size of all entries of the node on disk; split: how many bytes of node->xattrs come before those in trusted.overlay.*. */
size_t lfs_xattr_layout(const struct lfs_node *node, bool opaque, bool implicit, size_t *split);
/* Writes the entries in trusted.overlay.*; the buffer has room for lfs_xattr_layout() minus node->xattr_size. */
void lfs_xattr_overlay(const struct lfs_node *node, bool opaque, bool implicit, uint8_t *out);

/* --- tree_walk.c: following a path to a directory, inside the root --- */
enum lfs_walk_mode {
	LFS_WALK_MAKE, /* missing parts are made; other kinds of file are replaced by directories */
	LFS_WALK_MARK, /* missing parts are made; stops at other kinds of file */
	LFS_WALK_LOOK, /* stops at anything that is no directory */
};
struct lfs_walk {
	uint32_t directory; /* where it starts, then where it got to */
	unsigned hops;
	unsigned depth;
	struct {
		const char *at, *end;
	} rest[LFS_HOPS_MAX + 2]; /* what is still to walk, innermost last */
};
void lfs_walk_start(struct lfs_walk *walk, uint32_t directory, struct lfs_bytes path);
/* Follows one more symlink before the rest. -EBADMSG past 40 of them. */
int lfs_walk_follow(struct lfs_walk *walk, const struct lfs_node *symlink, struct lfs_error *error);
/* 0: walk->directory is the one; 1: stopped, the part that could not be walked is still in the rest; or -errno. */
int lfs_walk_run(struct lfs_tree *tree, struct lfs_walk *walk, enum lfs_walk_mode mode, struct lfs_error *error);
/* A directory 0755 0:0 time 0 in the place of whatever has the name (`found`, or NONE). */
int lfs_walk_make(struct lfs_tree *tree, uint32_t directory, struct lfs_bytes text, uint32_t found, uint32_t *node);

#endif
