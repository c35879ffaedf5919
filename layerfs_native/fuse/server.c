/* A server's beginning and end, without its mount. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
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
	lfs_pace_init(server);
	pthread_cond_init(&server->copied, NULL);
	pthread_cond_init(&server->quiet, NULL);
	pthread_cond_init(&server->thawed, NULL);
	for (size_t i = 0; i < sizeof server->clones / sizeof *server->clones; i++)
		server->clones[i] = LFS_NO_FD;
	server->device = server->detached = server->proc = server->own_namespace = LFS_NO_FD;
	server->upper.view = server->upper.uppers = server->upper.root = server->upper.work = server->upper.scratch = server->upper.links = LFS_NO_FD;
	server->options.report = server->options.control = server->control_end = LFS_NO_FD;
	server->options.threads = 2;
	server->options.minor = FUSE_MINOR;
	server->options.pass_lower_size = LFS_PASS_LOWER_SIZE;
	server->options.blocks_size = LFS_BLOCKS_SIZE;
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
	if ((rc = lfs_lower_open(server, error)) < 0 || (rc = lfs_layers_open(server, error)) < 0 || (rc = lfs_upper_open(server, error)) < 0)
		return rc;
	return lfs_quota_open(server, error);
}

static int agree(struct lfs_server *server, struct lfs_error *error)
{
	lfs_clone_devices(server);
	lfs_uring_prepare(server);
	int rc = lfs_serve_init(server);
	return rc < 0 ? lfs_fail(error, rc, "the kernel and this server do not agree on the FUSE protocol") : 0;
}

int lfs_server_start(struct lfs_server *server, int orders, struct lfs_error *error)
{
	struct lfs_error late = {""};
	int made = server->embedded ? 0 : lfs_namespace_make(server, &late); /* while the orders are still on their way */
	int rc = lfs_options_read(orders, &server->options, error);
	if (rc < 0)
		return rc;
	if (made < 0)
		return lfs_fail(error, made, "%s", late.text);
	if ((rc = lfs_server_open(server, error)) < 0) /* all that can be done before it is written down that there will be a mount */
		return rc;
	lfs_mount_begin(server);
	bool made_before = server->detached >= 0;
	if (made_before && (rc = agree(server, error)) < 0)
		return rc;
	if ((rc = lfs_options_await(orders, &server->options)) < 0)
		return lfs_fail(error, rc, "who asked for the mount has gone");
	rc = lfs_mount(server, error);
	return rc < 0 || made_before ? rc : agree(server, error);
}

bool lfs_server_say(struct lfs_server *server, const char *text)
{
	if (server->options.report < 0)
		return true;
	bool heard = write(server->options.report, text, strlen(text)) > 0;
	close(server->options.report);
	server->options.report = LFS_NO_FD;
	return heard;
}

void lfs_server_say_error(struct lfs_server *server, int rc, const struct lfs_error *error)
{
	char line[600];
	snprintf(line, sizeof line, "%d %s\n", -rc, error->text);
	lfs_server_say(server, line);
}

static void close_devices(struct lfs_server *server)
{
	lfs_close_fd(&server->device);
	for (size_t i = 0; i < sizeof server->clones / sizeof *server->clones; i++)
		lfs_close_fd(&server->clones[i]);
}

void lfs_server_close(struct lfs_server *server)
{
	lfs_filler_end(server);
	lfs_stats_free(server);
	lfs_moves_forget(server);
	lfs_lock(server); /* tidy() may still come, and looks at what is to be closed */
	lfs_nodes_free(server);
	lfs_layers_close(server);
	lfs_unlock(server);
	lfs_quota_close(server);
	lfs_upper_close(server);
	lfs_lower_close(server);
	lfs_rights_free(server);
	close_devices(server);
	lfs_close_fd(&server->detached);
	lfs_close_fd(&server->proc);
	lfs_close_fd(&server->own_namespace);
	lfs_close_fd(&server->options.control);
	lfs_options_free(&server->options);
}
