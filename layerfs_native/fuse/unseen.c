/* Names that nobody has looked at since the mount, of files that are open and will go on when their upper is frozen: all of them must be known
 * then. They are found in the upper directory by their inodes, while everybody goes on; what is missed by that is missed when it is counted. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

struct paths {
	char **items;
	size_t count, capacity;
};

struct search {
	struct lfs_server *server;
	int root; /* of the upper; owned */
	uint64_t *inodes;
	size_t count;
	struct paths found, left; /* left: directories to be looked at */
};

static int add_path(struct paths *paths, const char *dir, const char *name)
{
	size_t size = strlen(dir) + strlen(name) + 2;
	if (paths->count == paths->capacity) {
		size_t wider = paths->capacity ? paths->capacity * 2 : 64;
		char **grown = realloc(paths->items, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		paths->items = grown;
		paths->capacity = wider;
	}
	char *path = malloc(size);
	if (!path)
		return -ENOMEM;
	char *end = stpcpy(path, dir);
	if (end != path)
		*end++ = '/';
	strcpy(end, name);
	paths->items[paths->count++] = path;
	return 0;
}

static void free_paths(struct paths *paths)
{
	for (size_t i = 0; i < paths->count; i++)
		free(paths->items[i]);
	free(paths->items);
}

/* --- which: with the lock --- */

static bool lacks_names(struct lfs_server *server, struct lfs_node *node, uint64_t *inode)
{
	struct stat status;
	nlink_t known = 0;
	bool pinned = lfs_is_pinned(node);
	if (!(node->flags & LFS_HERE) || node->flags & LFS_UNLINKED || lfs_node_is_dir(node))
		return false;
	if (!pinned && (!lfs_node_is_file(node) || !node->file || !node->file->handles || node->file->mode != LFS_MODE_PASS_UPPER))
		return false;
	for (const struct lfs_name *name = node->names; name; name = name->sibling)
		known++;
	if (lfs_entry_stat(server, node, &status) < 0 || status.st_nlink <= known || (!pinned && !lfs_goes_on(server, node, &status)))
		return false;
	*inode = status.st_ino;
	return true;
}

static int collect(struct search *search)
{
	struct lfs_nodes *nodes = &search->server->nodes;
	uint64_t inode;
	for (uint32_t i = 0; i < nodes->block_count; i++) {
		for (uint32_t at = 0; nodes->blocks[i].nodes && at < nodes->blocks[i].fresh; at++) {
			struct lfs_node *node = &nodes->blocks[i].nodes[at];
			if (!node->refs || !lacks_names(search->server, node, &inode))
				continue;
			uint64_t *wider = realloc(search->inodes, (search->count + 1) * sizeof *wider);
			if (!wider)
				return -ENOMEM;
			search->inodes = wider;
			wider[search->count++] = inode;
		}
	}
	return 0;
}

/* --- where --- */

static bool is_wanted(const struct search *search, uint64_t inode)
{
	for (size_t i = 0; i < search->count; i++)
		if (search->inodes[i] == inode)
			return true;
	return false;
}

static int look_into(struct search *search, const char *path)
{
	const struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	int fd = (int)syscall(SYS_openat2, search->root, *path ? path : ".", &how, sizeof how), rc = 0;
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		lfs_close_fd(&fd);
		return 0; /* it has just gone, or keeps us out */
	}
	for (struct dirent *entry; rc >= 0 && (entry = readdir(stream));) {
		if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = add_path(&search->left, path, entry->d_name);
		else if (entry->d_type != DT_DIR && is_wanted(search, entry->d_ino))
			rc = add_path(&search->found, path, entry->d_name);
	}
	closedir(stream);
	return rc;
}

/* --- getting to know them: with the lock --- */

static void look_up(struct lfs_server *server, const char *path)
{
	struct lfs_node *node = server->nodes.root, *next;
	int rc = 0;
	lfs_node_get(node);
	while (*path && rc >= 0 && lfs_node_is_dir(node)) {
		size_t size = strcspn(path, "/");
		if ((rc = lfs_look(server, node, (struct lfs_bytes){path, size}, &next, NULL)) < 0)
			break;
		lfs_node_put(server, node);
		node = next;
		path += size + (path[size] == '/');
	}
	if (rc >= 0 && !*path && lfs_is_pinned(node) && !(node->flags & LFS_UNLINKED))
		lfs_named_again(server, node); /* it was held by its inode */
	lfs_node_put(server, node);
}

int lfs_find_names(struct lfs_server *server)
{
	struct search search = {.server = server, .root = LFS_NO_FD};
	if (!server->writable)
		return -EROFS;
	lfs_lock(server);
	int rc = server->files.handles || server->files.pinned || server->files.last_parked ? collect(&search) : 0;
	if (rc >= 0 && search.count && (search.root = lfs_dir_reopen(server, server->nodes.root)) < 0)
		rc = search.root;
	lfs_unlock(server);
	if (rc >= 0 && search.count)
		rc = look_into(&search, "");
	while (rc >= 0 && search.left.count) {
		char *path = search.left.items[--search.left.count];
		rc = look_into(&search, path);
		free(path);
	}
	for (size_t i = 0; i < search.found.count; i++) {
		lfs_lock(server);
		look_up(server, search.found.items[i]);
		lfs_unlock(server);
	}
	lfs_close_fd(&search.root);
	free_paths(&search.found);
	free_paths(&search.left);
	free(search.inodes);
	return rc < 0 ? rc : (int)search.found.count;
}
