/* A server's beginning and end, without its mount. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "server.h"

void lfs_server_init(struct lfs_server *server)
{
	memset(server, 0, sizeof *server);
	pthread_mutex_init(&server->lock, NULL);
	pthread_mutex_init(&server->quota.lock, NULL);
	pthread_mutex_init(&server->aside.lock, NULL);
	pthread_cond_init(&server->aside.wanted, NULL);
	pthread_cond_init(&server->copied, NULL);
	server->device = server->proc = server->own_namespace = LFS_NO_FD;
	server->upper.root = server->upper.work = server->upper.scratch = server->upper.links = LFS_NO_FD;
	server->options.report = server->options.control = server->control_end = LFS_NO_FD;
	server->options.threads = 2;
	server->options.minor = FUSE_MINOR;
	server->options.pass_lower_size = LFS_PASS_LOWER_SIZE;
	server->options.cache_seconds = LFS_FOREVER;
	server->stats.started = lfs_now();
	server->max_write = LFS_MAX_WRITE;
	sched_getaffinity(0, sizeof server->processors, &server->processors);
}

int lfs_server_open(struct lfs_server *server, struct lfs_error *error)
{
	server->writable = server->options.upper && !server->options.read_only;
	int rc = lfs_rights_read(server, error);
	if (rc < 0)
		return rc;
	if ((rc = lfs_nodes_init(server)) < 0)
		return lfs_fail(error, rc, "out of memory");
	if ((rc = lfs_lower_open(server, error)) < 0 || (rc = lfs_upper_open(server, error)) < 0)
		return rc;
	return lfs_quota_open(server, error);
}

void lfs_server_close(struct lfs_server *server)
{
	lfs_stats_free(server);
	lfs_moves_forget(server);
	lfs_nodes_free(server);
	lfs_quota_close(server);
	lfs_upper_close(server);
	lfs_lower_close(server);
	lfs_rights_free(server);
	lfs_options_free(&server->options);
}
