/* Between the program's streams, the log and the clients. One chunk is under way at a time: the next one is read when the
 * log has it and every attached client too. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"

enum { STOPPED_PATIENCE_MS = 2000 };

static bool send_chunk(struct lfs_monitor *self, struct lfs_client *client)
{
	ssize_t sent = send(client->fd, self->chunk, 1 + self->chunk_size, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR && errno != ENOBUFS);
}

bool lfs_streams_deliver(struct lfs_monitor *self)
{
	bool all = true;
	for (int i = 0; i < LFS_CLIENTS_MAX; i++) {
		struct lfs_client *client = &self->clients[i];
		if (client->behind && client->fd >= 0 && !send_chunk(self, client))
			all = false;
		else
			client->behind = false;
	}
	if (all)
		self->chunk_size = 0;
	return all;
}

static void close_output(struct lfs_monitor *self, int which)
{
	int fd = lfs_steal_fd(&self->output[which]);
	if (fd >= 0 && fd != self->input)
		close(fd);
	lfs_log_end(&self->log, &self->lines[which]);
}

/* EIO is how a terminal ends that nobody has open any more; also between two openings, so it counts when the program is over. */
void lfs_streams_read(struct lfs_monitor *self, int which)
{
	ssize_t got = read(self->output[which], self->chunk + 1, LFS_CHUNK);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		close_output(self, which);
		return;
	}
	uint32_t wanted = which ? LFS_ATTACH_STDERR : LFS_ATTACH_STDOUT;
	self->chunk[0] = which ? 'R' : 'O';
	self->chunk_size = (size_t)got;
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		self->clients[i].behind = self->clients[i].fd >= 0 && self->clients[i].flags & wanted;
	lfs_log_write(&self->log, &self->lines[which], self->chunk + 1, self->chunk_size);
	lfs_streams_deliver(self);
}

void lfs_streams_type(struct lfs_monitor *self)
{
	while (self->typed_done < self->typed_size) {
		ssize_t wrote = write(self->input, self->typed + self->typed_done, self->typed_size - self->typed_done);
		if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (wrote < 0)
			break; /* the program does not want it */
		self->typed_done += (size_t)wrote;
	}
	self->typed_size = self->typed_done = 0;
	if (self->input_ended)
		lfs_streams_end_input(self);
}

/* A terminal has no end of input; a pipe has, once it has taken what was typed. */
void lfs_streams_end_input(struct lfs_monitor *self)
{
	self->input_ended = true;
	if (self->typed_size || self->input < 0 || self->input == self->output[0] || self->spec.terminal)
		return;
	close(lfs_steal_fd(&self->input));
}

static void drop_behind(struct lfs_monitor *self)
{
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (self->clients[i].behind)
			lfs_clients_drop(self, &self->clients[i]);
}

/* Clients that have not taken the chunk: until they do, others are heard too. Who wants the container stopped waits for
 * those that read nothing no longer than a moment. */
static void await_clients(struct lfs_monitor *self)
{
	struct pollfd events[1 + LFS_CLIENTS_MAX];
	events[0] = (struct pollfd){ self->listener, POLLIN, 0 };
	if (self->phase == LFS_PHASE_EXITED)
		lfs_clients_tell_waiting(self);
	for (int i = 0; i < LFS_CLIENTS_MAX; i++) {
		struct lfs_client *client = &self->clients[i];
		events[1 + i] = (struct pollfd){ client->fd, client->behind ? POLLOUT : POLLIN, 0 };
	}
	int ready = lfs_sys_poll(events, 1 + LFS_CLIENTS_MAX, self->stopped ? STOPPED_PATIENCE_MS : -1);
	if (ready == 0)
		drop_behind(self);
	if (ready <= 0)
		return;
	for (int i = 0; i < LFS_CLIENTS_MAX; i++)
		if (events[1 + i].revents & (POLLIN | POLLHUP | POLLERR))
			lfs_clients_read(self, &self->clients[i]);
	if (events[0].revents)
		lfs_clients_accept(self);
}

/* All that is left in the pipes; the program and all its relatives are dead. */
void lfs_streams_drain(struct lfs_monitor *self)
{
	for (int which = 0; which < 2; which++) {
		while (self->output[which] >= 0) {
			struct pollfd event = { self->output[which], POLLIN, 0 };
			while (self->chunk_size && !lfs_streams_deliver(self))
				await_clients(self);
			if (poll(&event, 1, 0) <= 0)
				close_output(self, which);
			else
				lfs_streams_read(self, which);
		}
	}
	while (self->chunk_size && !lfs_streams_deliver(self))
		await_clients(self);
}

void lfs_streams_close(struct lfs_monitor *self)
{
	if (self->input >= 0)
		close(lfs_steal_fd(&self->input));
	self->typed_size = self->typed_done = 0;
	self->input_ended = false;
	self->chunk_size = 0;
}
