/* The native engine: one process, one mount. What its files share.
 *
 * transport_*.c  requests from the kernel, replies to it          dispatch.c  request -> operation; bounds of every request
 * node.c         what the kernel knows: nodes and their names     operation_*.c  FUSE operations in terms of the union
 * union.c        lookup: which layer answers for a name           listing.c   merged directories with stable offsets
 * lower.c        the mapped tree, packs, objects                  upper.c     the writable directory: descriptors, marks
 * quota.c        limits of the upper directory                    idmap.c     ids as stored and as shown
 * rights.c       what the host allows us                        fusermount.c  mounting as an ordinary user
 * view.c         the host's directories, through mounts of our own
 * orphan.c       entries in use that lost their name            blocks.c    upper files of which only changed blocks are there
 * frozen.c       layers of frozen uppers below this one         freeze.c parted.c  the upper becomes such a layer, while we serve
 * unseen.c       names that must be known for that               halves.c    all that fsync is about
 * copyup.c rename.c create.c remove.c  changes                    handle.c    open files: descriptors, passthrough
 * stats.c        what is counted                                  flags.c     immutable, append-only; what they forbid
 *
 * Functions return 0 or -errno. Everything that takes a struct lfs_server is called with its lock held unless it says otherwise.
 */
#ifndef LFS_FUSE_SERVER_H
#define LFS_FUSE_SERVER_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "layerfs.h"
#include "protocol.h"

#define LFS_TEMP_SIZE 64 /* names in scratch */
#define LFS_TREE_INO (1ull << 63) /* st_ino of a tree's inode: this | nid; no host number */
#define LFS_MAX_WRITE (1u << 20)
#define LFS_PASS_LOWER_SIZE (1u << 20)
#define LFS_BLOCKS_SIZE (1u << 20)
#define LFS_FILL_PERCENT 50u
#define LFS_NO_FD (-1)
#define LFS_FOREVER (1u << 30) /* seconds */
#define LFS_THREADS_MAX 16u

struct lfs_server;
struct lfs_uring;

/* --- idmap.c: ids as they are stored, and as the mount shows them --- */
struct lfs_id_range {
	uint32_t stored, shown, count;
};
struct lfs_idmap { /* no ranges: ids are shown as they are stored */
	struct lfs_id_range *ranges;
	size_t count;
};
int lfs_idmap_parse(struct lfs_idmap *map, const char *text); /* "0:100000:65536,..." */

/* --- options.c: what the library asks for --- */
struct lfs_options {
	char *tree, *packs, *objects, *target, *name, *upper, *work, *uppers;
	char **frozen; /* frozen uppers, the newest first */
	size_t frozen_count;
	int report; /* descriptor that hears "ready" or the error; -1: none */
	unsigned long mount_flags;
	bool read_only, volatile_, strict, foreground, private_; /* private_: only for who mounts */
	bool no_passthrough, no_readdirplus, no_acl, no_uring, no_killpriv, no_opendir_enosys, no_cache, no_follow, no_zero_open, no_blocks; /* switches for tests */
	bool waits; /* lfs_options_await */
	unsigned threads;
	uint32_t minor; /* the newest protocol to speak */
	uint64_t size_limit, inode_limit; /* quota; 0: none */
	uint64_t cache_seconds; /* how long the kernel may keep names and attributes; LFS_FOREVER: nothing changes behind its back */
	struct lfs_idmap users, groups;
	uint64_t pass_lower_size;	  /* smaller lower files are cached: then old descriptors see what is written later */
	uint64_t blocks_size;		  /* smaller lower files are copied up whole */
	int control; /* listening socket; -1: none */
};
int lfs_options_read(int fd, struct lfs_options *options, struct lfs_error *error);
/* Returns when it may be mounted. -ECANCELED: who gave the orders has ended, or changed his mind. */
int lfs_options_await(int fd, const struct lfs_options *options);
void lfs_options_free(struct lfs_options *options);

/* --- rights.c --- */
struct lfs_id_span {
	uint32_t first, count;
};
struct lfs_known_ids { /* in this user namespace */
	struct lfs_id_span *spans;
	size_t count;
};
struct lfs_rights {
	bool host;	 /* CAP_SYS_ADMIN of the host: trusted xattrs, passthrough */
	bool give;	 /* files to others */
	bool override;	 /* permissions do not matter */
	bool everybody;	 /* all ids are known */
	uint32_t uid, gid;
	struct lfs_known_ids users, groups;
};
struct lfs_lent {
	bool lent;
	mode_t mode;
};
int lfs_rights_read(struct lfs_server *server, struct lfs_error *error);
void lfs_rights_free(struct lfs_server *server);
void lfs_rights_owner(const struct lfs_server *server, uint32_t *uid, uint32_t *gid); /* in place: who owns what the tree gives to these */
int lfs_lend(struct lfs_server *server, int dir_fd, const char *name, struct lfs_lent *lent);
	/* After -EACCES: gives the owner his own permissions, for a moment; -EACCES when that is not the matter. */
void lfs_take_back(struct lfs_server *server, int dir_fd, const char *name, const struct lfs_lent *lent);

/* --- node.c --- */
enum lfs_node_flag {
	LFS_HERE = 1,	       /* the upper directory has it */
	LFS_ALTERNATE = 2,     /* directory: whiteouts may have their xattr form */
	LFS_IMPURE = 4,	       /* directory: entries may have marks */
	LFS_METACOPY = 8,      /* regular file: attributes in the upper, bytes below */
	LFS_COPYING = 16,      /* its bytes are on their way up, without the lock */
	LFS_SPLIT = 32,	       /* replaced by another node (file->successor) while open in passthrough */
	LFS_STALE_PAGES = 64,  /* the kernel's pages may be older than the file: the next cached open drops them */
	LFS_SHARED = 128,      /* has more than one name: in the identity table */
	LFS_UNLINKED = 256,    /* lost its last name */
	LFS_IMMUTABLE = 512,
	LFS_APPEND = 1024,     /* append-only */
	LFS_BLOCKS = 2048,     /* regular file in the upper: blocks that are missing are the base's */
	LFS_LATE = 4096,       /* its upper was frozen: `low` is to be looked up before it is used */
	LFS_SYNCED = 16384,    /* of a frozen layer: it is on the disk */
	LFS_COUNTED = 32768,   /* for a moment, by who counts directories */
	LFS_INCAPABLE = 8192,  /* regular file in the upper: it is known to have no LFS_CAPABILITY, which the kernel asks for again and again */
};

struct lfs_name {
	struct lfs_name *chain;	  /* hash */
	struct lfs_name *sibling; /* next name of the same node */
	struct lfs_node *dir, *node;
	uint32_t hash;
	uint8_t size;
	char text[]; /* with a NUL */
};

