/* Names of a file that goes on while its upper is frozen. They change places with a copy one after the other, and come into the new upper one
 * after the other; who is killed in between leaves two entries in scratch: the file itself, `parted-N.file`, and `parted-N` with the paths that
 * it had, a NUL after each. In the old scratch they say that the names there are to be the file's again, in the new one that they are to be
 * that upper's: who opens the directories next sees to it (layerfs/union/parted.py). One without the other says nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server.h"

/* The path of a name, from the union's root on, at the end of `out`. */
static int path_of(const struct lfs_server *server, const struct lfs_name *name, char out[PATH_MAX], const char **path)
{
	size_t at = PATH_MAX - 1;
	out[at] = 0;
	for (;; name = name->dir->names) {
		if (!name)
			return -EBUSY;
		if (at <= name->size)
			return -ENAMETOOLONG;
		at -= name->size;
		memcpy(out + at, name->text, name->size);
		if (name->dir == server->nodes.root)
			break;
		out[--at] = '/';
	}
	*path = out + at;
	return 0;
}

static int write_paths(const struct lfs_server *server, const struct lfs_node *node, const char *note)
{
	char room[PATH_MAX];
	const char *path;
	int rc = 0;
	LFS_AUTO_FD fd = openat(server->upper.scratch, note, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	for (const struct lfs_name *name = node->names; name && (rc = path_of(server, name, room, &path)) >= 0; name = name->sibling) {
		size_t size = strlen(path) + 1;
		ssize_t put = write(fd, path, size);
		if (put != (ssize_t)size)
			return put < 0 ? -errno : -ENOSPC;
	}
	return rc;
}

static void file_of(const char *note, char out[LFS_TEMP_SIZE + 8])
{
	snprintf(out, LFS_TEMP_SIZE + 8, "%s.file", note);
}

int lfs_parted_note(struct lfs_server *server, const struct lfs_node *node, char note[LFS_TEMP_SIZE])
{
	char temp[LFS_TEMP_SIZE], file[LFS_TEMP_SIZE + 8];
	int dir = lfs_dir_fd(server, node->names->dir);
	if (dir < 0)
		return dir;
	lfs_temp_name(server, temp);
	snprintf(note, LFS_TEMP_SIZE, "parted-%.*s", LFS_TEMP_SIZE - 8, temp);
	file_of(note, file);
	int rc = write_paths(server, node, note);
	if (rc >= 0 && linkat(dir, node->names->text, server->upper.scratch, file, 0) < 0)
		rc = -errno;
	if (rc < 0)
		lfs_parted_forget(server, note);
	return rc;
}

int lfs_parted_move(struct lfs_server *server, const char *note, int from)
{
	char file[LFS_TEMP_SIZE + 8];
	file_of(note, file);
	int rc = lfs_rename_at(server, from, file, server->upper.scratch, file, 0);
	return rc < 0 ? rc : lfs_rename_at(server, from, note, server->upper.scratch, note, 0);
}

void lfs_parted_forget(struct lfs_server *server, const char *note)
{
	char file[LFS_TEMP_SIZE + 8];
	file_of(note, file);
	unlinkat(server->upper.scratch, note, 0);
	unlinkat(server->upper.scratch, file, 0);
}
