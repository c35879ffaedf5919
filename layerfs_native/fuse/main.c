/* layerfs-fuse: serves one mount, until it is unmounted. The library starts it with its orders on descriptor 0 (see options.c); it says
 * "ready" on the descriptor `report` when the mount answers, or "ERRNO TEXT". */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <linux/securebits.h>

#include "server.h"

#ifdef __SANITIZE_ADDRESS__ /* the leak check at exit needs /proc, which is out of reach by then: it would hang */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

static void raise_limit(struct lfs_server *server)
{
	struct rlimit limit;
	server->files.limit = 256;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		server->files.limit = (uint32_t)(limit.rlim_cur > 1u << 20 ? 1u << 19 : limit.rlim_cur / 2);
}

/* Files are created as the caller of each request, by the file system user id; this keeps the capabilities while it changes. */
static void keep_capabilities(void)
{
	prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	umask(0);
}

/* Nobody has looked for a moment, or many have: what they looked at need not stay mapped. */
static void tidy(struct lfs_server *server)
{
	lfs_lock(server);
	server->tidy.armed = false;
	if (!atomic_load(&server->ending))
		lfs_lower_rest(server);
	pthread_mutex_unlock(&server->lock); /* what is to be closed is others': the end needs no lock for it any more */
}

static void handled_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGALRM);
}

static int next_signal(struct lfs_server *server)
{
	sigset_t set;
	int signal;
	handled_signals(&set);
	while (sigwait(&set, &signal) == 0 && signal == SIGALRM)
		tidy(server);
	return signal;
}

static void *await_signal(void *context)
{
	struct lfs_server *server = context;
	next_signal(server);
	if (lfs_unmount(server, true) < 0)
		_exit(1); /* nobody can be found who sees the mount, or we may not: it answers ENOTCONN from now on */
	next_signal(server); /* asked again while somebody still uses it: end now */
	_exit(0);
}

static void block_signals(void)
{
	sigset_t set;
	handled_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

int main(void)
{
	static struct lfs_server server;
	struct lfs_error error = {""};
	pthread_t signals;
	mallopt(M_ARENA_MAX, 1); /* one lock guards nearly all that is allocated; arenas of threads would each keep their rest */
	lfs_server_init(&server);
	block_signals();
	raise_limit(&server);
	keep_capabilities();
	int rc = lfs_server_start(&server, STDIN_FILENO, &error);
	if (rc < 0) {
		fprintf(stderr, "%s\n", error.text);
		lfs_server_say_error(&server, rc, &error);
		return 1;
	}
	lfs_namespace_leave(&server);
	if (!lfs_server_say(&server, "ready\n")) /* the mount is there, requests wait in its queue for what follows */
		lfs_unmount(&server, true); /* who started us was killed: a mount that no one knows of */
	server.tidy.possible = pthread_create(&signals, NULL, await_signal, &server) == 0;
	if (lfs_control_start(&server) < 0)
		fputs("no control socket\n", stderr);
	lfs_serve_device(&server);
	lfs_lock(&server); /* tidy() may be at it; it does nothing from now on */
	lfs_unlock(&server);
	lfs_control_stop(&server);
	lfs_server_close(&server);
	return 0;
}
