/* A server inside a thread of another program's: it changes nothing but that thread, which must end with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server.h"

/* Working directory, umask, file system ids and signals of this thread alone; those that it starts have them from it. */
static int step_aside(void)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	if (unshare(CLONE_FS) < 0)
		return -errno;
	prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP); /* the capabilities stay when the file system ids change */
	umask(0);
	return 0;
}

static uint32_t files_allowed(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 256;
	return (uint32_t)(limit.rlim_cur > 1u << 20 ? 1u << 19 : limit.rlim_cur / 2);
}

static void serve(struct lfs_server *server)
{
	server->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	lfs_control_start(server);
	if (!lfs_server_say(server, "ready\n"))
		lfs_unmount(server, true);
	lfs_serve_device(server);
	lfs_control_stop(server);
}

int lfs_serve_here(int orders)
{
	struct lfs_error error = {""};
	struct lfs_server *server = malloc(sizeof *server);
	if (!server)
		return -ENOMEM;
	lfs_server_init(server);
	server->files.limit = files_allowed();
	server->embedded = true;
	int rc = step_aside();
	if (rc < 0)
		lfs_fail(&error, rc, "a thread with a working directory of its own: %s", strerror(-rc));
	else
		rc = lfs_server_start(server, orders, &error);
	if (rc < 0)
		lfs_server_say_error(server, rc, &error);
	else
		serve(server);
	lfs_server_close(server);
	free(server);
	return rc;
}
