/* Who is connected to the monitor: packets in, packets out. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"

enum {
	FINISH_MS = 600000, /* how long the end waits for a client: to read, and to clean up as it has promised */
	STOPPED_MS = 2000,  /* to read, when somebody wanted the container stopped */
};

static bool has_gone(const struct lfs_client *client)
{
	struct pollfd event = { client->fd, 0, 0 };
	return poll(&event, 1, 0) > 0 && event.revents & POLLHUP;
}

static struct lfs_client *free_client(struct lfs_monitor *self)
{
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (self->clients[i].fd < 0)
			return &self->clients[i];
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (has_gone(&self->clients[i])) { /* whose input the program does not read */
			lfs_clients_drop(self, &self->clients[i]);
			return &self->clients[i];
		}
	return NULL;
}

void lfs_clients_add(struct lfs_monitor *self, int fd)
{
	struct lfs_client *client = free_client(self);
	if (client)
		*client = (struct lfs_client){ .fd = fd };
	else
		close(fd); /* full: the caller sees the end of the connection */
}

/* No descriptor is left for it: it sees the end of the connection. Left in the queue it would wake us for ever. */
static void turn_away(struct lfs_monitor *self)
{
	close(self->spare);
	close(accept4(self->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	self->spare = open("/dev/null", O_PATH | O_CLOEXEC);
}

void lfs_clients_accept(struct lfs_monitor *self)
{
	int fd = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		lfs_clients_add(self, fd);
	else if (errno == EMFILE || errno == ENFILE)
		turn_away(self);
}

void lfs_clients_drop(struct lfs_monitor *self, struct lfs_client *client)
{
	bool typed = client->flags & LFS_ATTACH_STDIN;
	close(client->fd);
	*client = (struct lfs_client){ .fd = -1 };
	if (typed && self->spec.monitor_flags & LFS_MONITOR_STDIN_ONCE)
		lfs_streams_end_input(self);
}

static uint32_t get_u32(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof value);
	return le32toh(value);
}

static uint16_t get_u16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static void take_input(struct lfs_monitor *self, const char *data, size_t size)
{
	if (self->input < 0)
		return;
	memcpy(self->typed, data, size);
	self->typed_size = size;
	self->typed_done = 0;
	lfs_streams_type(self);
}

static void attach(struct lfs_monitor *self, struct lfs_client *client, uint32_t flags)
{
	const uint32_t streams = LFS_ATTACH_STDIN | LFS_ATTACH_STDOUT | LFS_ATTACH_STDERR;
	if (flags & streams && !(client->flags & streams))
		lfs_event(self, "attach", NULL, NULL);
	client->flags = flags;
}

static void obey(struct lfs_monitor *self, struct lfs_client *client, const uint8_t *packet, size_t size)
{
	if (packet[0] == 'A' && size == 2)
		attach(self, client, packet[1]);
	else if (packet[0] == 'I' && client->flags & LFS_ATTACH_STDIN)
		take_input(self, (const char *)packet + 1, size - 1);
	else if (packet[0] == 'E' && client->flags & LFS_ATTACH_STDIN && self->spec.monitor_flags & LFS_MONITOR_STDIN_ONCE)
		lfs_streams_end_input(self);
	else if (packet[0] == 'W' && size == 5)
		lfs_program_resize(self, get_u16(packet + 1), get_u16(packet + 3));
	else if (packet[0] == 'T' && size == 6)
		lfs_program_stop(self, packet[1], (int32_t)get_u32(packet + 2));
	else if (packet[0] == 'P' && size == 9) {
		self->spec.restart = get_u32(packet + 1);
		self->spec.restart_max = get_u32(packet + 5);
	} else if (packet[0] == 'S' && size == 3) {
		self->stopped |= packet[2];
		self->stopped_by_user |= packet[2];
		if (packet[2] && self->phase == LFS_PHASE_RESTARTING)
			lfs_program_stop(self, packet[1], -1);
		else
			lfs_program_signal(self, packet[1]);
	}
}

void lfs_clients_read(struct lfs_monitor *self, struct lfs_client *client)
{
	static uint8_t packet[1 + LFS_CHUNK];
	ssize_t got = recv(client->fd, packet, sizeof packet, MSG_DONTWAIT);
	if (got > 0)
		obey(self, client, packet, (size_t)got);
	else if (got == 0 || (errno != EAGAIN && errno != EINTR))
		lfs_clients_drop(self, client);
}

static void send_numbers(const struct lfs_client *client, char kind, const uint32_t *numbers, int count, int pidfd)
{
	uint8_t packet[16] = { (uint8_t)kind };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} space = { 0 };
	struct iovec part = { packet, 1 + 4 * (size_t)count };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	for (int i = 0; i < count; i++) {
		uint32_t value = htole32(numbers[i]);
		memcpy(packet + 1 + 4 * i, &value, sizeof value);
	}
	if (pidfd >= 0) {
		message.msg_control = space.bytes;
		message.msg_controllen = sizeof space.bytes;
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &pidfd, sizeof(int));
	}
	sendmsg(client->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void lfs_clients_tell(struct lfs_monitor *self, char kind, const uint32_t *numbers, int count, int pidfd)
{
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (self->clients[i].fd >= 0)
			send_numbers(&self->clients[i], kind, numbers, count, pidfd);
}

/* The first client is the starter, and waits for this. */
void lfs_clients_failed(struct lfs_monitor *self)
{
	uint8_t packet[512];
	size_t size = lfs_packet_failed(&self->failure, packet, sizeof packet);
	packet[0] = 'F';
	if (self->clients[0].fd >= 0)
		send(self->clients[0].fd, packet, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Waits for one packet of the client: D, or its end. */
static bool has_cleaned(const struct lfs_client *client)
{
	uint8_t packet[16];
	for (;;) {
		struct pollfd event = { client->fd, POLLIN, 0 };
		if (poll(&event, 1, FINISH_MS) <= 0)
			return false;
		ssize_t got = recv(client->fd, packet, sizeof packet, 0);
		if (got <= 0)
			return false;
		if (packet[0] == 'D')
			return true;
	}
}

static void tell_exit(struct lfs_monitor *self, struct lfs_client *client, int patience)
{
	struct pollfd event = { client->fd, POLLOUT, 0 };
	uint32_t numbers[] = { self->code, self->signal_number };
	if (client->fd < 0 || client->told || poll(&event, 1, patience) <= 0)
		return;
	client->told = true;
	send_numbers(client, 'X', numbers, 2, -1);
}

void lfs_clients_tell_waiting(struct lfs_monitor *self)
{
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (self->clients[i].fd >= 0 && !self->clients[i].flags)
			tell_exit(self, &self->clients[i], 0);
}

/* First those that read; then the others are waited for, since what they attached to is complete only with the EXIT behind it. */
bool lfs_clients_finish(struct lfs_monitor *self)
{
	bool cleaned = false;
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		tell_exit(self, &self->clients[i], 0);
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		tell_exit(self, &self->clients[i], self->stopped ? STOPPED_MS : FINISH_MS);
	for (int i = 0; i < LFS_CLIENTS_MAX && !cleaned; i++)
		if (self->clients[i].fd >= 0 && self->clients[i].flags & LFS_ATTACH_CLEANS)
			cleaned = has_cleaned(&self->clients[i]);
	return cleaned;
}
