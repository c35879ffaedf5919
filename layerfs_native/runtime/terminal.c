/* A pseudo terminal of the container's own devpts: made inside, its master handed out over a socket. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "run.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

int lfs_terminal_send(int sock, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} space = { 0 };
	struct iovec part = { "t", 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof space.bytes };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	return sendmsg(sock, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The master that the child has sent before its exec; owned, or -errno. */
int lfs_terminal_receive(int sock)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} space = { 0 };
	char byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof space.bytes };
	int fd;
	if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -errno;
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	if (!rights || rights->cmsg_type != SCM_RIGHTS)
		return -EPROTO;
	memcpy(&fd, CMSG_DATA(rights), sizeof fd);
	return fd;
}

/* Of a devpts and nothing else: an image cannot put a file of its own there. */
static int open_master(void)
{
	struct statfs info;
	LFS_AUTO_FD master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	if (master < 0)
		return -errno;
	if (fstatfs(master, &info) < 0)
		return -errno;
	int locked = 0;
	if (info.f_type != DEVPTS_SUPER_MAGIC || ioctl(master, TIOCSPTLCK, &locked) < 0)
		return -ENOTTY;
	return lfs_steal_fd(&master);
}

/* docker's /dev/console: the terminal itself. */
static int bind_console(int slave)
{
	LFS_AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	LFS_AUTO_FD target = lfs_target_open(root, "/dev/console", false, true);
	if (target < 0)
		return target;
	LFS_AUTO_FD mount = lfs_sys_open_tree(slave, "", false);
	return mount < 0 ? mount : lfs_sys_attach(mount, target);
}

static int become_streams(int slave)
{
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		return -errno;
	for (int fd = 0; fd <= 2; fd++)
		if (dup2(slave, fd) < 0)
			return -errno;
	return 0;
}

/* The streams of this process (a session leader in the container's mounts) become a new terminal. */
int lfs_terminal_open(const struct lfs_spec *spec, int sock, bool console, struct lfs_failure *failure)
{
	struct winsize size = { .ws_row = spec->rows, .ws_col = spec->columns };
	LFS_AUTO_FD master = open_master();
	if (master < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, master, "making a terminal");
	LFS_AUTO_FD slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return lfs_failed(failure, LFS_STAGE_NAMESPACE, -errno, "opening the terminal");
	if (size.ws_row || size.ws_col)
		ioctl(slave, TIOCSWINSZ, &size);
	int rc = fchown(slave, spec->uid, (gid_t)-1) < 0 ? -errno : 0;
	if (rc == 0 && console)
		rc = bind_console(slave);
	if (rc == 0)
		rc = lfs_terminal_send(sock, master);
	if (rc == 0)
		rc = become_streams(slave);
	return rc < 0 ? lfs_failed(failure, LFS_STAGE_NAMESPACE, rc, "setting up the terminal") : 0;
}
