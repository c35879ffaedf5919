/* Directory listings with offsets that stay good whatever happens between two reads, since the kernel opens no directory here.
 *
 * First come the lower directory's names at their places in the tree file (whether or not the upper has them too), then the names that
 * only the upper has, ordered by a keyed hash: listed() | hash is their offset. So a lower directory keeps its offsets when it is copied up,
 * and creating or removing names moves nobody. A merged directory's upper names are kept in memory while it is being read. With frozen layers
 * below, their names come in between, each layer's behind those of the one below. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "../core/erofs_read.h"
#include "server.h"

#define LISTED_SHIFT 56
#define HASH_MASK ((1ull << LISTED_SHIFT) - 1)
#define KEPT_BYTES (2u << 20)
enum { TYPE_GONE = 255, TYPE_WHITEOUT = 254, TYPE_LOOK = 253 }; /* LOOK: may be a whiteout in its xattr form */

/* Offsets of names that the upper has, or a layer's directory, begin here. */
static uint64_t listed(const struct lfs_server *server)
{
	return (uint64_t)(server->layer_count + 1) << LISTED_SHIFT;
}

/* --- the kept ones --- */

static uint64_t listing_bytes(const struct lfs_listing *listing)
{
	return sizeof *listing + listing->capacity * sizeof *listing->items + listing->names_capacity;
}

static void list_unlink(struct lfs_listings *all, struct lfs_listing *listing)
{
	*(listing->older ? &listing->older->newer : &all->oldest) = listing->newer;
	*(listing->newer ? &listing->newer->older : &all->newest) = listing->older;
	all->bytes -= listing_bytes(listing);
}

static void list_newest(struct lfs_listings *all, struct lfs_listing *listing)
{
	listing->newer = NULL;
	listing->older = all->newest;
	*(all->newest ? &all->newest->newer : &all->oldest) = listing;
	all->newest = listing;
	all->bytes += listing_bytes(listing);
}

static void listing_free(struct lfs_listing *listing)
{
	free(listing->items);
	free(listing->names);
	free(listing);
}

void lfs_listing_drop(struct lfs_server *server, struct lfs_node *dir)
{
	if (!dir->listing)
		return;
	list_unlink(&server->listings, dir->listing);
	listing_free(dir->listing);
	dir->listing = NULL;
}

static void trim(struct lfs_server *server)
{
	struct lfs_listings *all = &server->listings;
	while (all->bytes > KEPT_BYTES && all->oldest != all->newest)
		lfs_listing_drop(server, all->oldest->dir);
}

/* --- filling --- */

static uint64_t name_hash(const struct lfs_server *server, const char *name, size_t size)
{
	uint64_t hash = lfs_hash(server, name, size, 0) & HASH_MASK;
	return hash < 2 ? hash + 2 : hash; /* 0 and 1 are "." and ".." */
}

