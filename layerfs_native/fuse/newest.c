/* A directory that is synced right after a new file of it was: as programs do that make a file durable, and databases with every journal.
 * Hosts that commit all that happens to names in its order have that directory on the disk already; syncing it once more is a flush of the
 * disk's cache for nothing. So the newest file is remembered until something else happens to names. Everything here with the lock. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include "server.h"

#define EXT4_MAGIC 0xef53 /* also that of ext2's driver, which syncs a file without its name */
#define XFS_MAGIC 0x58465342
#define EXT4_IOC_GETSTATE _IOW('f', 41, uint32_t)

/* Of these a file that was made and then synced, by its data alone even, is on the disk with its name and all that happened before. */
void lfs_newest_start(struct lfs_server *server)
{
	struct statfs host;
	uint32_t state;
	LFS_AUTO_FD fd = openat(server->upper.root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* that one may be for paths alone */
	if (fd >= 0 && fstatfs(fd, &host) == 0)
		server->newest.ordered = host.f_type == XFS_MAGIC || (host.f_type == EXT4_MAGIC && ioctl(fd, EXT4_IOC_GETSTATE, &state) == 0);
}

void lfs_newest_made(struct lfs_server *server, const struct lfs_node *dir, const struct lfs_node *file)
{
	struct lfs_newest *newest = &server->newest;
	newest->known = newest->ordered;
	newest->synced = false;
	newest->dir = dir->generation;
	newest->file = file->generation;
}

void lfs_newest_forget(struct lfs_server *server)
{
	server->newest.known = server->newest.synced = false;
}

bool lfs_newest_is(const struct lfs_server *server, const struct lfs_node *file)
{
	return server->newest.known && server->newest.file == file->generation;
}

void lfs_newest_synced(struct lfs_server *server, const struct lfs_node *file)
{
	server->newest.synced = lfs_newest_is(server, file) || server->newest.synced;
}

bool lfs_newest_covers(const struct lfs_server *server, const struct lfs_node *dir)
{
	return server->newest.synced && server->newest.dir == dir->generation;
}