struct lfs_node {
	struct lfs_name *names;
	union {
		struct lfs_file *file;	     /* regular files and nameless entries; NULL: not open */
		struct lfs_listing *listing; /* directories */
	};
	uint64_t ino;	  /* st_ino */
	uint32_t low;	  /* inode below (see lower.c): a directory's other half, a lower file, a metacopy's bytes; 0: none */
	uint32_t lookups; /* the kernel's references; LFS_LOOKUPS_MAX: too many to count, it stays */
	uint32_t refs;	  /* lookups > 0, children's names, open state, operations under way; 0: a free slot */
	uint32_t slot, generation;
	uint16_t flags;
	uint8_t type;	/* mode >> 12 */
	uint8_t kept;	/* directory: its descriptor's slot + 1; 0: none */
};

#define LFS_LOOKUPS_MAX UINT32_MAX
#define LFS_BLOCK_NODES 1024u /* 48 KiB */

struct lfs_node_block { /* a block's memory goes when its last node does */
	struct lfs_node *nodes;		      /* NULL: no memory */
	uint32_t used, fresh, free;	      /* nodes in use; those never used begin at `fresh`; list of freed ones: slot + 1 */
	uint32_t next;			      /* list of blocks with a free place: index + 1 */
	bool listed;
};
struct lfs_same { /* an inode with more than one name */
	struct lfs_same *chain, *slot_chain; /* by key, by the node's slot */
	struct lfs_node *node;
	uint64_t key; /* host inode number, or LFS_TREE_INO | nid */
};
struct lfs_nodes {
	struct lfs_node_block *blocks; /* node id - 1 = index * LFS_BLOCK_NODES + place */
	uint32_t block_count, block_capacity, block_free;
	uint32_t spare; /* empty blocks that kept their memory: one, so that creating and removing at a border is cheap */
	struct lfs_name **hash;
	uint32_t hash_bits;
	uint64_t name_count, node_count, name_peak; /* name_peak: since memory was last given back */
	struct lfs_same **same, **same_slots;
	uint32_t same_bits, same_count;
	uint32_t generation;
	uint64_t seed[2];
	struct lfs_node *root;
};
int lfs_nodes_init(struct lfs_server *server);
void lfs_nodes_free(struct lfs_server *server);
struct lfs_node *lfs_node_find(struct lfs_server *server, uint64_t id); /* NULL for a bad id */
int lfs_node_new(struct lfs_server *server, uint32_t mode, struct lfs_node **out); /* with one reference */
void lfs_node_get(struct lfs_node *node);
void lfs_node_put(struct lfs_server *server, struct lfs_node *node);
void lfs_node_forget(struct lfs_server *server, struct lfs_node *node, uint64_t count);
void lfs_nodes_trim(struct lfs_server *server); /* gives memory back after many names went */
void lfs_node_look(struct lfs_node *node); /* the kernel is given one more reference */
static inline uint64_t lfs_node_id(const struct lfs_node *node)
{
	return (uint64_t)node->slot + 1;
}
static inline bool lfs_node_is_dir(const struct lfs_node *node)
{
	return node->type == S_IFDIR >> 12;
}
static inline bool lfs_node_is_file(const struct lfs_node *node)
{
	return node->type == S_IFREG >> 12;
}
uint64_t lfs_hash(const struct lfs_server *server, const void *data, size_t size, uint64_t salt);
struct lfs_name *lfs_name_find(struct lfs_server *server, const struct lfs_node *dir, struct lfs_bytes name);
int lfs_name_add(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct lfs_node *node);
void lfs_name_drop(struct lfs_server *server, struct lfs_name *name);
struct lfs_node *lfs_same_find(struct lfs_server *server, uint64_t key);
uint64_t lfs_same_key(const struct lfs_server *server, const struct lfs_node *node); /* 0: LFS_SHARED is not set */
int lfs_same_set(struct lfs_server *server, struct lfs_node *node, uint64_t key); /* also moves to another key, which takes no memory */

/* --- object.c: contents over 128 KiB --- */
struct lfs_delta; /* one that is kept as what differs from another: its bytes, and that one's */
struct lfs_object {
	int fd;			 /* of its file; LFS_NO_FD: closed */
	struct lfs_delta *delta; /* NULL: all bytes are at `fd` */
	uint64_t size;		 /* when it was opened */
};
int lfs_object_open(const struct lfs_server *server, const uint8_t identity[LFS_ID_SIZE], struct lfs_object *object); /* to be closed */
void lfs_object_close(struct lfs_object *object);
void lfs_delta_free(struct lfs_delta *delta);
ssize_t lfs_object_read(const struct lfs_object *object, void *out, size_t size, uint64_t offset); /* as pread */
off_t lfs_object_seek(const struct lfs_object *object, uint64_t at, int whence); /* as lseek */
int lfs_object_copy(const struct lfs_object *object, int target); /* to an empty file; without the lock */

/* --- lower.c: a number is all that others know of a lower inode: a nid of the tree, or LFS_FROZEN with what frozen.c says; 0 means none --- */
struct lfs_pack {
	uint64_t id;
	int fd;
};
struct lfs_link { /* one name of a hard-linked lower inode, or a directory's place */
	uint64_t nid, dir;
	struct lfs_bytes name;
};
struct lfs_lower {
	struct lfs_image image;
	int objects;
	struct lfs_pack *packs;
	size_t pack_count;
	struct lfs_link *links, *dirs; /* by nid; made when first needed */
	size_t link_count, dir_count;
	bool indexed;
};
int lfs_lower_open(struct lfs_server *server, struct lfs_error *error);
void lfs_lower_close(struct lfs_server *server);
void lfs_lower_rest(struct lfs_server *server); /* lets the mapped pages go, which the page cache keeps */
int lfs_low_child(const struct lfs_server *server, uint64_t dir, struct lfs_bytes name, uint64_t *low); /* -ENOENT */
int lfs_low_inode(const struct lfs_server *server, uint64_t low, struct lfs_inode *inode);
int lfs_low_resolve(const struct lfs_server *server, struct lfs_bytes path, uint64_t *low); /* from the root, no symlinks followed */
int lfs_low_attr(const struct lfs_server *server, uint64_t low, struct fuse_attr *attr);
int lfs_low_read(const struct lfs_server *server, const struct lfs_content *content, uint8_t *out, size_t size, uint64_t offset);
int lfs_low_open(const struct lfs_server *server, const struct lfs_content *content, struct lfs_object *object); /* to be closed */
int lfs_low_links(struct lfs_server *server, uint64_t nid, const struct lfs_link **links, size_t *count);
int lfs_low_dir_place(struct lfs_server *server, uint64_t nid, struct lfs_link *place); /* of a directory; -ENOENT for the root */
int lfs_low_path(struct lfs_server *server, uint64_t dir, struct lfs_bytes name, char *out, size_t size); /* "/a/b"; length */
uint64_t lfs_low_root(const struct lfs_server *server);
uint64_t lfs_low_ino(const struct lfs_server *server, uint64_t low); /* st_ino */
int lfs_low_content(const struct lfs_server *server, uint64_t low, struct lfs_content *content); /* of a regular file */
int lfs_low_readlink(const struct lfs_server *server, uint64_t low, void *out, size_t room); /* the size */

