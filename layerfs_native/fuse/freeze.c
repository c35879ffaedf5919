/* The upper becomes a frozen layer while we serve, and an empty directory takes its place: no copy, whatever there is. Requests wait meanwhile;
 * those that have begun are waited for. What the kernel knows stays good: nodes that were in the upper are lower ones from now on (LFS_LATE), and
 * whoever writes to one copies it up, also through a descriptor that was open before.
 *
 * Files that the kernel writes by itself (open in passthrough) are the exception: they go on in the new upper, and the layer gets a copy. So do
 * small ones that are only read, as descriptors of small lower files see later writes. Of such a file we must know all names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "server.h"

#define COPY_TRIES 8
#define QUIET_TRIES 100 /* of 0.2 ms: to begin at a moment when nothing is under way */
#define PATIENCE_NS 2000000000ull
#define ROOM (256u << 10) /* on the disk, for names and marks, and so much more for each directory: */
#define ROOM_OF_DIRECTORY (2u * LFS_BLOCK)

struct kept { /* a name of a file that goes on in the new upper; those of one file follow each other */
	struct lfs_node *node;
	const struct lfs_name *name;
	bool more;		  /* not the file's first one */
	char note[LFS_TEMP_SIZE]; /* of the first of several: see parted.c; empty: none */
	char temp[LFS_TEMP_SIZE]; /* in the old scratch: first the copy, then the file itself */
	int copy;		  /* of the first one: to be synced when others go on */
};

struct freeze {
	struct lfs_server *server;
	struct lfs_place place;
	int old_scratch; /* borrowed from the layer */
	struct kept *kept;
	size_t kept_count, kept_done; /* done: have changed places with their copy */
	struct lfs_server *layer;
};

/* --- waiting --- */

void lfs_await_thaw(struct lfs_server *server)
{
	while (atomic_load(&server->freezing))
		pthread_cond_wait(&server->thawed, &server->lock);
}

static bool is_quiet(const struct lfs_server *server)
{
	return !server->running && !server->files.busy;
}

/* Takes the lock, at a moment when nothing is under way. */
static int await_quiet(struct lfs_server *server)
{
	uint64_t began = lfs_now();
	for (unsigned tries = 0;; tries++) {
		lfs_lock(server);
		if (atomic_load(&server->freezing)) {
			lfs_unlock(server);
			return -EBUSY;
		}
		if (is_quiet(server) || (tries >= QUIET_TRIES && !server->running))
			break;
		lfs_unlock(server);
		if (lfs_now() - began > PATIENCE_NS)
			return -EBUSY;
		usleep(200);
	}
	atomic_store(&server->freezing, true);
	lfs_newest_forget(server);
	while (!is_quiet(server))
		pthread_cond_wait(&server->quiet, &server->lock);
	return 0;
}

static void thaw(struct lfs_server *server)
{
	atomic_store(&server->freezing, false);
	pthread_cond_broadcast(&server->thawed);
	lfs_unlock(server);
}

/* --- nodes --- */

static int each_node(struct lfs_server *server, int (*see)(struct freeze *freeze, struct lfs_node *node), struct freeze *freeze)
{
	struct lfs_nodes *nodes = &server->nodes;
	int rc = 0;
	for (uint32_t i = 0; i < nodes->block_count; i++)
		for (uint32_t at = 0; nodes->blocks[i].nodes && at < nodes->blocks[i].fresh && rc >= 0; at++)
			if (nodes->blocks[i].nodes[at].refs)
				rc = see(freeze, &nodes->blocks[i].nodes[at]);
	return rc;
}

static bool goes_down(const struct lfs_server *server, const struct lfs_node *node)
{
	return node != server->nodes.root && node->flags & LFS_HERE && !(node->flags & LFS_UNLINKED) && !lfs_is_pinned(node);
}

bool lfs_goes_on(const struct lfs_server *server, const struct lfs_node *node, const struct stat *status)
{
	const struct lfs_file *file = node->file;
	return file->writers || server->options.strict || (uint64_t)status->st_size < server->options.pass_lower_size;
}

