/* The supervisor, outside of the namespaces: tells the caller what happens, passes signals on, and lets nothing live
 * longer than the caller does, unless that was asked for. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run.h"

static size_t put_u32(uint8_t *out, size_t at, uint32_t value)
{
	value = htole32(value);
	memcpy(out + at, &value, sizeof value);
	return at + sizeof value;
}

size_t lfs_packet_failed(const struct lfs_failure *failure, uint8_t *out, size_t size)
{
	out[0] = LFS_PACKET_FAILED;
	size_t at = put_u32(out, 1, failure->stage);
	at = put_u32(out, at, (uint32_t)failure->error);
	size_t length = strnlen(failure->text, sizeof failure->text);
	if (length > size - at)
		length = size - at;
	memcpy(out + at, failure->text, length);
	return at + length;
}

static void tell(const struct lfs_supervisor *self, const uint8_t *packet, size_t size)
{
	if (self->control >= 0)
		send(self->control, packet, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void tell_exited(const struct lfs_supervisor *self, uint32_t code, uint32_t number)
{
	uint8_t packet[16] = { LFS_PACKET_EXITED };
	size_t at = put_u32(packet, 1, code);
	tell(self, packet, put_u32(packet, at, number));
}

static void send_signal(struct lfs_supervisor *self, int number)
{
	syscall(SYS_pidfd_send_signal, self->pidfd, number, NULL, 0);
}

/* The pid is for people; the pidfd that goes with it cannot name another process later. */
static void tell_started(struct lfs_supervisor *self)
{
	uint8_t packet[8] = { LFS_PACKET_STARTED };
	int fds[2] = { self->pidfd, self->console < 0 ? -1 : lfs_terminal_receive(self->console) };
	size_t size = (fds[1] < 0 ? 1 : 2) * sizeof(int);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} space = { 0 };
	struct iovec part = { packet, put_u32(packet, 1, (uint32_t)self->pid) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = CMSG_SPACE(size),
	};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(rights), fds, size);
	if (self->control >= 0)
		sendmsg(self->control, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (self->detached)
		self->terminal = lfs_steal_fd(&fds[1]);
	lfs_close_fd(&fds[1]);
}

/* The child's report: a packet when it failed; nothing but the end of the pipe when its exec has happened. */
static void read_report(struct lfs_supervisor *self)
{
	uint8_t packet[512];
	ssize_t got = read(self->report, packet, sizeof packet);
	if (got > 0) {
		self->failed = true;
		tell(self, packet, (size_t)got);
	} else if (!self->failed) {
		tell_started(self);
	}
	close(lfs_steal_fd(&self->report));
}

static void pass_signal(struct lfs_supervisor *self)
{
	struct signalfd_siginfo info;
	if (read(self->signals, &info, sizeof info) == (ssize_t)sizeof info && info.ssi_signo != SIGCHLD)
		send_signal(self, (int)info.ssi_signo);
}

static void read_control(struct lfs_supervisor *self)
{
	uint8_t number;
	ssize_t got = recv(self->control, &number, sizeof number, MSG_DONTWAIT);
	if (got == 1)
		send_signal(self, number);
	if (got == 1 || (got < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	close(lfs_steal_fd(&self->control)); /* the caller has let go */
	if (!self->detached)
		send_signal(self, SIGKILL);
}

static void caller_died(struct lfs_supervisor *self)
{
	close(lfs_steal_fd(&self->caller));
	send_signal(self, SIGKILL);
}

/* Nobody reads the terminal any more, and a full one would hold the program up. The master stays open when all others
 * have closed theirs: its end would be a hangup for the program's session. */
static void drain(struct lfs_supervisor *self, bool *open)
{
	char thrown[4096];
	ssize_t got = read(self->terminal, thrown, sizeof thrown);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		*open = false;
}

static int reap(struct lfs_supervisor *self)
{
	int status = 0;
	while (waitpid(self->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (self->report >= 0)
		read_report(self);
	uint32_t number = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
	uint32_t code = number ? 128 + number : (uint32_t)WEXITSTATUS(status);
	if (!self->failed)
		tell_exited(self, code, number);
	return (int)code;
}

int lfs_supervise(struct lfs_supervisor *self)
{
	for (bool open = true;;) {
		int unread = open && self->control < 0 ? self->terminal : -1;
		struct pollfd events[] = { /* poll passes over descriptors below 0 */
			{ self->report, POLLIN, 0 }, { self->pidfd, POLLIN, 0 }, { self->signals, POLLIN, 0 },
			{ self->control, POLLIN, 0 }, { self->caller, POLLIN, 0 }, { unread, POLLIN, 0 },
		};
		if (poll(events, sizeof events / sizeof *events, -1) < 0)
			continue;
		if (events[0].revents)
			read_report(self);
		if (events[1].revents)
			return reap(self);
		if (events[2].revents)
			pass_signal(self);
		if (events[3].revents)
			read_control(self);
		if (events[4].revents)
			caller_died(self);
		if (events[5].revents)
			drain(self, &open);
	}
}