/* --- frozen.c: layers between the tree and the upper. Each is a server of its own that never writes, and stands on those below it; of its
 * nodes only those that its directory has are kept, what is further below goes by the numbers of there. --- */
#define LFS_FROZEN (1u << 31)
#define LFS_LAYERS_MAX 62u
#define LFS_KIND_FROZEN 100 /* content: bytes in a frozen file; `block`: its number; flags: whether blocks of it are its base's */
struct lfs_server *lfs_layer(const struct lfs_server *server, uint64_t low, struct lfs_node **node); /* of a frozen inode */
uint64_t lfs_layer_number(const struct lfs_server *layer, const struct lfs_node *node); /* how others know a node of it; 0: it is one too many */
int lfs_layers_open(struct lfs_server *server, struct lfs_error *error); /* as options.frozen say */
int lfs_layer_add(struct lfs_server *server, struct lfs_server **layer); /* an empty one on top of those there are */
void lfs_layer_free(struct lfs_server *layer);
void lfs_layers_close(struct lfs_server *server);
int lfs_layer_inode(const struct lfs_server *server, uint64_t low, struct lfs_inode *inode);
int lfs_layer_child(const struct lfs_server *server, uint64_t dir, struct lfs_bytes name, uint64_t *low);
int lfs_layer_content(const struct lfs_server *server, uint64_t low, struct lfs_content *content);
int lfs_layer_open(const struct lfs_server *server, uint64_t low); /* the bytes of a file: an owned fd */
int lfs_wake(struct lfs_server *server, struct lfs_node *node); /* LFS_LATE: its number below, and those of the directories that it is in */
int lfs_lower_path(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, char *out, size_t size);
	/* Where an entry of the upper stands below, when there are layers; its length. */

/* --- freeze.c --- */
struct lfs_frozen_result {
	uint64_t pause; /* nanoseconds without an answer */
	unsigned kept;	/* open files that the new upper has and the layer a copy of */
	int failed;	/* it is frozen, but such a file could not be brought to the new upper: -errno */
};
int lfs_freeze(struct lfs_server *server, const char *name, struct lfs_frozen_result *result); /* name: of the new place in upper.uppers; without the lock */
void lfs_await_thaw(struct lfs_server *server); /* requests begin after it */
bool lfs_goes_on(const struct lfs_server *server, const struct lfs_node *node, const struct stat *status); /* an open file, in the new upper */

/* --- halves.c: an inode's directories or metacopies, and its frozen bytes, for who syncs them --- */
struct lfs_half {
	int fd; /* owned */
	struct lfs_node *node; /* of a layer, or not to be used without a reference */
};
struct lfs_halves {
	struct lfs_half items[LFS_LAYERS_MAX + 1];
	unsigned count, upper; /* upper: the first ones, which are no layer's */
};
int lfs_halves_open(struct lfs_server *server, struct lfs_node *node, struct lfs_halves *halves); /* to be closed, also after a failure */
int lfs_halves_sync(const struct lfs_halves *halves, bool data); /* without the lock; data: of what is in the upper no attributes */
void lfs_halves_close(struct lfs_halves *halves, bool synced);

/* --- unseen.c --- */
int lfs_find_names(struct lfs_server *server); /* before a freeze: those of files that must have all names known; without the lock */

/* --- parted.c: who is killed while a file's names go to the new upper leaves a note of them --- */
int lfs_parted_note(struct lfs_server *server, const struct lfs_node *node, char note[LFS_TEMP_SIZE]); /* in scratch; its name */
int lfs_parted_move(struct lfs_server *server, const char *note, int from);			       /* another scratch, to ours */
void lfs_parted_forget(struct lfs_server *server, const char *note);

/* --- upper.c --- */
#define LFS_KEPT_DIRS 128
struct lfs_kept { /* one kept directory descriptor */
	struct lfs_node *node;
	int fd;
	uint8_t older, newer;
	uint64_t blocks; /* that quota.c has counted */
};
struct lfs_upper {
	bool present;
	int view; /* the mount of our own that the directories were opened through; -1: the host's */
	int uppers; /* where the next one will be; of the same mount */
	int root, work, scratch, links; /* links: /proc/self/fd, the working directory of every thread */
	dev_t device;
	uint64_t next_name;
	bool alternate, knows_whiteouts; /* mknod is not allowed: whiteouts in their xattr form */
	struct lfs_kept kept[LFS_KEPT_DIRS + 1]; /* 0: the list's head */
	char place[64]; /* its name in `uppers`, after a freeze */
	const char *marks; /* "trusted.overlay." or "user.overlay." */
	size_t marks_size;
};
struct lfs_marks { /* overlayfs's marks of an entry */
	bool opaque, alternate, impure, metacopy, blocks, whiteout, has_redirect;
	char *redirect; /* owned */
	size_t redirect_size;
	uint16_t protection; /* LFS_IMMUTABLE | LFS_APPEND */
	uint64_t ino; /* kept number; 0: none */
};
int lfs_upper_open(struct lfs_server *server, struct lfs_error *error);
void lfs_upper_close(struct lfs_server *server);
int lfs_upper_root(struct lfs_server *server); /* borrowed; without the lock */
int lfs_dir_fd(struct lfs_server *server, struct lfs_node *dir); /* borrowed until the next hundred calls */
int lfs_dir_reopen(struct lfs_server *server, struct lfs_node *dir); /* owned, with a position of its own */
void lfs_dir_forget(struct lfs_server *server, struct lfs_node *dir);
int lfs_place(struct lfs_server *server, struct lfs_node *node, const char **name); /* dir fd and name in it; the root: "." */
int lfs_entry_open(struct lfs_server *server, struct lfs_node *node, int flags); /* owned */
int lfs_fd_reopen(struct lfs_server *server, int fd, int flags);		  /* owned; of an O_PATH or other descriptor */
void lfs_fd_path(int fd, const char *name, char out[300]);	  /* for path calls, relative to the working directory */
int lfs_entry_stat(struct lfs_server *server, struct lfs_node *node, struct stat *status);
bool lfs_is_whiteout(const struct stat *status);
int lfs_marks_read(struct lfs_server *server, int dir_fd, const char *name, struct lfs_marks *marks);
void lfs_marks_free(struct lfs_marks *marks);
int lfs_mark_get(struct lfs_server *server, int dir_fd, const char *name, const char *mark, void *value, size_t size);
int lfs_mark_set(struct lfs_server *server, int dir_fd, const char *name, const char *mark, const void *value, size_t size);
int lfs_mark_drop(struct lfs_server *server, int dir_fd, const char *name, const char *mark);
int lfs_impure(struct lfs_server *server, struct lfs_node *dir);
void lfs_temp_name(struct lfs_server *server, char out[LFS_TEMP_SIZE]);
void lfs_scratch_remove(struct lfs_server *server, const char *name); /* entry or directory tree */
int lfs_remove_tree(int dir_fd, const char *name);
int lfs_rename_at(struct lfs_server *server, int old_dir, const char *old_name, int new_dir, const char *new_name, unsigned flags);
int lfs_whiteout_make(struct lfs_server *server, char name[LFS_TEMP_SIZE]); /* in scratch */
int lfs_whiteout_put(struct lfs_server *server, struct lfs_node *dir, const char *name); /* on a free name or a non-directory */
int lfs_allow_alternate(struct lfs_server *server, struct lfs_node *dir);
void lfs_attr_from_stat(const struct stat *status, struct fuse_attr *attr);

