/* Mounting as an ordinary user: libfuse's set-user-ID program opens the device, mounts, and sends the descriptor back over a socket. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server.h"

#define CHANNEL 3 /* the program's end of the socket */
#define SAID_MAX 400

extern char **environ;

/* --- running it --- */

static int spawn(const char *program, char *const arguments[], int channel, int errors, pid_t *child)
{
	static const int reset[] = {SIGTERM, SIGINT, SIGPIPE, SIGHUP, SIGXFSZ, SIGCHLD};
	char path[512], said[] = "_FUSE_COMMFD=3", locale[] = "LC_ALL=C";
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	const char *search = getenv("PATH");
	snprintf(path, sizeof path, "PATH=%s", search && *search ? search : "/usr/local/bin:/usr/bin:/bin");
	char *environment[] = {path, locale, said, NULL};
	if (posix_spawn_file_actions_init(&files))
		return -ENOMEM;
	if (posix_spawnattr_init(&attributes)) {
		posix_spawn_file_actions_destroy(&files);
		return -ENOMEM;
	}
	sigemptyset(&none);
	sigemptyset(&defaults);
	for (size_t i = 0; i < sizeof reset / sizeof *reset; i++)
		sigaddset(&defaults, reset[i]);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, errors, 1);
	posix_spawn_file_actions_adddup2(&files, errors, 2);
	if (channel >= 0)
		posix_spawn_file_actions_adddup2(&files, channel, CHANNEL);
	int rc = -posix_spawnp(child, program, &files, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&files);
	return rc;
}

/* `above` keeps a descriptor out of the way of those that the program gets. */
static int above(int fd)
{
	int moved = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, CHANNEL + 1);
	lfs_close_fd(&fd);
	return moved;
}

static int start_program(char *arguments[], int channel, int errors, pid_t *child)
{
	static char newer[] = "fusermount3", older[] = "fusermount";
	arguments[0] = newer;
	int rc = spawn(newer, arguments, channel, errors, child);
	if (rc != -ENOENT)
		return rc;
	arguments[0] = older;
	return spawn(older, arguments, channel, errors, child);
}

/* The program's last line, without its name. */
static void read_said(int fd, char said[SAID_MAX])
{
	char text[2048];
	ssize_t size = pread(fd, text, sizeof text - 1, 0);
	while (size > 0 && text[size - 1] == '\n')
		size--;
	text[size > 0 ? size : 0] = 0;
	const char *line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	const char *colon = strncmp(line, "fusermount", 10) ? NULL : strstr(line, ": ");
	snprintf(said, SAID_MAX, "%.*s", SAID_MAX - 1, colon ? colon + 2 : line);
}

static int await_end(pid_t child)
{
	int status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return errno == ECHILD ? 0 : -errno; /* the caller of a server in its own process ignores SIGCHLD */
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EPERM;
}

static int receive(int socket)
{
	char byte;
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t got;
	while ((got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	const struct cmsghdr *first = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	int fd;
	if (!first || first->cmsg_level != SOL_SOCKET || first->cmsg_type != SCM_RIGHTS || first->cmsg_len != CMSG_LEN(sizeof fd))
		return -EPERM;
	memcpy(&fd, CMSG_DATA(first), sizeof fd);
	return fd;
}

/* --- mounting --- */

static bool others_allowed(void) /* by the administrator, for ordinary users */
{
	char line[256];
	bool found = false;
	FILE *file = fopen("/etc/fuse.conf", "re");
	while (file && !found && fgets(line, sizeof line, file))
		found = !strncmp(line, "user_allow_other", 16) && (!line[16] || line[16] == '\n');
	if (file)
		fclose(file);
	return found;
}

static void write_options(const struct lfs_server *server, FILE *file)
{
	unsigned long flags = server->options.mount_flags;
	fputs("fsname=", file);
	for (const char *at = server->options.name; *at; at++) {
		if (*at == ',' || *at == '\\')
			fputc('\\', file);
		fputc(*at, file);
	}
	fprintf(file, ",subtype=layerfs,default_permissions,max_read=%u%s%s%s%s", server->max_write, flags & MS_RDONLY ? ",ro" : "",
		flags & MS_NOEXEC ? ",noexec" : "", flags & MS_NOATIME ? ",noatime" : "", !server->options.private_ && others_allowed() ? ",allow_other" : "");
}

int lfs_fusermount(struct lfs_server *server, struct lfs_error *error)
{
	char *options = NULL, said[SAID_MAX], flag[] = "-o", end[] = "--";
	size_t size;
	int pair[2], rc = 0;
	pid_t child;
	FILE *file = open_memstream(&options, &size);
	if (!file)
		return lfs_fail(error, -errno, "out of memory");
	write_options(server, file);
	fclose(file);
	LFS_AUTO_FD errors = above(memfd_create("fusermount", MFD_CLOEXEC));
	if (errors < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(options);
		return lfs_fail(error, -errno, "a socket for fusermount3: %s", strerror(errno));
	}
	LFS_AUTO_FD ours = pair[0], theirs = above(pair[1]);
	char *arguments[] = {NULL, flag, options, end, server->options.target, NULL};
	rc = theirs < 0 ? -EMFILE : start_program(arguments, theirs, errors, &child);
	free(options);
	if (rc < 0)
		return lfs_fail(error, rc == -ENOENT ? -ENOTSUP : rc, rc == -ENOENT ? "fusermount3 is not installed" : "fusermount3: %s", strerror(-rc));
	lfs_close_fd(&theirs);
	theirs = LFS_NO_FD;
	int fd = receive(ours);
	await_end(child);
	if (fd < 0) {
		read_said(errors, said);
		return lfs_fail(error, -ENOTSUP, "mounting as an ordinary user: %s", *said ? said : "fusermount3 failed");
	}
	server->device = fd;
	return 0;
}

int lfs_fusermount_undo(struct lfs_server *server, bool lazy)
{
	char undo[] = "-u", later[] = "-z", end[] = "--";
	pid_t child;
	LFS_AUTO_FD errors = above(memfd_create("fusermount", MFD_CLOEXEC));
	char *target = server->options.target;
	char *hard[] = {NULL, undo, end, target, NULL}, *soft[] = {NULL, undo, later, end, target, NULL};
	int rc = errors < 0 ? -errno : start_program(lazy ? soft : hard, LFS_NO_FD, errors, &child);
	return rc < 0 ? rc : await_end(child);
}
