/* Containers that another OCI runtime (crun, runc) makes: its `create` leaves a process that the monitor, as a subreaper,
 * inherits; from then on it is a program like any other. What the runtime writes about errors goes to a file of its own,
 * so that it is not taken for the program's output. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { PROGRAM, BUNDLE, STATE, NAME, ROOT }; /* spec->runtime */
enum { CONSOLE_MS = 10000 };

static int path_of(char *out, size_t size, const struct lfs_spec *spec, const char *name)
{
	return (size_t)snprintf(out, size, "%s/%s", spec->runtime[BUNDLE], name) < size ? 0 : -ENAMETOOLONG;
}

static int show_mapped(const char *source, const char *target, bool recursive, int users)
{
	LFS_AUTO_FD place = open(target, O_PATH | O_CLOEXEC);
	if (place < 0)
		return -errno;
	LFS_AUTO_FD mount = lfs_sys_open_tree(AT_FDCWD, source, recursive);
	int rc = mount < 0 ? mount : lfs_sys_set_mount(mount, "", true, 0, MS_PRIVATE);
	if (rc == 0)
		rc = lfs_sys_map_mount(mount, users);
	return rc < 0 ? rc : lfs_sys_attach(mount, place);
}

/* The namespace that the network belongs to, as a file by which the runtime can join it. */
static int keep_users(const struct lfs_spec *spec, int users)
{
	char path[PATH_MAX], source[64];
	if (path_of(path, sizeof path, spec, "users") < 0)
		return -ENAMETOOLONG;
	LFS_AUTO_FD file = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	snprintf(source, sizeof source, "/proc/self/fd/%d", users);
	return file < 0 || mount(source, path, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

/* Runtimes show a root with the host's ids. So one that makes a container with a user namespace gets a mount namespace in
 * which the root (at a place that the namespace's root may enter) and the mapped binds have the container's already. */
static int show_with_ids(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	LFS_AUTO_FD users = lfs_userns_open(spec, failure);
	if (users < 0)
		return users;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, -errno, "making a mount namespace");
	int rc = keep_users(spec, users);
	if (rc == 0)
		rc = show_mapped(spec->root, spec->runtime[ROOT], true, users);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, rc, "showing the root with the ids of the user namespace "
			"(it takes the engine native and Linux 6.12)");
	for (size_t i = 0; i < spec->step_count && rc == 0; i++) {
		const struct lfs_step *step = &spec->steps[i];
		if (step->kind == LFS_STEP_BIND && step->flags & LFS_STEP_MAPPED)
			rc = show_mapped(step->source, step->source, step->flags & LFS_STEP_RECURSIVE, users);
		if (rc < 0)
			lfs_failed(failure, LFS_STAGE_RUNTIME, rc, "mounting \"%s\" with the ids of the user namespace", step->source);
	}
	return rc;
}

/* Runtimes give their standard streams to the container's user, also where that is the machine's /dev/null. */
static int keep_null(struct lfs_failure *failure)
{
	struct stat status;
	LFS_AUTO_FD own = -1;
	for (int fd = 0; fd <= 2; fd++) {
		if (fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3))
			continue;
		if (own < 0) {
			LFS_AUTO_FD place = lfs_sys_new_mount("tmpfs", "tmpfs", "size=4k", MOUNT_ATTR_NOEXEC);
			if (place < 0 || mknodat(place, "null", S_IFCHR | 0666, makedev(1, 3)) < 0)
				return lfs_failed(failure, LFS_STAGE_RUNTIME, place < 0 ? place : -errno, "making a null device");
			own = openat(place, "null", O_RDWR | O_CLOEXEC);
		}
		if (own < 0 || dup2(own, fd) < 0)
			return lfs_failed(failure, LFS_STAGE_RUNTIME, -errno, "opening a null device");
	}
	return 0;
}

/* As the runtime itself would have said it. */
static void log_failure(const struct lfs_spec *spec, const struct lfs_failure *failure)
{
	char path[PATH_MAX];
	if (path_of(path, sizeof path, spec, "runtime.log") < 0)
		return;
	LFS_AUTO_FD log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (log >= 0)
		dprintf(log, "{\"level\":\"error\",\"msg\":\"%s: %s\"}\n", failure->text, strerror(failure->error));
}

/* Runs it and waits: its exit code, or -errno. Standard streams that are -1 are /dev/null. `created`: what it is to make. */
static int call(char **words, const int *streams, const struct lfs_spec *created)
{
	int status;
	pid_t child = fork();
	if (child < 0)
		return -errno;
	if (child == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		for (int fd = 0; fd <= 2; fd++)
			if (dup2(streams && streams[fd] >= 0 ? streams[fd] : null, fd) < 0)
				_exit(126);
		lfs_sys_reset_signals();
		struct lfs_failure failure = { 0 };
		if (created && ((lfs_userns_own(created) && show_with_ids(created, &failure) < 0) || keep_null(&failure) < 0)) {
			log_failure(created, &failure);
			_exit(125);
		}
		lfs_sys_close_range(3, ~0u, true);
		execv(words[0], words);
		_exit(127);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The last line of what the runtime has written, for Python to read. */
static int tell_log(const struct lfs_spec *spec, const char *log, int code, struct lfs_failure *failure)
{
	char text[4096] = "";
	LFS_AUTO_FD file = open(log, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t got = file < 0 ? -1 : pread(file, text, sizeof text - 1, 0);
	text[got > 0 ? got : 0] = '\0';
	while (got > 0 && text[got - 1] == '\n')
		text[--got] = '\0';
	char *line = strrchr(text, '\n'), *said = strstr(line ? line : text, "\"msg\":\"");
	if (!*text)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, -ECANCELED, "%s ended with code %d", spec->runtime[PROGRAM], code);
	return lfs_failed(failure, LFS_STAGE_RUNTIME, -ECANCELED, "%.380s", said ? said + 7 : line ? line + 1 : text);
}

static int invoke(const struct lfs_spec *spec, char **verb, const int *streams, struct lfs_failure *failure)
{
	char log[4096];
	char *words[24] = { spec->runtime[PROGRAM], (char *)"--root", spec->runtime[STATE], (char *)"--log", log,
		(char *)"--log-format", (char *)"json" };
	if (path_of(log, sizeof log, spec, "runtime.log") < 0)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, -ENAMETOOLONG, "the bundle's path is too long");
	for (size_t i = 0; verb[i] && i < 16; i++)
		words[7 + i] = verb[i];
	unlink(log);
	int rc = call(words, streams, strcmp(verb[0], "create") == 0 ? spec : NULL);
	if (rc < 0)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, rc, "starting %s", spec->runtime[PROGRAM]);
	return rc > 0 ? tell_log(spec, log, rc, failure) : 0;
}

