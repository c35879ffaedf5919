/* The timed loops of the benchmarks, so that no interpreter's time is in the figures: workload OPERATION ROOT [ARGUMENT...].
 * Prints the nanoseconds that the loop took. LIST is a file of names, one a line, relative to ROOT, read before the clock starts. */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];
static char **names;
static size_t name_count;
static volatile uint64_t seen; /* keeps the loops from being optimised away */

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void read_names(const char *root, const char *list)
{
	char line[PATH_MAX], path[2 * PATH_MAX];
	FILE *file = fopen(list, "r");
	size_t capacity = 0;
	if (!file)
		err(1, "%s", list);
	while (fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		if (name_count == capacity && !(names = realloc(names, (capacity = capacity ? capacity * 2 : 1024) * sizeof *names)))
			err(1, "memory");
		snprintf(path, sizeof path, "%s/%s", root, line);
		names[name_count++] = strdup(path);
	}
	fclose(file);
}

static void walk(int dir, bool with_stat)
{
	struct stat status;
	DIR *stream = fdopendir(dir);
	if (!stream)
		err(1, "opendir");
	for (struct dirent *entry; (entry = readdir(stream));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		seen++;
		if (!with_stat && entry->d_type != DT_UNKNOWN)
			status.st_mode = DTTOIF(entry->d_type);
		else if (fstatat(dirfd(stream), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			err(1, "%s", entry->d_name);
		if (S_ISDIR(status.st_mode)) {
			int below = openat(dirfd(stream), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
			if (below < 0)
				err(1, "%s", entry->d_name);
			walk(below, with_stat);
		}
	}
	closedir(stream);
}

static void op_walk(const char *root, bool with_stat)
{
	int dir = open(root, O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		err(1, "%s", root);
	walk(dir, with_stat);
}

static void op_stat(void)
{
	struct stat status;
	for (size_t i = 0; i < name_count; i++)
		if (lstat(names[i], &status) < 0)
			err(1, "%s", names[i]);
}

static void op_missing(void)
{
	struct stat status;
	for (size_t i = 0; i < name_count; i++)
		if (lstat(names[i], &status) == 0 || errno != ENOENT)
			err(1, "%s is there", names[i]);
}

static void op_read(void)
{
	for (size_t i = 0; i < name_count; i++) {
		int fd = open(names[i], O_RDONLY);
		ssize_t got = fd < 0 ? -1 : 1;
		while (got > 0)
			seen += (uint64_t)(got = read(fd, buffer, 65536));
		if (got < 0)
			err(1, "%s", names[i]);
		close(fd);
	}
}

static void op_create(size_t size)
{
	for (size_t i = 0; i < name_count; i++) {
		int fd = open(names[i], O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0 || write(fd, buffer, size) != (ssize_t)size)
			err(1, "%s", names[i]);
		close(fd);
	}
}

static void op_unlink(void)
{
	for (size_t i = 0; i < name_count; i++)
		if (unlink(names[i]) < 0)
			err(1, "%s", names[i]);
}

/* --- big files --- */

static int open_file(const char *path, int flags, size_t *size)
{
	struct stat status;
	int fd = open(path, flags, 0644);
	if (fd < 0 || fstat(fd, &status) < 0)
		err(1, "%s", path);
	*size = (size_t)status.st_size;
	return fd;
}

static uint64_t next_random(void)
{
	static uint64_t state = 88172645463325252ull;
	state ^= state << 13, state ^= state >> 7;
	return state ^= state << 17;
}

static void op_sequential_read(const char *path, size_t block)
{
	size_t size;
	int fd = open_file(path, O_RDONLY, &size);
	ssize_t got;
	while ((got = read(fd, buffer, block)) > 0)
		seen += (uint64_t)got;
	if (got < 0)
		err(1, "%s", path);
	close(fd);
}

static void op_sequential_write(const char *path, size_t block, size_t size)
{
	size_t unused;
	int fd = open_file(path, O_WRONLY | O_CREAT, &unused);
	for (size_t done = 0; done < size; done += block)
		if (write(fd, buffer, block) != (ssize_t)block)
			err(1, "%s", path);
	close(fd);
}

static void op_random(const char *path, size_t count, bool write)
{
	size_t size;
	int fd = open_file(path, write ? O_RDWR : O_RDONLY, &size);
	for (size_t i = 0; i < count; i++) {
		off_t at = (off_t)(next_random() % (size / 4096) * 4096);
		if ((write ? pwrite(fd, buffer, 4096, at) : pread(fd, buffer, 4096, at)) != 4096)
			err(1, "%s", path);
	}
	close(fd);
}

/* One byte of each page, as a program touches what it has mapped. */
static void op_map(const char *path, bool write)
{
	size_t size;
	int fd = open_file(path, write ? O_RDWR : O_RDONLY, &size);
	uint8_t *map = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "%s", path);
	for (size_t at = 0; at < size; at += 4096) {
		if (write)
			map[at] = (uint8_t)at;
		else
			seen += map[at];
	}
	munmap(map, size);
	close(fd);
}

static void run(const char *operation, const char *root, char **arguments)
{
	size_t first = arguments[0] ? strtoull(arguments[0], NULL, 10) : 0;
	if (!strcmp(operation, "walk") || !strcmp(operation, "list"))
		op_walk(root, operation[0] == 'w');
	else if (!strcmp(operation, "stat"))
		op_stat();
	else if (!strcmp(operation, "missing"))
		op_missing();
	else if (!strcmp(operation, "read"))
		op_read();
	else if (!strcmp(operation, "create"))
		op_create(4096);
	else if (!strcmp(operation, "unlink"))
		op_unlink();
	else if (!strcmp(operation, "sequential-read"))
		op_sequential_read(root, first);
	else if (!strcmp(operation, "sequential-write"))
		op_sequential_write(root, first, strtoull(arguments[1], NULL, 10));
	else if (!strcmp(operation, "random-read") || !strcmp(operation, "random-write"))
		op_random(root, first, operation[7] == 'w');
	else if (!strcmp(operation, "map-read") || !strcmp(operation, "map-write"))
		op_map(root, operation[4] == 'w');
	else
		errx(2, "no such operation: %s", operation);
}

int main(int argc, char **argv)
{
	static const char *const listed[] = {"stat", "missing", "read", "create", "unlink"};
	if (argc < 3)
		errx(2, "workload OPERATION ROOT [ARGUMENT...]");
	memset(buffer, 'x', sizeof buffer);
	for (size_t i = 0; i < sizeof listed / sizeof *listed; i++)
		if (!strcmp(argv[1], listed[i])) {
			if (argc < 4)
				errx(2, "%s wants a list of names", argv[1]);
			read_names(argv[2], argv[3]);
		}
	uint64_t start = now();
	run(argv[1], argv[2], argv + 3);
	printf("%llu\n", (unsigned long long)(now() - start));
	return 0;
}
