/* The control socket: packets of one request each, answered by one JSON object. A thread of its own serves it and never waits for a client:
 * who does not take his answer, or is one too many, is let go. Only root and the owner of the server are heard. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

#define CLIENTS 16u
#define REQUEST_MAX 256u
#define PAUSE_MS 5000

struct clients {
	int sockets[CLIENTS]; /* oldest first */
	unsigned count;
};

struct answer {
	char *text; /* owned */
	size_t size;
};

/* --- requests --- */

static int print(struct answer *answer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int print(struct answer *answer, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int size = vasprintf(&answer->text, format, arguments);
	va_end(arguments);
	answer->size = size < 0 ? 0 : (size_t)size;
	if (size < 0)
		answer->text = NULL;
	return size < 0 ? -ENOMEM : 0;
}

static int answer_ping(struct lfs_server *server, struct answer *answer)
{
	return print(answer, "{\"pid\":%ld,\"protocol\":\"%u.%u\"}\n", (long)getpid(), FUSE_MAJOR, server->minor);
}

static int answer_stats(struct lfs_server *server, struct answer *answer)
{
	return lfs_stats_json(server, &answer->text, &answer->size);
}

static int answer_quota(struct lfs_server *server, struct answer *answer)
{
	pthread_mutex_lock(&server->quota.lock);
	long long used = server->quota.used, inodes = server->quota.inodes;
	bool on = server->quota.on;
	pthread_mutex_unlock(&server->quota.lock);
	if (!on)
		return print(answer, "{\"limited\":false}\n");
	return print(answer, "{\"limited\":true,\"size\":%llu,\"used\":%lld,\"inodes\":%llu,\"used_inodes\":%lld}\n",
		     (unsigned long long)server->options.size_limit, used, (unsigned long long)server->options.inode_limit, inodes);
}

static int answer_stop(struct lfs_server *server, struct answer *answer)
{
	int rc = lfs_unmount(server, true);
	return rc < 0 ? rc : print(answer, "{\"stopped\":true}\n");
}

/* Before it is frozen, and before its processes are held up: names that must be known then. */
static int answer_names(struct lfs_server *server, struct answer *answer)
{
	int found = lfs_find_names(server);
	return found < 0 ? found : print(answer, "{\"found\":%d}\n", found);
}

/* `freeze NAME`: what was written up to now stays where it is, and what is written from now on goes to that place in `uppers`. */
static void answer_freeze(struct lfs_server *server, const char *name, struct answer *answer)
{
	struct lfs_frozen_result result = {0};
	int rc = lfs_freeze(server, name, &result);
	if (rc < 0)
		print(answer, "{\"errno\":%d,\"error\":\"%s\"}\n", -rc, strerror(-rc));
	else
		print(answer, "{\"pause_us\":%llu,\"kept\":%u,\"layers\":%u,\"failed\":%d}\n", (unsigned long long)result.pause / 1000, result.kept,
		      server->layer_count, -result.failed);
}

static const struct {
	const char *request;
	int (*answer)(struct lfs_server *server, struct answer *answer);
} requests[] = {{"ping", answer_ping}, {"stats", answer_stats}, {"quota", answer_quota}, {"stop", answer_stop}, {"names", answer_names}};

static void answer_request(struct lfs_server *server, const char *text, size_t size, struct answer *answer)
{
	int rc = -EINVAL;
	for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
		if (strlen(requests[i].request) == size && !memcmp(text, requests[i].request, size))
			rc = requests[i].answer(server, answer);
	if (rc < 0)
		print(answer, "{\"errno\":%d,\"error\":\"%s\"}\n", -rc, rc == -EINVAL ? "unknown request" : strerror(-rc));
}

/* --- clients --- */

static void drop(struct clients *clients, unsigned at)
{
	close(clients->sockets[at]);
	memmove(clients->sockets + at, clients->sockets + at + 1, (--clients->count - at) * sizeof *clients->sockets);
}

static bool welcome(const struct lfs_server *server, int socket)
{
	struct ucred who;
	socklen_t size = sizeof who;
	return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && (!who.uid || who.uid == server->rights.uid);
}

static void admit(struct lfs_server *server, struct clients *clients)
{
	int socket = accept4(server->options.control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (socket < 0) {
		usleep(10000); /* without descriptors the next call would fail at once, too */
		return;
	}
	if (!welcome(server, socket)) {
		close(socket);
		return;
	}
	if (clients->count == CLIENTS)
		drop(clients, 0);
	clients->sockets[clients->count++] = socket;
}

/* `pause`: no request gets the lock, so no name changes and nothing is written, until the client says `resume`, goes, or has had its time.
 * Nobody else is answered meanwhile. False when it did not say so in time: what it did was for nothing. */
static bool pause_for(struct lfs_server *server, int socket)
{
	static const char paused[] = "{\"paused\":true}\n", resumed[] = "{\"resumed\":true}\n";
	struct pollfd client = {socket, POLLIN, 0};
	char text[REQUEST_MAX];
	ssize_t size = -1;
	lfs_lock(server);
	if (send(socket, paused, sizeof paused - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 && poll(&client, 1, PAUSE_MS) > 0)
		size = recv(socket, text, sizeof text, MSG_DONTWAIT);
	lfs_unlock(server);
	return size == (ssize_t)strlen("resume") && !memcmp(text, "resume", (size_t)size) &&
	       send(socket, resumed, sizeof resumed - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
}

/* False when the client is to go. */
static bool serve_client(struct lfs_server *server, int socket)
{
	char text[REQUEST_MAX + 1];
	struct answer answer = {0};
	ssize_t size = recv(socket, text, REQUEST_MAX, MSG_DONTWAIT);
	if (size <= 0)
		return size < 0 && (errno == EAGAIN || errno == EINTR);
	while (size && text[size - 1] == '\n')
		size--;
	text[size] = 0;
	if (!strncmp(text, "freeze ", 7)) {
		answer_freeze(server, text + 7, &answer);
	} else if (size == (ssize_t)strlen("pause") && !memcmp(text, "pause", (size_t)size)) {
		return pause_for(server, socket);
	} else {
		answer_request(server, text, (size_t)size, &answer);
	}
	bool taken = answer.text && send(socket, answer.text, answer.size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)answer.size;
	free(answer.text);
	return taken;
}

static void *serve(void *context)
{
	struct lfs_server *server = context;
	struct clients clients = {.count = 0};
	lfs_thread_start(server);
	for (;;) {
		struct pollfd wanted[CLIENTS + 2] = {{server->control_end, POLLIN, 0}, {server->options.control, POLLIN, 0}};
		unsigned count = clients.count;
		for (unsigned i = 0; i < count; i++)
			wanted[i + 2] = (struct pollfd){clients.sockets[i], POLLIN, 0};
		if (poll(wanted, count + 2, -1) < 0)
			continue;
		if (wanted[0].revents)
			break;
		for (unsigned i = count; i--;) /* backwards: dropping moves the later ones */
			if (wanted[i + 2].revents && !serve_client(server, clients.sockets[i]))
				drop(&clients, i);
		if (wanted[1].revents)
			admit(server, &clients);
	}
	while (clients.count)
		drop(&clients, 0);
	return NULL;
}

int lfs_control_start(struct lfs_server *server)
{
	if (server->options.control < 0)
		return 0;
	server->control_end = eventfd(0, EFD_CLOEXEC);
	if (server->control_end < 0)
		return -errno;
	int rc = -pthread_create(&server->control, NULL, serve, server);
	if (rc < 0) {
		lfs_close_fd(&server->control_end);
		server->control_end = LFS_NO_FD;
	}
	return rc;
}

void lfs_control_stop(struct lfs_server *server)
{
	if (server->control_end >= 0 && eventfd_write(server->control_end, 1) == 0) {
		pthread_join(server->control, NULL);
		lfs_close_fd(&server->control_end);
		server->control_end = LFS_NO_FD;
	}
	lfs_close_fd(&server->options.control);
	server->options.control = LFS_NO_FD;
}