static int add_item(struct lfs_server *server, struct lfs_listing *listing, const char *name, uint8_t type)
{
	size_t size = strlen(name);
	if (listing->count == listing->capacity) {
		uint32_t wider = listing->capacity ? listing->capacity * 2 : 32;
		struct lfs_listed *grown = realloc(listing->items, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		listing->items = grown;
		listing->capacity = wider;
	}
	if (listing->names_size + size + 1 > listing->names_capacity) {
		uint32_t wider = (listing->names_capacity + (uint32_t)size + 1) * 2;
		char *grown = wider > listing->names_capacity ? realloc(listing->names, wider) : NULL; /* names of over 2 GiB */
		if (!grown)
			return -ENOMEM;
		listing->names = grown;
		listing->names_capacity = wider;
	}
	memcpy(listing->names + listing->names_size, name, size + 1);
	listing->items[listing->count++] =
		(struct lfs_listed){name_hash(server, name, size), listing->names_size, (uint8_t)size, type};
	listing->names_size += (uint32_t)size + 1;
	return 0;
}

static int by_hash(const void *a, const void *b)
{
	uint64_t x = ((const struct lfs_listed *)a)->hash, y = ((const struct lfs_listed *)b)->hash;
	return (x > y) - (x < y);
}

/* Merges what was added behind the sorted part into it, and lets go of what is gone. */
static int sort_items(struct lfs_listing *listing)
{
	uint32_t tail = listing->count - listing->sorted, i = 0, j = listing->sorted, at = 0;
	if (!tail)
		return 0;
	qsort(listing->items + listing->sorted, tail, sizeof *listing->items, by_hash);
	struct lfs_listed *merged = malloc(listing->capacity * sizeof *merged);
	if (!merged)
		return -ENOMEM;
	while (i < listing->sorted || j < listing->count) {
		bool first = j == listing->count || (i < listing->sorted && listing->items[i].hash <= listing->items[j].hash);
		const struct lfs_listed *item = &listing->items[first ? i++ : j++];
		if (item->type != TYPE_GONE)
			merged[at++] = *item;
	}
	free(listing->items);
	listing->items = merged;
	listing->count = listing->sorted = at;
	return 0;
}

static uint8_t entry_type(const struct lfs_node *dir, int fd, const struct dirent *entry)
{
	uint8_t type = entry->d_type;
	struct stat status;
	if (type == DT_UNKNOWN || type == DT_CHR) {
		if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return TYPE_GONE;
		if (lfs_is_whiteout(&status))
			return TYPE_WHITEOUT;
		type = (uint8_t)IFTODT(status.st_mode);
	}
	return type == DT_REG && dir->flags & LFS_ALTERNATE ? TYPE_LOOK : type;
}

static int read_upper(struct lfs_server *server, struct lfs_node *dir, struct lfs_listing *listing)
{
	int fd = lfs_dir_reopen(server, dir);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		int rc = fd < 0 ? fd : -errno;
		lfs_close_fd(&fd);
		return rc;
	}
	int rc = 0;
	for (struct dirent *entry; !rc;) {
		errno = 0;
		if (!(entry = readdir(stream))) {
			rc = -errno;
			break;
		}
		uint8_t type;
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && (type = entry_type(dir, fd, entry)) != TYPE_GONE)
			rc = add_item(server, listing, entry->d_name, type);
	}
	closedir(stream);
	return rc;
}

static int get_listing(struct lfs_server *server, struct lfs_node *dir, struct lfs_listing **out)
{
	struct lfs_listing *listing = dir->listing;
	int rc = 0;
	if (listing) {
		lfs_count(LFS_COUNT_listings_cached, 1);
		list_unlink(&server->listings, listing);
		rc = sort_items(listing);
	} else {
		listing = calloc(1, sizeof *listing);
		if (!listing)
			return -ENOMEM;
		lfs_count(LFS_COUNT_listings_read, 1);
		listing->dir = dir;
		rc = read_upper(server, dir, listing);
		if (rc >= 0)
			rc = sort_items(listing);
		if (rc < 0) {
			listing_free(listing);
			return rc;
		}
		dir->listing = listing;
	}
	list_newest(&server->listings, listing);
	trim(server);
	*out = listing;
	return rc;
}