/* --- view.c: the host's directories --- */
int lfs_view_store(const char *path); /* owned, or -errno */
int lfs_view_upper(const struct lfs_options *options, struct lfs_upper *upper, struct lfs_error *error); /* owned; work, uppers: -1 if there is none */

struct lfs_place { /* of an upper; owned */
	int upper, work, scratch;
};
int lfs_view_place(const struct lfs_server *server, const char *name, struct lfs_place *place); /* one below upper.uppers; without the lock */

/* --- union.c --- */
int lfs_look(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, struct lfs_node **out,
	     struct fuse_attr *attr); /* a referenced node; attr may be NULL */
int lfs_look_through(struct lfs_server *layer, struct lfs_node *dir, struct lfs_bytes name, uint64_t *low); /* of a layer: its number */
int lfs_look_low(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, uint64_t low, struct lfs_node **out,
		 struct fuse_attr *attr); /* the same for a name that only the tree has */
int lfs_attr(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr);
void lfs_attr_finish(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr);
bool lfs_low_shows(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name); /* below would show if the upper had nothing */
int lfs_upper_entry(struct lfs_server *server, struct lfs_node *dir, const char *name, struct stat *status); /* -ENOENT */

/* --- links.c: hard links of lower inodes --- */
struct lfs_spot { /* a visible name */
	struct lfs_node *dir; /* referenced */
	char *name;	      /* owned */
};
struct lfs_spots {
	struct lfs_spot *items;
	size_t count, capacity;
};
struct lfs_moved { /* a directory that stands on another place below */
	struct lfs_node *node; /* referenced */
};
struct lfs_moves {
	struct lfs_moved *items;
	size_t count, capacity;
	bool known;
};
struct lfs_linked_name {
	uint64_t ino; /* of the host */
	struct lfs_spot spot;
};
struct lfs_linked { /* all names of files that have several, by inode; made when first needed */
	struct lfs_linked_name *items;
	size_t count, capacity;
	bool known;
};
void lfs_linked_forget(struct lfs_server *layer);
int lfs_visible_links(struct lfs_server *server, uint64_t low, struct lfs_spots *spots);
void lfs_spots_free(struct lfs_server *server, struct lfs_spots *spots);
void lfs_moves_forget(struct lfs_server *server);

/* --- listing.c --- */
struct lfs_listed {
	uint64_t hash; /* at least 2; unique in the directory */
	uint32_t name;
	uint8_t size, type; /* type: DT_*; 0: gone; LFS_DT_WHITEOUT */
};
struct lfs_listing {
	struct lfs_listed *items;
	uint32_t count, capacity, sorted, names_size, names_capacity;
	char *names;
	struct lfs_node *dir;
	struct lfs_listing *older, *newer;
};
struct lfs_listings {
	struct lfs_listing *oldest, *newest;
	uint64_t bytes;
};
struct lfs_seen {
	struct lfs_bytes name;
	uint64_t next; /* the offset to go on from */
	uint8_t type;  /* DT_* */
	uint64_t low;  /* when what is below shows */
	bool dots;
};
typedef int lfs_see(void *context, const struct lfs_seen *seen); /* 0 to go on, 1 to stop */
int lfs_list(struct lfs_server *server, struct lfs_node *dir, uint64_t offset, lfs_see *see, void *context);
int lfs_dir_empty(struct lfs_server *server, struct lfs_node *dir); /* 0, -ENOTEMPTY, -errno */
int lfs_dir_litter(struct lfs_server *server, struct lfs_node *dir); /* 1 when the upper directory holds anything */
void lfs_listing_add(struct lfs_server *server, struct lfs_node *dir, const char *name, uint32_t mode);
void lfs_listing_gone(struct lfs_server *server, struct lfs_node *dir, const char *name);
void lfs_listing_whiteout(struct lfs_server *server, struct lfs_node *dir, const char *name);
void lfs_listing_drop(struct lfs_server *server, struct lfs_node *dir);

/* --- copyup.c --- */
enum lfs_data { LFS_DATA_NONE, LFS_DATA_EMPTY, LFS_DATA_ALL };
int lfs_copy_up(struct lfs_server *server, struct lfs_node *node, enum lfs_data data); /* may let the lock go for LFS_DATA_ALL */
int lfs_dir_here(struct lfs_server *server, struct lfs_node *dir);
int lfs_copy_extents(int source, int target, uint64_t size); /* of whole files; without the lock */
int lfs_publish(struct lfs_server *server, const char *temp, struct lfs_node *dir, const char *name, uint32_t mode); /* from scratch */

