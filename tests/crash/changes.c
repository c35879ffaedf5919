/* Loaded into a server before libc: notes its changes of files on the descriptor file LAYERFS_NOTE (records of a header and, for writes, the
 * bytes), and kills it right before the change number LAYERFS_DIE_AT. What it forwards goes straight to the kernel. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
	uint64_t kind, ino, offset, length; /* kind: a letter */
};

static atomic_long count;
static long die_at;
static int note = -1;

__attribute__((constructor)) static void start(void)
{
	const char *at = getenv("LAYERFS_DIE_AT"), *path = getenv("LAYERFS_NOTE");
	die_at = at ? atol(at) : 0;
	note = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

static void change(char kind, int fd, uint64_t offset, uint64_t length, const struct iovec *parts, int parts_count)
{
	struct stat status;
	if (die_at && atomic_fetch_add(&count, 1) + 1 == die_at) {
		kill(getpid(), SIGKILL);
		pause();
	}
	if (note < 0 || fstat(fd, &status) < 0)
		return;
	struct record record = {(uint64_t)kind, status.st_ino, offset, length};
	struct iovec all[8] = {{&record, sizeof record}};
	for (int i = 0; i < parts_count && i < 7; i++)
		all[i + 1] = parts[i];
	syscall(SYS_writev, note, all, parts_count + 1);
}

ssize_t pwritev(int fd, const struct iovec *parts, int parts_count, off_t offset)
{
	uint64_t length = 0;
	for (int i = 0; i < parts_count; i++)
		length += parts[i].iov_len;
	change('w', fd, (uint64_t)offset, length, parts, parts_count);
	return syscall(SYS_pwritev, fd, parts, parts_count, offset, 0);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	struct iovec part = {(void *)(uintptr_t)data, size};
	change('w', fd, (uint64_t)offset, size, &part, 1);
	return syscall(SYS_pwrite64, fd, data, size, offset);
}

int ftruncate(int fd, off_t size)
{
	change('t', fd, (uint64_t)size, 0, NULL, 0);
	return (int)syscall(SYS_ftruncate, fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	change((char)('A' + mode), fd, (uint64_t)offset, (uint64_t)length, NULL, 0); /* A: allocate, B: keep size, D: punch, Q, R: zero */
	return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fsync(int fd)
{
	change('s', fd, 0, 0, NULL, 0);
	return (int)syscall(SYS_fsync, fd);
}

/* The server's paths to descriptors are their numbers. */
int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)
{
	struct iovec part = {(void *)(uintptr_t)value, size};
	if (strstr(name, "layerfs.blocks"))
		change('x', atoi(path), 0, size, &part, 1);
	return (int)syscall(SYS_setxattr, path, name, value, size, flags);
}

int removexattr(const char *path, const char *name)
{
	if (strstr(name, "layerfs.blocks"))
		change('r', atoi(path), 0, 0, NULL, 0);
	return (int)syscall(SYS_removexattr, path, name);
}