static int keep_names(struct freeze *freeze, struct lfs_node *node, unsigned count)
{
	unsigned known = 0;
	for (const struct lfs_name *name = node->names; name; name = name->sibling, known++) {
		struct kept *wider = realloc(freeze->kept, (freeze->kept_count + 1) * sizeof *wider);
		if (!wider)
			return -ENOMEM;
		freeze->kept = wider;
		struct kept *kept = &wider[freeze->kept_count++];
		*kept = (struct kept){.node = node, .name = name, .more = known > 0, .copy = LFS_NO_FD};
		lfs_temp_name(freeze->server, kept->temp);
	}
	return known == count ? 0 : -EBUSY; /* nobody has looked at the others yet */
}

/* Whether a node stands in the way, or is one of those that go on. */
static int collect(struct freeze *freeze, struct lfs_node *node)
{
	struct lfs_server *server = freeze->server;
	struct stat status;
	if (lfs_is_pinned(node) && !(node->flags & LFS_UNLINKED))
		return -EBUSY; /* held by its inode, which has other names */
	if (!goes_down(server, node))
		return 0;
	if (!node->names)
		return -EBUSY;
	if (!lfs_node_is_file(node) || !node->file || !node->file->handles || node->file->mode != LFS_MODE_PASS_UPPER)
		return 0;
	int rc = lfs_entry_stat(server, node, &status);
	return rc < 0 || !lfs_goes_on(server, node, &status) ? rc : keep_names(freeze, node, (unsigned)status.st_nlink);
}

static int bring_down(struct freeze *freeze, struct lfs_node *node)
{
	if (!goes_down(freeze->server, node))
		return 0;
	node->flags = (uint16_t)((node->flags & ~(LFS_HERE | LFS_ALTERNATE | LFS_IMPURE | LFS_METACOPY | LFS_BLOCKS | LFS_INCAPABLE)) | LFS_LATE);
	if (lfs_node_is_file(node) && node->file) {
		lfs_file_frozen(node->file);
		if (node->file->mode == LFS_MODE_PASS_UPPER)
			node->file->mode = LFS_MODE_PASS_LOWER;
	}
	return node->flags & LFS_SHARED ? lfs_same_set(freeze->server, node, node->ino) : 0;
}

static int move_parked(struct freeze *freeze, struct lfs_node *node)
{
	char name[LFS_TEMP_SIZE];
	if (!lfs_is_pinned(node) || !node->file->parked)
		return 0;
	snprintf(name, sizeof name, "orphan-%llx", (unsigned long long)node->file->parked);
	return lfs_rename_at(freeze->server, freeze->old_scratch, name, freeze->place.scratch, name, 0);
}

static int weigh_nameless(struct freeze *freeze, struct lfs_node *node)
{
	lfs_quota_nameless(freeze->server, node);
	return 0;
}

/* --- copies for the layer --- */

static int copy_xattrs(int source, int target)
{
	char *list = malloc(65536), *value = malloc(65536);
	int rc = list && value ? 0 : -ENOMEM;
	ssize_t size = rc < 0 ? 0 : flistxattr(source, list, 65536);
	for (ssize_t at = 0; rc >= 0 && at < size; at += (ssize_t)strlen(list + at) + 1) {
		ssize_t got = fgetxattr(source, list + at, value, 65536);
		if (got < 0 || (fsetxattr(target, list + at, value, (size_t)got, 0) < 0 && errno != EPERM && errno != ENOTSUP))
			rc = -errno;
	}
	free(list);
	free(value);
	return rc;
}

static bool same_stamp(const struct stat *a, const struct stat *b)
{
	return a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec && a->st_size == b->st_size;
}