/* --- blocks.c: without the server's lock where nothing else is said --- */
struct lfs_blocks; /* of an open file */
struct lfs_filler {
	struct lfs_node *first; /* to be completed; their open state is held */
	pthread_t thread;
	bool started, running;	/* started: to be joined */
	bool asked, possible;	/* whether this host can tell which blocks were written */
	bool no_clone;		/* it does not share blocks between files */
};
bool lfs_blocks_suit(struct lfs_server *server, const struct lfs_content *content); /* with the lock */
int lfs_blocks_mark(struct lfs_server *server, int fd, const struct lfs_content *content); /* a hollow file: all of it is the base's */
int lfs_blocks_open(struct lfs_server *server, struct lfs_node *node, int fd); /* node->file->blocks, ready; with the lock, as the next ones */
void lfs_blocks_rest(struct lfs_file *file); /* nobody uses it now */
void lfs_blocks_free(struct lfs_file *file);
void lfs_blocks_attr(struct lfs_server *server, struct lfs_node *node, struct fuse_attr *attr);
void lfs_blocks_pause(struct lfs_file *file); /* times are about to be set: no filler is at it until */
void lfs_blocks_resume(struct lfs_file *file);
int lfs_blocks_end(struct lfs_server *server, struct lfs_node *node, int fd); /* no block is missing any more */
void lfs_blocks_released(struct lfs_server *server, struct lfs_node *node); /* its last handle is about to go */
void lfs_filler_end(struct lfs_server *server); /* without the lock, as all that follow */
ssize_t lfs_blocks_read(struct lfs_blocks *blocks, int fd, uint8_t *out, size_t size, uint64_t offset);
ssize_t lfs_blocks_write(struct lfs_server *server, struct lfs_blocks *blocks, int fd, const uint8_t *data, size_t size, uint64_t offset);
int lfs_blocks_truncate(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint64_t size);
int lfs_blocks_allocate(struct lfs_server *server, struct lfs_blocks *blocks, int fd, uint32_t mode, uint64_t offset, uint64_t length);
bool lfs_blocks_takes(struct lfs_blocks *blocks, uint64_t offset); /* whether punching a hole there may allocate */
int64_t lfs_blocks_seek(struct lfs_blocks *blocks, int fd, uint64_t offset, int whence);

/* --- create.c, remove.c, rename.c --- */
struct lfs_new { /* what to create */
	uint32_t mode, umask, rdev, uid, gid;
	const char *target; /* symlinks */
	int *fd;	    /* regular files: an owned descriptor, when wanted */
};
int lfs_create(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, const struct lfs_new *what, struct lfs_node **out,
	       struct fuse_attr *attr);
int lfs_tmpfile(struct lfs_server *server, struct lfs_node *dir, const struct lfs_new *what, struct lfs_node **out);
int lfs_link(struct lfs_server *server, struct lfs_node *node, struct lfs_node *dir, struct lfs_bytes name);
void lfs_named_again(struct lfs_server *server, struct lfs_node *node); /* a nameless entry has a name: it needs no pin */
int lfs_unlink(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, bool directory);
int lfs_rename(struct lfs_server *server, struct lfs_node *old_dir, struct lfs_bytes old_name, struct lfs_node *new_dir,
	       struct lfs_bytes new_name, unsigned flags);
void lfs_name_lost(struct lfs_server *server, struct lfs_name *name, bool last, int fd); /* fd: owned descriptor of the entry, or -1 */
void lfs_identity(uint32_t uid, uint32_t gid, uint32_t umask); /* of the calling thread, for what it creates */

/* --- handle.c: open files --- */
enum lfs_mode { LFS_MODE_NONE, LFS_MODE_CACHED, LFS_MODE_PASS_LOWER, LFS_MODE_PASS_UPPER };
struct lfs_file {
	struct lfs_node *node;
	struct lfs_node *successor;	 /* LFS_SPLIT: the node that has the name now; referenced */
	struct lfs_file *older, *newer;	 /* list of those with a descriptor that may be closed */
	int fd;				 /* of the bytes; opened when needed */
	int old_fd;			 /* of the lower bytes, after a copy-up while in use */
	struct lfs_delta *delta;	 /* of the lower bytes at `fd` or `old_fd` */
	int pinned;			 /* O_PATH or better, of an entry without a name */
	uint64_t parked;		 /* instead: the number of its name in scratch; 0: none */
	uint64_t leaving;		 /* bytes on the disk that come back when `pinned` is closed, which will be soon; 0: who knows */
	uint32_t handles, writers, busy; /* busy: fd is in use without the lock */
	int32_t backing;		 /* 0: none */
	uint8_t mode;
	bool fd_writable, fd_lower, counted;
	bool past_cache, capable; /* somebody may write past the page cache; and the next write must drop LFS_CAPABILITY */
	uint64_t charged; /* blocks that quota.c has counted, when `counted` */
	struct lfs_blocks *blocks; /* NULL: all of its bytes are at `fd` */
	struct lfs_blocks *old_blocks; /* of the lower bytes, as old_fd */
	bool blocks_lower;	   /* `blocks` are those of the lower bytes */
};
struct lfs_files {
	struct lfs_file *oldest, *newest;
	uint32_t open, limit, pinned; /* limit: of pinned ones */
	uint64_t last_parked;
	int lent; /* of a parked entry, for one operation; 0: none */
	uint64_t handles; /* the kernel's */
	uint64_t busy;	  /* sum over all files */
	atomic_ullong leaving; /* the same */
	atomic_ullong stuck;   /* as much of that stays for longer than anybody waits */
};
struct lfs_job { /* embedded in what it is about; it may be gone when run() returns */
	struct lfs_job *next;
	void (*run)(struct lfs_job *job);
};
#define LFS_CLOSING_MAX 64u
#define LFS_CLOSING_SMALL (64u << 10) /* bytes on the disk */
#define LFS_CLOSING_FEW 16u /* that may wait for the thread */
struct lfs_closed {
	int fds[LFS_CLOSING_MAX];
	unsigned count;
	uint64_t bytes; /* that come back */
};
struct lfs_closing { /* descriptors to be closed without the lock: of large files by who lets it go, of small ones by a thread */
	struct lfs_closed small, large;
	bool begun; /* the thread is at it, and takes what comes meanwhile */
	struct lfs_job job;
};
void lfs_unlock_and_close(struct lfs_server *server);
int lfs_open(struct lfs_server *server, struct lfs_node *node, uint32_t flags, bool kill, int fd, struct fuse_open_out *out);
	/* fd: owned descriptor of the upper file, or -1. May let the lock go. */
void lfs_release(struct lfs_server *server, struct lfs_node *node, uint64_t fh);
void lfs_close_later(struct lfs_server *server, int fd, uint64_t leaving); /* when the lock is let go */
void lfs_await_room(struct lfs_server *server); /* without the lock: until files that were removed have left a disk that is nearly full */
struct lfs_file *lfs_file_get(struct lfs_node *node); /* makes it; NULL: no memory */
void lfs_file_free(struct lfs_server *server, struct lfs_node *node);
int lfs_file_use(struct lfs_server *server, struct lfs_node *node, bool write, struct lfs_content *content);
	/* The bytes' descriptor, kept open until lfs_file_done; LFS_NO_FD and content->kind PACK: read it from there. */
