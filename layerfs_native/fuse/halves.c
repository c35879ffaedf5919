/* Where an inode is, for who makes it durable: a directory's names and a metacopy's attributes may be in the upper and in frozen layers below,
 * which nobody synced because they were frozen. What the tree has the store has made durable. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "server.h"

static int add(struct lfs_halves *halves, struct lfs_server *server, struct lfs_node *node)
{
	int fd = lfs_node_is_dir(node) ? lfs_dir_reopen(server, node) : lfs_entry_open(server, node, O_RDONLY);
	if (fd < 0)
		return fd;
	halves->items[halves->count++] = (struct lfs_half){fd, node};
	return 0;
}

int lfs_halves_open(struct lfs_server *server, struct lfs_node *node, struct lfs_halves *halves)
{
	halves->count = 0;
	if (node->flags & LFS_SPLIT && node->file && node->file->successor)
		node = node->file->successor;
	int rc = node->flags & LFS_LATE ? lfs_wake(server, node) : 0;
	if (rc >= 0 && node->flags & LFS_HERE)
		rc = add(halves, server, node);
	halves->upper = halves->count;
	while (rc >= 0 && node->low & LFS_FROZEN && (lfs_node_is_dir(node) || (node->flags & (LFS_HERE | LFS_METACOPY)) != LFS_HERE)) {
		struct lfs_server *layer = lfs_layer(server, node->low, &node);
		if (!node)
			return -EIO;
		rc = node->flags & LFS_SYNCED ? 0 : add(halves, layer, node);
	}
	return rc;
}

int lfs_halves_sync(const struct lfs_halves *halves, bool data)
{
	for (unsigned i = 0; i < halves->count; i++) {
		int fd = halves->items[i].fd;
		if ((data && i < halves->upper ? fdatasync(fd) : fsync(fd)) < 0)
			return -errno;
	}
	return 0;
}

void lfs_halves_close(struct lfs_halves *halves, bool synced)
{
	for (unsigned i = 0; i < halves->count; i++) {
		close(halves->items[i].fd);
		if (synced && i >= halves->upper) /* which nobody changes any more */
			halves->items[i].node->flags |= LFS_SYNCED;
	}
	halves->count = 0;
}