/* The kernel may be writing: until it was the same before and after. */
static int copy_whole(int source, int target, struct stat *status)
{
	struct stat after;
	for (unsigned tries = 0; tries < COPY_TRIES; tries++) {
		if (fstat(source, status) < 0 || ftruncate(target, 0) < 0)
			return -errno;
		int rc = lfs_copy_extents(source, target, (uint64_t)status->st_size);
		if (rc < 0 && rc != -EIO) /* it became shorter */
			return rc;
		if (fstat(source, &after) < 0)
			return -errno;
		if (rc >= 0 && same_stamp(status, &after))
			return 0;
	}
	return -EBUSY;
}

static int copy_kept(struct lfs_server *server, struct kept *kept)
{
	struct stat status;
	LFS_AUTO_FD source = lfs_entry_open(server, kept->node, O_RDONLY);
	if (source < 0)
		return source;
	lfs_identity(0, 0, 0);
	LFS_AUTO_FD target = openat(server->upper.scratch, kept->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc = target < 0 ? -errno : copy_whole(source, target, &status);
	if (rc >= 0 && server->rights.give && fchown(target, status.st_uid, status.st_gid) < 0)
		rc = -errno;
	if (rc >= 0)
		rc = copy_xattrs(source, target);
	struct timespec times[2] = {status.st_atim, status.st_mtim};
	if (rc >= 0 && (fchmod(target, status.st_mode & 07777) < 0 || futimens(target, times) < 0))
		rc = -errno;
	kept->copy = rc < 0 ? LFS_NO_FD : lfs_steal_fd(&target);
	return rc;
}

static int exchange(struct lfs_server *server, const struct kept *kept)
{
	struct stat status;
	int dir = lfs_dir_fd(server, kept->name->dir);
	if (dir < 0 || fstat(dir, &status) < 0)
		return dir < 0 ? dir : -errno;
	int rc = lfs_rename_at(server, server->upper.scratch, kept->temp, dir, kept->name->text, RENAME_EXCHANGE);
	struct timespec times[2] = {status.st_atim, status.st_mtim};
	futimens(dir, times);
	return rc;
}

/* The copy is linked as the file is. */
static int link_copy(struct lfs_server *server, const struct kept *first, const struct kept *kept)
{
	return linkat(server->upper.scratch, first->temp, server->upper.scratch, kept->temp, 0) < 0 ? -errno : 0;
}

static int note_names(struct freeze *freeze)
{
	int rc = 0;
	for (size_t i = 0; rc >= 0 && i + 1 < freeze->kept_count; i++) {
		struct kept *kept = &freeze->kept[i];
		if (!kept->more && kept[1].more && (rc = lfs_parted_note(freeze->server, kept->node, kept->note)) < 0)
			kept->note[0] = 0;
	}
	return rc;
}

static void forget_notes(struct freeze *freeze)
{
	for (size_t i = 0; i < freeze->kept_count; i++)
		if (freeze->kept[i].note[0])
			lfs_parted_forget(freeze->server, freeze->kept[i].note);
}

/* Directories that the new upper needs for those that go on. */
static uint64_t count_directories(const struct freeze *freeze)
{
	const struct lfs_node *root = freeze->server->nodes.root;
	uint64_t count = 0;
	for (size_t i = 0; i < freeze->kept_count; i++)
		for (struct lfs_node *dir = freeze->kept[i].name->dir; dir != root && !(dir->flags & LFS_COUNTED); dir = dir->names->dir, count++)
			dir->flags |= LFS_COUNTED;
	for (size_t i = 0; i < freeze->kept_count; i++)
		for (struct lfs_node *dir = freeze->kept[i].name->dir; dir != root && dir->flags & LFS_COUNTED; dir = dir->names->dir)
			dir->flags &= (uint16_t)~LFS_COUNTED;
	return count;
}

/* When everything has changed places it is too late to find out that a file has none. */
static int check_room(const struct freeze *freeze)
{
	struct statfs host;
	uint64_t count = freeze->kept_count ? count_directories(freeze) : 0;
	if (!freeze->kept_count || fstatfs(freeze->place.upper, &host) < 0)
		return 0;
	bool bytes = (uint64_t)host.f_bavail * (uint64_t)host.f_bsize >= ROOM + count * ROOM_OF_DIRECTORY;
	return bytes && (!host.f_files || host.f_ffree >= count) ? 0 : -ENOSPC;
}

static int copy_all(struct freeze *freeze)
{
	int rc = 0;
	for (size_t i = 0, first = 0; rc >= 0 && i < freeze->kept_count; i++) {
		first = freeze->kept[i].more ? first : i;
		rc = i == first ? copy_kept(freeze->server, &freeze->kept[i]) : link_copy(freeze->server, &freeze->kept[first], &freeze->kept[i]);
	}
	if (rc >= 0)
		rc = note_names(freeze);
	if (rc >= 0)
		rc = check_room(freeze);
	for (; rc >= 0 && freeze->kept_done < freeze->kept_count; freeze->kept_done += rc >= 0)
		rc = exchange(freeze->server, &freeze->kept[freeze->kept_done]);
	return rc;
}

/* A file that does not get its name back stays in scratch. */
static void undo(struct freeze *freeze)
{
	for (size_t i = freeze->kept_count; i--;)
		if (i >= freeze->kept_done || exchange(freeze->server, &freeze->kept[i]) >= 0)
			unlinkat(freeze->server->upper.scratch, freeze->kept[i].temp, 0);
	forget_notes(freeze);
}

/* --- the change --- */

static void copy_root(struct lfs_server *server)
{
	struct stat status;
	if (fstat(server->layers[server->layer_count - 1]->upper.root, &status) < 0)
		return;
	struct timespec times[2] = {status.st_atim, status.st_mtim};
	if (server->rights.give)
		(void)!fchown(server->upper.root, status.st_uid, status.st_gid);
	fchmod(server->upper.root, status.st_mode & 07777);
	futimens(server->upper.root, times);
}

/* The layer gets the old directory, we the new one. Nothing here can fail. */
static void change_places(struct freeze *freeze)
{
	struct lfs_server *server = freeze->server, *layer = freeze->layer;
	struct lfs_upper *upper = &server->upper;
	struct lfs_node *root = server->nodes.root;
	while (server->listings.oldest)
		lfs_listing_drop(server, server->listings.oldest->dir);
	lfs_moves_forget(server);
	for (unsigned i = 1; i <= LFS_KEPT_DIRS; i++)
		if (upper->kept[i].node)
			lfs_dir_forget(server, upper->kept[i].node);
	int links = layer->upper.links;
	layer->upper = *upper;
	layer->upper.links = links;
	layer->upper.view = layer->upper.uppers = LFS_NO_FD;
	unlinkat(upper->scratch, "whiteout", 0);
	freeze->old_scratch = upper->scratch;
	layer->nodes.root->flags |= root->flags & (LFS_HERE | LFS_ALTERNATE | LFS_IMPURE | LFS_IMMUTABLE | LFS_APPEND);
	layer->nodes.root->low = root->low;
	layer->nodes.root->ino = root->ino;
	server->layers[server->layer_count++] = layer;
	upper->root = freeze->place.upper;
	upper->work = freeze->place.work;
	upper->scratch = freeze->place.scratch;
	upper->alternate = upper->knows_whiteouts = false;
	root->flags &= (uint16_t)~(LFS_ALTERNATE | LFS_IMPURE);
	root->low = (uint32_t)lfs_low_root(server);
	server->filler.asked = false;
	copy_root(server);
}

/* The file itself, which the kernel has open, gets its name in the new upper. */
static int place_kept(struct freeze *freeze, const struct kept *kept)
{
	struct lfs_server *server = freeze->server;
	struct lfs_node *node = kept->node, *dir = kept->name->dir;
	struct stat status;
	lfs_quota_removing(server, true); /* it has been there: the limits are no reason to lose it */
	int rc = lfs_dir_here(server, dir);
	lfs_quota_removing(server, false);
	if (rc >= 0)
		rc = lfs_rename_at(server, freeze->old_scratch, kept->temp, freeze->place.scratch, kept->temp, 0);
	if (rc >= 0)
		rc = lfs_publish(server, kept->temp, dir, kept->name->text, S_IFREG);
	if (rc < 0 || kept->more)
		return rc;
	node->flags = (uint16_t)((node->flags & ~LFS_LATE) | LFS_HERE);
	node->low = 0;
	node->file->mode = LFS_MODE_PASS_UPPER;
	if ((rc = lfs_entry_stat(server, node, &status)) < 0)
		return rc;
	lfs_quota_add(server, 1, status.st_blocks);
	return node->flags & LFS_SHARED ? lfs_same_set(server, node, status.st_ino) : 0;
}

/* All files that go on, under all their names. From the moving of its note on a file's names are the new upper's. */
static int place_all(struct freeze *freeze)
{
	int rc = 0;
	for (size_t i = 0; i < freeze->kept_count; i++)
		if (freeze->kept[i].note[0])
			lfs_parted_move(freeze->server, freeze->kept[i].note, freeze->old_scratch);
	for (size_t i = 0; i < freeze->kept_count; i++) {
		int placed = place_kept(freeze, &freeze->kept[i]);
		rc = rc < 0 ? rc : placed;
	}
	forget_notes(freeze);
	return rc;
}

static int freeze_now(struct freeze *freeze, struct lfs_frozen_result *result)
{
	struct lfs_server *server = freeze->server;
	int rc = lfs_layer_add(server, &freeze->layer);
	if (rc < 0)
		return rc;
	freeze->layer->upper.links = fcntl(server->upper.links, F_DUPFD_CLOEXEC, 0);
	rc = freeze->layer->upper.links < 0 ? -errno : each_node(server, collect, freeze);
	if (rc >= 0)
		rc = copy_all(freeze);
	if (rc < 0) {
		undo(freeze);
		lfs_layer_free(freeze->layer);
		return rc;
	}
	change_places(freeze);
	rc = each_node(server, bring_down, freeze); /* from here on there is no way back */
	lfs_quota_frozen(server);
	int placed = place_all(freeze);
	rc = rc < 0 ? rc : placed;
	int parked = each_node(server, move_parked, freeze);
	each_node(server, weigh_nameless, freeze);
	lfs_close_fd(&freeze->layer->upper.work);
	lfs_close_fd(&freeze->layer->upper.scratch);
	freeze->layer->upper.work = freeze->layer->upper.scratch = LFS_NO_FD;
	result->kept = (unsigned)freeze->kept_count;
	result->failed = rc < 0 ? rc : parked;
	return 0;
}

int lfs_freeze(struct lfs_server *server, const char *name, struct lfs_frozen_result *result)
{
	struct freeze freeze = {.server = server};
	if (!server->writable)
		return -EROFS;
	if (!*name || strlen(name) >= sizeof server->upper.place || strchr(name, '/') || *name == '.')
		return -EINVAL;
	int rc = lfs_view_place(server, name, &freeze.place);
	if (rc >= 0 && (rc = await_quiet(server)) >= 0) {
		uint64_t began = lfs_now();
		bool done = !strcmp(server->upper.place, name);
		rc = done ? 0 : freeze_now(&freeze, result);
		if (rc >= 0 && !done)
			snprintf(server->upper.place, sizeof server->upper.place, "%s", name);
		result->pause = server->last_pause = lfs_now() - began;
		thaw(server);
	}
	if (freeze.place.scratch != server->upper.scratch) { /* it was not taken */
		lfs_close_fd(&freeze.place.scratch);
		lfs_close_fd(&freeze.place.upper);
		lfs_close_fd(&freeze.place.work);
	}
	for (size_t i = 0; i < freeze.kept_count; i++) {
		if (rc >= 0 && freeze.kept[i].copy >= 0 && !server->options.volatile_ && fsync(freeze.kept[i].copy) < 0)
			result->failed = -errno;
		lfs_close_fd(&freeze.kept[i].copy);
	}
	free(freeze.kept);
	return rc;
}