int lfs_file_hold(struct lfs_server *server, struct lfs_node *node); /* keeps the open state, without a descriptor, until lfs_file_done */
void lfs_file_done(struct lfs_server *server, struct lfs_node *node);
int lfs_file_truncate(struct lfs_server *server, struct lfs_node *node, uint64_t size); /* in use, for writing */
void lfs_file_frozen(struct lfs_file *file); /* its bytes are lower ones from now on */
void lfs_file_risen(struct lfs_server *server, struct lfs_node *node); /* they were copied up */
int lfs_settle_data(struct lfs_server *server, struct lfs_node *node); /* after a copy-up of bytes: -ESTALE when another node has the names now */
int lfs_settle_names(struct lfs_server *server, struct lfs_node *node); /* before it gets another name: the same, as a split finds one name only */
int lfs_backing_open(struct lfs_server *server, int fd);	 /* an id, or -errno */
void lfs_backing_close(struct lfs_server *server, int32_t id);

/* --- quota.c --- */
struct lfs_quota {
	bool on, removing;
	pthread_mutex_t lock; /* the innermost one */
	int64_t used, inodes, reserved; /* bytes, entries, bytes that writes under way may allocate */
	atomic_uint doomed;		/* entries without a name that are kept for the kernel */
	uint64_t root_blocks;		/* counted for the root directory */
	char signature[128];
};
int lfs_quota_open(struct lfs_server *server, struct lfs_error *error);
void lfs_quota_close(struct lfs_server *server);
void lfs_quota_frozen(struct lfs_server *server);			  /* the upper was exchanged for an empty one, */
void lfs_quota_nameless(struct lfs_server *server, struct lfs_node *node); /* and this, if it has no name, was left out of it */
int lfs_quota_want(struct lfs_server *server, uint64_t inodes, uint64_t bytes); /* -ENOSPC */
void lfs_quota_await(struct lfs_server *server, uint64_t inodes, uint64_t bytes); /* without the lock: until it fits, for 20 ms at most */
int lfs_quota_reserve(struct lfs_server *server, uint64_t bytes);
void lfs_quota_unreserve(struct lfs_server *server, uint64_t bytes);
void lfs_quota_removing(struct lfs_server *server, bool removing); /* what goes on frees something: it may go a little over the limits */
void lfs_quota_add(struct lfs_server *server, int64_t inodes, int64_t blocks);
void lfs_quota_kept(struct lfs_server *server, struct lfs_kept *kept);	      /* a descriptor is kept from now on */
void lfs_quota_settle_kept(struct lfs_server *server, struct lfs_kept *kept); /* and is about to go */
void lfs_quota_settle_dir(struct lfs_server *server, struct lfs_node *dir);   /* after a change in it */
uint64_t lfs_quota_weight(struct lfs_server *server, struct lfs_node *node);  /* before a change of an entry or its end */
void lfs_quota_changed(struct lfs_server *server, struct lfs_node *node, uint64_t before);
void lfs_quota_follow(struct lfs_server *server, struct lfs_node *node); /* its bytes are about to change, without the lock */
int64_t lfs_quota_begin(struct lfs_server *server, int fd, uint64_t offset, uint64_t size, uint64_t *reserved);
	/* Without the lock: how much of a write may be done; -ENOSPC. Then: */
void lfs_quota_end(struct lfs_server *server, struct lfs_file *file, int fd, uint64_t reserved);
void lfs_quota_settle(struct lfs_server *server, struct lfs_file *file, int fd);
void lfs_quota_forget(struct lfs_server *server, struct lfs_node *node); /* its open state goes */
void lfs_quota_statfs(struct lfs_server *server, struct fuse_kstatfs *out); /* without the lock */

/* --- flags.c --- */
uint16_t lfs_protection_of(const char *value, ssize_t size);
uint16_t lfs_protection(struct lfs_server *server, int dir_fd, const char *name);
int lfs_may_add(struct lfs_server *server, struct lfs_node *dir); /* a name */
int lfs_may_remove(struct lfs_server *server, struct lfs_node *dir, struct lfs_node *node);
int lfs_may_link(struct lfs_server *server, struct lfs_node *node);
int lfs_may_open(struct lfs_server *server, struct lfs_node *node, uint32_t flags);
int lfs_may_set(struct lfs_server *server, struct lfs_node *node, uint32_t valid); /* FATTR_* */
int lfs_may_set_xattr(struct lfs_server *server, struct lfs_node *node);
int lfs_may_write(const struct lfs_node *node, int fd, uint64_t offset);
int lfs_may_allocate(const struct lfs_node *node, uint32_t mode);

/* --- idmap.c --- */
bool lfs_ids_show(const struct lfs_server *server, struct fuse_attr *attr); /* stored -> shown; false when one has no counterpart */
int lfs_id_store_user(const struct lfs_server *server, uint32_t *id);	   /* shown -> stored; -EOVERFLOW */
int lfs_id_store_group(const struct lfs_server *server, uint32_t *id);
int lfs_ids_store(const struct lfs_server *server, struct lfs_new *what); /* the caller's, for what it creates */
bool lfs_ids_caller(const struct lfs_server *server, uint32_t user, uint32_t group); /* false: has no stored ids */
bool lfs_ids_known(struct lfs_server *server, struct lfs_node *node, bool *user, bool *group);
int lfs_ids_show_xattr(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, uint8_t *out, size_t room);
int lfs_ids_store_xattr(const struct lfs_server *server, struct lfs_bytes name, struct lfs_bytes *value, uint8_t *space, size_t room);
	/* `value` may be moved to `space` for that. */

/* --- orphan.c: entries that are in use and have no name --- */
bool lfs_is_pinned(const struct lfs_node *node);
int lfs_pinned_fd(struct lfs_server *server, struct lfs_node *node); /* of one that is pinned: borrowed until the next call */
int lfs_pin(struct lfs_server *server, struct lfs_node *node, int fd); /* fd: owned; it has lost its last name */
int lfs_pin_before(struct lfs_server *server, struct lfs_node *node, bool last); /* it is about to lose a name: a descriptor for lfs_pin, if needed */
void lfs_pin_undo(struct lfs_server *server, struct lfs_node *node, int fd); /* it did not */
void lfs_pinned_leaves(struct lfs_server *server, struct lfs_node *node); /* nobody has it open (any more): it goes with the kernel's FORGET */
void lfs_pin_end(struct lfs_server *server, struct lfs_node *node);