static uint32_t first_from(const struct lfs_listing *listing, uint64_t hash)
{
	uint32_t low = 0, high = listing->sorted;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (listing->items[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct lfs_listed *find_item(const struct lfs_server *server, struct lfs_listing *listing, const char *name, size_t size)
{
	uint64_t hash = name_hash(server, name, size);
	for (uint32_t i = first_from(listing, hash); i < listing->sorted && listing->items[i].hash == hash; i++)
		if (listing->items[i].size == size && !memcmp(listing->names + listing->items[i].name, name, size) &&
		    listing->items[i].type != TYPE_GONE)
			return &listing->items[i];
	for (uint32_t i = listing->count; i-- > listing->sorted;)
		if (listing->items[i].hash == hash && listing->items[i].type != TYPE_GONE && listing->items[i].size == size &&
		    !memcmp(listing->names + listing->items[i].name, name, size))
			return &listing->items[i];
	return NULL;
}

/* --- keeping them true --- */

static void set_item(struct lfs_server *server, struct lfs_node *dir, const char *name, uint8_t type)
{
	if (!lfs_node_is_dir(dir) || dir->flags & LFS_UNLINKED || !dir->listing)
		return;
	struct lfs_listing *listing = dir->listing;
	struct lfs_listed *item = find_item(server, listing, name, strlen(name));
	uint64_t before = listing_bytes(listing);
	if (item)
		item->type = type;
	else if (type != TYPE_GONE && (listing->count - listing->sorted > 4096 || add_item(server, listing, name, type) < 0)) {
		lfs_listing_drop(server, dir);
		return;
	}
	server->listings.bytes += listing_bytes(listing) - before;
}

void lfs_listing_add(struct lfs_server *server, struct lfs_node *dir, const char *name, uint32_t mode)
{
	set_item(server, dir, name, (uint8_t)IFTODT(mode));
}

void lfs_listing_gone(struct lfs_server *server, struct lfs_node *dir, const char *name)
{
	set_item(server, dir, name, TYPE_GONE);
}

void lfs_listing_whiteout(struct lfs_server *server, struct lfs_node *dir, const char *name)
{
	set_item(server, dir, name, TYPE_WHITEOUT);
}

/* --- reading --- */

static const uint8_t low_types[8] = {DT_UNKNOWN, DT_REG, DT_DIR, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_LNK};

static bool is_dots(struct lfs_bytes name)
{
	return name.size <= 2 && !memcmp(name.data, "..", name.size);
}

/* The type of a name that the upper has, resolving what only a lookup can tell; TYPE_GONE: it shows nothing. */
static uint8_t shown_type(struct lfs_server *server, struct lfs_node *dir, struct lfs_bytes name, uint8_t type)
{
	struct lfs_node *node;
	if (type == TYPE_WHITEOUT || type == TYPE_GONE)
		return TYPE_GONE;
	if (type != TYPE_LOOK)
		return type;
	if (lfs_look(server, dir, name, &node, NULL) < 0)
		return TYPE_GONE;
	type = (uint8_t)node->type;
	lfs_node_put(server, node);
	return type;
}

struct merge { /* a directory whose lower names are being listed */
	struct lfs_server *server;
	struct lfs_node *dir;
	struct lfs_listing *listing; /* of the upper; or NULL */
	lfs_see *see;
	void *context;
};

static int see_lower(const struct merge *merge, struct lfs_seen *seen)
{
	struct lfs_listed *item = NULL;
	if (merge->listing && !seen->dots)
		item = find_item(merge->server, merge->listing, seen->name.data, seen->name.size);
	if (item) {
		seen->low = 0;
		seen->type = shown_type(merge->server, merge->dir, seen->name, item->type);
		if (seen->type == TYPE_GONE)
			return 0;
	}
	return merge->see(merge->context, seen);
}

/* A name of a frozen layer: its own ones get their number. */
static int see_layer(void *context, const struct lfs_seen *seen)
{
	const struct merge *merge = context;
	struct lfs_seen mine = *seen;
	if (!mine.low && !mine.dots) {
		int rc = lfs_low_child(merge->server, merge->dir->low, mine.name, &mine.low);
		if (rc < 0)
			return rc == -ENOENT ? 0 : rc;
	}
	return see_lower(merge, &mine);
}

static int list_all(struct lfs_server *server, struct lfs_node *dir, uint64_t offset, lfs_see *see, void *context);

static int list_layer(struct merge *merge, uint64_t offset)
{
	struct lfs_node *node;
	struct lfs_server *layer = lfs_layer(merge->server, merge->dir->low, &node);
	return node ? list_all(layer, node, offset, see_layer, merge) : -EIO;
}

static int list_lower(struct lfs_server *server, struct lfs_node *dir, struct lfs_listing *listing, uint64_t offset, lfs_see *see, void *context)
{
	struct lfs_inode inode;
	struct lfs_dirent entry;
	struct merge merge = {server, dir, listing, see, context};
	uint64_t position = offset;
	if (dir->low & LFS_FROZEN)
		return list_layer(&merge, offset);
	int rc = lfs_low_inode(server, dir->low, &inode);
	if (rc < 0)
		return rc;
	while (!(rc = lfs_image_next(&server->lower.image, &inode, &position, &entry))) {
		struct lfs_seen seen = {entry.name, position, low_types[entry.type & 7], entry.nid, is_dots(entry.name)};
		if ((rc = see_lower(&merge, &seen)))
			return rc;
	}
	return rc < 0 ? rc : 0;
}

static int list_dots(struct lfs_server *server, uint64_t hash, lfs_see *see, void *context)
{
	static const char *const names[] = {".", ".."};
	int rc = 0;
	for (uint64_t i = hash; i < 2 && !rc; i++) {
		struct lfs_seen seen = {{names[i], (size_t)i + 1}, listed(server) | (i + 1), DT_DIR, 0, true};
		rc = see(context, &seen);
	}
	return rc;
}

static int list_upper(struct lfs_server *server, struct lfs_node *dir, struct lfs_listing *listing, uint64_t hash, lfs_see *see, void *context)
{
	int rc = hash < 2 && !dir->low ? list_dots(server, hash, see, context) : 0;
	for (uint32_t i = first_from(listing, hash); i < listing->sorted && !rc; i++) {
		const struct lfs_listed *item = &listing->items[i];
		struct lfs_seen seen = {{listing->names + item->name, item->size}, listed(server) | (item->hash + 1), item->type, 0, false};
		if (item->type == TYPE_GONE || item->type == TYPE_WHITEOUT || lfs_low_shows(server, dir, seen.name))
			continue;
		seen.type = shown_type(server, dir, seen.name, item->type);
		if (seen.type != TYPE_GONE)
			rc = see(context, &seen);
	}
	return rc;
}

/* 1: `see` has stopped it. */
static int list_all(struct lfs_server *server, struct lfs_node *dir, uint64_t offset, lfs_see *see, void *context)
{
	struct lfs_listing *listing = NULL;
	int rc = dir->flags & LFS_LATE ? lfs_wake(server, dir) : 0;
	if (rc < 0)
		return rc;
	if (dir->flags & LFS_UNLINKED)
		return 0;
	if (dir->flags & LFS_HERE && (rc = get_listing(server, dir, &listing)) < 0)
		return rc;
	if (dir->low && offset < listed(server))
		rc = list_lower(server, dir, listing, offset, see, context);
	if (!rc && listing)
		rc = list_upper(server, dir, listing, offset < listed(server) ? 0 : offset & HASH_MASK, see, context);
	return rc;
}

int lfs_list(struct lfs_server *server, struct lfs_node *dir, uint64_t offset, lfs_see *see, void *context)
{
	int rc = list_all(server, dir, offset, see, context);
	return rc < 0 ? rc : 0;
}

/* --- questions --- */

static int see_any(void *context, const struct lfs_seen *seen)
{
	*(bool *)context |= !seen->dots;
	return !seen->dots;
}

int lfs_dir_empty(struct lfs_server *server, struct lfs_node *dir)
{
	bool any = false;
	int rc = lfs_list(server, dir, 0, see_any, &any);
	return rc < 0 ? rc : any ? -ENOTEMPTY : 0;
}

int lfs_dir_litter(struct lfs_server *server, struct lfs_node *dir)
{
	struct lfs_listing *listing;
	int rc = dir->flags & LFS_HERE ? get_listing(server, dir, &listing) : 0;
	if (rc < 0 || !(dir->flags & LFS_HERE))
		return rc;
	for (uint32_t i = 0; i < listing->count; i++)
		if (listing->items[i].type != TYPE_GONE)
			return 1;
	return 0;
}
