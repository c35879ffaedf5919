/* Entries of the upper that lost their name while the kernel may still use them. A descriptor keeps such an entry (it is pinned), or,
 * when there are many, a name in scratch (it is parked), which goes with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "server.h"

static void parked_name(const struct lfs_file *file, char out[LFS_TEMP_SIZE])
{
	snprintf(out, LFS_TEMP_SIZE, "orphan-%llx", (unsigned long long)file->parked);
}

static bool crowded(const struct lfs_server *server)
{
	return server->files.pinned >= server->files.limit;
}

bool lfs_is_pinned(const struct lfs_node *node)
{
	bool holds_file = !lfs_node_is_dir(node) || node->flags & LFS_UNLINKED; /* else the place of `file` is a listing's */
	return holds_file && node->file && (node->file->pinned >= 0 || node->file->parked);
}

int lfs_pinned_fd(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_files *files = &server->files;
	char name[LFS_TEMP_SIZE];
	if (node->file->pinned >= 0)
		return node->file->pinned;
	parked_name(node->file, name);
	int fd = openat(server->upper.scratch, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (files->lent > 0)
		close(files->lent);
	return files->lent = fd;
}

/* Another name in scratch for what has one at dir_fd/name, or for the descriptor itself where there is no name. */
static int park(struct lfs_server *server, struct lfs_node *node, int dir_fd, const char *name)
{
	char path[300], parked[LFS_TEMP_SIZE];
	struct lfs_file *file = lfs_file_get(node);
	if (!file)
		return -ENOMEM;
	file->parked = ++server->files.last_parked;
	parked_name(file, parked);
	lfs_fd_path(dir_fd, name, path);
	if (linkat(server->upper.links, path, server->upper.scratch, parked, name ? 0 : AT_SYMLINK_FOLLOW) == 0)
		return 0;
	file->parked = 0;
	return -errno;
}

void lfs_pinned_leaves(struct lfs_server *server, struct lfs_node *node)
{
	struct stat found;
	struct lfs_file *file = node->file;
	if (lfs_node_is_dir(node) || file->handles || file->leaving || file->pinned < 0 || fstat(file->pinned, &found) < 0)
		return;
	file->leaving = (uint64_t)found.st_blocks * 512;
	atomic_fetch_add(&server->files.leaving, file->leaving);
}

int lfs_pin(struct lfs_server *server, struct lfs_node *node, int fd)
{
	struct lfs_file *file = lfs_file_get(node);
	bool had = file && lfs_is_pinned(node);
	if (!file || had || (crowded(server) && !lfs_node_is_dir(node) && park(server, node, fd, NULL) == 0)) {
		close(fd);
	} else {
		file->pinned = fd;
		server->files.pinned++;
		lfs_pinned_leaves(server, node);
	}
	if (file && !had)
		atomic_fetch_add(&server->quota.doomed, 1);
	return file ? 0 : -ENOMEM;
}

int lfs_pin_before(struct lfs_server *server, struct lfs_node *node, bool last)
{
	const char *name;
	if ((!last && node->names->sibling) || !node->lookups)
		return LFS_NO_FD;
	if (crowded(server)) {
		int dir = last && !lfs_node_is_dir(node) ? lfs_place(server, node, &name) : -ENOENT;
		if (dir >= 0 && park(server, node, dir, name) == 0)
			atomic_fetch_add(&server->quota.doomed, 1);
		return LFS_NO_FD;
	}
	return lfs_entry_open(server, node, lfs_node_is_dir(node) ? O_RDONLY | O_DIRECTORY : O_PATH);
}

void lfs_pin_undo(struct lfs_server *server, struct lfs_node *node, int fd)
{
	if (fd >= 0)
		close(fd);
	else if (!lfs_node_is_dir(node) && node->file && node->file->parked) {
		atomic_fetch_sub(&server->quota.doomed, 1);
		lfs_pin_end(server, node);
	}
}

void lfs_pin_end(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_file *file = node->file;
	char name[LFS_TEMP_SIZE];
	if (file->pinned >= 0) {
		server->files.pinned--;
		lfs_close_later(server, file->pinned, file->leaving);
		file->leaving = 0;
	} else if (file->parked) {
		parked_name(file, name);
		unlinkat(server->upper.scratch, name, 0);
	}
	file->pinned = LFS_NO_FD;
	file->parked = 0;
}