/* Where the runtime brings the master of the terminal. By the directory's descriptor: a path may be longer than a name. */
static int listen_console(int dir, char *path, size_t size)
{
	struct sockaddr_un place = { .sun_family = AF_UNIX };
	LFS_AUTO_FD sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	snprintf(path, size, "/proc/%d/fd/%d/console", getpid(), dir);
	snprintf(place.sun_path, sizeof place.sun_path, "%s", path);
	unlinkat(dir, "console", 0);
	if (bind(sock, (struct sockaddr *)&place, sizeof place) < 0 || listen(sock, 1) < 0)
		return -errno;
	return lfs_steal_fd(&sock);
}

static int take_console(int listener, int to)
{
	struct pollfd event = { listener, POLLIN, 0 };
	if (poll(&event, 1, CONSOLE_MS) <= 0)
		return -ETIMEDOUT;
	LFS_AUTO_FD sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (sock < 0)
		return -errno;
	event = (struct pollfd){ sock, POLLIN, 0 };
	if (poll(&event, 1, CONSOLE_MS) <= 0)
		return -ETIMEDOUT;
	LFS_AUTO_FD master = lfs_terminal_receive(sock);
	return master < 0 ? master : lfs_terminal_send(to, master);
}

static pid_t read_pid(const char *path)
{
	char text[32] = "";
	LFS_AUTO_FD file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, text, sizeof text - 1) <= 0)
		return -ESRCH;
	long number = strtol(text, NULL, 10);
	return number > 1 && number < INT32_MAX ? (pid_t)number : -ESRCH;
}

void lfs_oci_forget(const struct lfs_spec *spec)
{
	struct lfs_failure ignored;
	char *verb[] = { (char *)"delete", (char *)"--force", spec->runtime[NAME], NULL };
	invoke(spec, verb, NULL, &ignored);
}

static int create(const struct lfs_spec *spec, const struct lfs_launch *launch, struct lfs_failure *failure)
{
	char pid_file[4096], console[64];
	LFS_AUTO_FD dir = open(spec->runtime[BUNDLE], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, -errno, "opening the bundle");
	LFS_AUTO_FD listener = spec->terminal ? listen_console(dir, console, sizeof console) : -1;
	if (path_of(pid_file, sizeof pid_file, spec, "pid") < 0 || (spec->terminal && listener < 0))
		return lfs_failed(failure, LFS_STAGE_RUNTIME, listener, "preparing the terminal");
	char *verb[] = { (char *)"create", (char *)"--bundle", spec->runtime[BUNDLE], (char *)"--pid-file", pid_file,
		(char *)(spec->terminal ? "--console-socket" : spec->runtime[NAME]), spec->terminal ? console : NULL,
		spec->runtime[NAME], NULL };
	unlink(pid_file);
	if (lfs_userns_own(spec) && mkdir(spec->runtime[ROOT], 0755) < 0 && errno != EEXIST)
		return lfs_failed(failure, LFS_STAGE_RUNTIME, -errno, "making \"%s\"", spec->runtime[ROOT]);
	int rc = invoke(spec, verb, launch->streams, failure);
	if (lfs_userns_own(spec))
		rmdir(spec->runtime[ROOT]); /* the container has its own mount of it by now */
	if (rc == 0 && spec->terminal) {
		rc = take_console(listener, launch->console);
		if (rc < 0)
			return lfs_failed(failure, LFS_STAGE_RUNTIME, rc, "taking the terminal from %s", spec->runtime[PROGRAM]);
	}
	return rc < 0 ? rc : read_pid(pid_file);
}

/* The pid of the program, which runs; -errno. What an earlier start has left is cleared away first. */
pid_t lfs_oci_spawn(const struct lfs_spec *spec, const struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure)
{
	struct stat info;
	char state[4096];
	char *verb[] = { (char *)"start", spec->runtime[NAME], NULL };
	snprintf(state, sizeof state, "%s/%s", spec->runtime[STATE], spec->runtime[NAME]);
	if (stat(state, &info) == 0)
		lfs_oci_forget(spec);
	pid_t pid = create(spec, launch, failure);
	*pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
	if (pid < 0 || *pidfd < 0) {
		lfs_oci_forget(spec);
		return failure->stage ? -failure->error : lfs_failed(failure, LFS_STAGE_RUNTIME, -ESRCH, "the container's process is gone");
	}
	int rc = invoke(spec, verb, NULL, failure);
	if (rc == 0)
		return pid;
	lfs_oci_forget(spec);
	waitpid(pid, NULL, 0);
	return rc;
}