/* --- xattr.c --- */
int lfs_xattr_get(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, void *out, size_t size);
int lfs_xattr_list(struct lfs_server *server, struct lfs_node *node, char *out, size_t size);
#define LFS_CAPABILITY "security.capability"
int lfs_xattr_set(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, struct lfs_bytes value, int flags);
int lfs_xattr_remove(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name);
int lfs_xattr_copy(struct lfs_server *server, uint64_t low, int fd); /* a lower inode's to an entry in scratch */

/* --- requests --- */
struct lfs_request {
	struct lfs_server *server;
	struct fuse_in_header header;
	struct lfs_node *node; /* of header.nodeid, in operations that run under the lock */
	const uint8_t *args; /* NUL bytes are not guaranteed behind it */
	size_t args_size;
	uint8_t *out; /* room for the reply's payload */
	size_t out_room, out_size;
	bool silent;	       /* no reply */
	struct lfs_node *undo; /* the reply gives the kernel a reference to this node: taken back when it is not delivered */
	uint64_t undo_handle;  /* the same for an opened handle */
	bool undo_open;
};
int lfs_dispatch(struct lfs_request *request); /* without the lock; the reply's error */
void lfs_undelivered(struct lfs_request *request);

typedef int lfs_operation(struct lfs_request *request);
#define LFS_OPERATIONS(X) \
	X(lookup) X(forget) X(batch_forget) X(getattr) X(setattr) X(readlink) X(symlink) X(mknod) X(mkdir) X(unlink) X(rmdir) X(rename) \
	X(rename2) X(link) X(open) X(read) X(write) X(statfs) X(release) X(fsync) X(setxattr) X(getxattr) X(listxattr) X(removexattr) \
	X(init) X(opendir) X(releasedir) X(readdir) X(readdirplus) X(fsyncdir) X(create) X(tmpfile) X(ioctl) X(fallocate) X(lseek) X(copy_file_range) \
	X(copy_file_range_64) X(syncfs) X(destroy)
#define LFS_DECLARE(name) lfs_operation lfs_op_##name;
LFS_OPERATIONS(LFS_DECLARE)
#undef LFS_DECLARE

bool lfs_attr_lasts(const struct lfs_node *node); /* whether the kernel may keep its attributes */
void lfs_fill_entry(struct lfs_server *server, struct lfs_node *node, const struct fuse_attr *attr, struct fuse_entry_out *out); /* gives the kernel one reference */
int lfs_reply_entry(struct lfs_request *request, struct lfs_node *node, const struct fuse_attr *attr); /* takes the caller's reference over */
int lfs_name_argument(const struct lfs_request *request, size_t *at, struct lfs_bytes *name); /* a NUL-ended name at args + *at */

/* --- aside.c: threads for what may take long --- */
#define LFS_ASIDE_MAX 16u
struct lfs_aside {
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	struct lfs_job *first;
	pthread_t threads[LFS_ASIDE_MAX];
	unsigned count, idle, waiting; /* idle: threads without a job, also those about to take one of the waiting */
	bool ending;
};
int lfs_aside(struct lfs_server *server, struct lfs_job *job); /* 0: some thread will run it */
void lfs_aside_end(struct lfs_server *server);		       /* after the last job */
bool lfs_takes_long(struct lfs_request *request);	       /* a request that others should not have to wait for; takes the lock */

/* --- pace.c: where the threads that read requests run --- */
struct lfs_reader {
	int thread;
	uint32_t caller, streak; /* the thread that the last requests came from, and how many they were */
	atomic_int processor;	 /* this one is bound to; -1: none */
	atomic_uint served;
	uint64_t stamp, before;	 /* since when steps are counted; nanoseconds that one took before it was alone */
	uint32_t steps;
	uint64_t waits_since;
	atomic_bool waits; /* alone, for a disk */
	bool extra, fixed;	/* extra: may park; fixed: stays on its processor */
};
struct lfs_pace {
	pthread_mutex_t lock;
	pthread_cond_t watch, unpark;
	_Atomic(struct lfs_reader *) alone;
	atomic_uint after; /* requests of one caller before its reader is alone */
	atomic_bool possible;
	pthread_t watcher;
	atomic_uint began;
	unsigned parked, seen, quiet; /* seen, began: requests served at the last look and when it began; quiet: looks without one */
	bool watched, ending;
};
void lfs_pace_init(struct lfs_server *server);
void lfs_pace_leave(struct lfs_server *server); /* a new thread is neither bound nor gives way because who made it does */
void lfs_pace_start(struct lfs_reader *reader, int processor); /* the calling thread; -1: it may be moved */
void lfs_pace_request(struct lfs_server *server, struct lfs_reader *reader, uint32_t caller);
bool lfs_pace_parks(const struct lfs_server *server, const struct lfs_reader *reader);
void lfs_pace_park(struct lfs_server *server, struct lfs_reader *reader);
bool lfs_pace_waits(struct lfs_server *server, struct lfs_reader *reader, uint32_t opcode); /* a request takes long: whether nobody else need read */
void lfs_pace_waited(struct lfs_server *server, struct lfs_reader *reader);
bool lfs_pace_spread(struct lfs_server *server, const struct lfs_reader *reader); /* others have to be served meanwhile; whether another one reads, or a parked one will */
void lfs_pace_end(struct lfs_server *server);

/* --- transport_device.c, transport_uring.c --- */
void lfs_clone_devices(struct lfs_server *server); /* while /dev can still be seen */
int lfs_serve_init(struct lfs_server *server);
int lfs_serve_device(struct lfs_server *server); /* returns when the mount is gone */
void lfs_uring_prepare(struct lfs_server *server); /* before INIT: server->rings, when this host allows it */
bool lfs_uring_start(struct lfs_server *server);   /* after INIT; false: requests come by the device */
void lfs_uring_join(struct lfs_server *server);	   /* when the mount is gone: until its threads have ended */
void lfs_uring_end(struct lfs_server *server);
int lfs_notify_attr(struct lfs_server *server, const struct lfs_node *node); /* drops the kernel's cached attributes */
void lfs_thread_start(struct lfs_server *server);  /* a thread's own working directory, umask and identity */

/* --- mounting.c --- */
void lfs_mount_begin(struct lfs_server *server); /* server->detached, when this host can: requests may be answered, but nobody sees it */
int lfs_mount(struct lfs_server *server, struct lfs_error *error);
int lfs_unmount(struct lfs_server *server, bool lazy);
int lfs_namespace_make(struct lfs_server *server, struct lfs_error *error); /* an empty one; before the mount */
void lfs_namespace_leave(struct lfs_server *server); /* the caller's, for that one */
int lfs_fusermount(struct lfs_server *server, struct lfs_error *error);
int lfs_fusermount_undo(struct lfs_server *server, bool lazy);

/* --- stats.c, control.c --- */
#define LFS_BUCKETS 24u	    /* of latencies: below 1 us, 2 us, 4 us ...; the last one takes the rest */
#define LFS_BUCKET_SHIFT 10u
#define LFS_COUNTERS(X) \
	X(lookups_known) X(lookups_absent) X(opens_passthrough) X(opens_cached) X(listings_cached) X(listings_read) X(copied_up) X(copied_bytes) \
	X(copied_by_blocks) X(completed) X(splits) X(stale) X(bytes_read) X(bytes_written) X(undelivered) X(synced_before) X(alone) X(alone_in_vain)
#define LFS_COUNT_ENUM(name) LFS_COUNT_##name,
enum lfs_counter { LFS_COUNTERS(LFS_COUNT_ENUM) LFS_COUNTS };
#undef LFS_COUNT_ENUM
struct lfs_operation_stats {
	atomic_ullong count, errors, nanoseconds, buckets[LFS_BUCKETS];
};
struct lfs_meter { /* of one thread, the only one that writes to it */
	struct lfs_meter *next;
	atomic_ullong counts[LFS_COUNTS];
	struct lfs_operation_stats operations[FUSE_OP_LIMIT];
};
struct lfs_stats {
	_Atomic(struct lfs_meter *) meters;
	uint64_t started;
};
extern _Thread_local struct lfs_meter *lfs_meter; /* NULL: this thread does not count */
static inline void lfs_bump(atomic_ullong *place, uint64_t amount)
{
	atomic_store_explicit(place, atomic_load_explicit(place, memory_order_relaxed) + amount, memory_order_relaxed);
}
static inline void lfs_count(enum lfs_counter counter, uint64_t amount)
{
	if (lfs_meter)
		lfs_bump(&lfs_meter->counts[counter], amount);
}
uint64_t lfs_now(void); /* nanoseconds */
void lfs_meter_start(struct lfs_server *server); /* the calling thread counts from now on */
void lfs_count_request(uint32_t opcode, int error, uint64_t nanoseconds);
int lfs_stats_json(struct lfs_server *server, char **out, size_t *size); /* owned text; takes the lock */
void lfs_stats_free(struct lfs_server *server);
int lfs_control_start(struct lfs_server *server); /* on options.control, which it owns */
void lfs_control_stop(struct lfs_server *server);

/* --- lower.c, main.c: mapped pages of the tree are let go a moment after many were used, in a process of our own --- */
#define LFS_TIDY_EVERY 256u
struct lfs_tidy {
	uint32_t count; /* looks at names */
	bool armed;
	bool possible; /* a thread of main.c awaits SIGALRM */
};
void lfs_tidy_arm(struct lfs_server *server);

/* --- newest.c: a new file that was synced brings its directory along --- */
struct lfs_newest {
	bool ordered; /* the host commits names in order */
	bool known, synced;
	uint32_t dir, file; /* generations */
};
void lfs_newest_start(struct lfs_server *server);
void lfs_newest_made(struct lfs_server *server, const struct lfs_node *dir, const struct lfs_node *file); /* nothing happened since */
void lfs_newest_forget(struct lfs_server *server); /* before anything else happens to names, or to a directory */
bool lfs_newest_is(const struct lfs_server *server, const struct lfs_node *file);
void lfs_newest_synced(struct lfs_server *server, const struct lfs_node *file);
bool lfs_newest_covers(const struct lfs_server *server, const struct lfs_node *dir);

struct lfs_server {
	struct lfs_options options;
	pthread_mutex_t lock;
	pthread_cond_t copied; /* an LFS_COPYING flag was cleared */
	pthread_cond_t quiet, thawed; /* nothing is under way; the freeze is over */
	atomic_bool freezing;
	uint64_t last_pause; /* nanoseconds that the last freeze held requests up */
	unsigned running; /* operations that let the lock go in between */
	int device;	       /* /dev/fuse */
	int detached;	       /* the mount, before it is attached */
	int clones[LFS_THREADS_MAX - 1];
	bool embedded; /* in a thread of another program's */
	bool writable, by_program, passthrough, acl, killpriv, setxattr_ext, no_opendir, no_open, ready;
	atomic_bool ending, uring;
	uint32_t max_write;
	uint32_t minor;
	struct lfs_rights rights;
	struct lfs_nodes nodes;
	struct lfs_lower lower;
	struct lfs_upper upper;
	struct lfs_server *layers[LFS_LAYERS_MAX]; /* frozen ones, the lowest first */
	unsigned layer_count;	       /* also a layer's own place */
	struct lfs_linked linked; /* of a layer */
	struct lfs_moves moves;
	struct lfs_listings listings;
	struct lfs_files files;
	struct lfs_closing closing;
	struct lfs_tidy tidy;
	struct lfs_quota quota;
	struct lfs_stats stats;
	struct lfs_aside aside;
	struct lfs_filler filler;
	struct lfs_newest newest;
	atomic_uint readers; /* of the device, that are not at something that takes long */
	unsigned readers_wanted;
	struct lfs_pace pace;
	struct lfs_uring *rings; /* FUSE over io_uring; NULL: not here */
	int proc;		/* /proc, to find the mount's namespace again; -1: not left */
	uint64_t namespace_id;	/* of the mount namespace we were started in */
	int own_namespace;	/* the empty one */
	cpu_set_t processors;	/* we may run on */
	pthread_t control; /* its thread, when control_end is an event descriptor */
	int control_end;
};

/* --- server.c: all but the mount --- */
void lfs_server_init(struct lfs_server *server);
int lfs_server_open(struct lfs_server *server, struct lfs_error *error); /* as server->options say */
int lfs_server_start(struct lfs_server *server, int orders, struct lfs_error *error); /* mounted, and ready to serve */
bool lfs_server_say(struct lfs_server *server, const char *text); /* to who started us; false: nobody listens any more */
void lfs_server_say_error(struct lfs_server *server, int rc, const struct lfs_error *error);

/* --- embedded.c --- */
int lfs_serve_here(int orders); /* all of it, in the calling thread */
void lfs_server_close(struct lfs_server *server);

static inline void lfs_tidy_soon(struct lfs_server *server)
{
	if (++server->tidy.count % LFS_TIDY_EVERY == 0 && !server->tidy.armed)
		lfs_tidy_arm(server);
}

static inline void lfs_lock(struct lfs_server *server)
{
	pthread_mutex_lock(&server->lock);
}
static inline void lfs_unlock(struct lfs_server *server)
{
	if (server->closing.large.count || (server->closing.small.count && !server->closing.begun))
		lfs_unlock_and_close(server);
	else
		pthread_mutex_unlock(&server->lock);
}

#endif
