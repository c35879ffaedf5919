/* What the server counts. Every thread counts for itself, so that no cache line goes to and fro; who asks adds the threads up. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server.h"

_Thread_local struct lfs_meter *lfs_meter;

uint64_t lfs_now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void lfs_meter_start(struct lfs_server *server)
{
	struct lfs_meter *meter = lfs_meter ? NULL : calloc(1, sizeof *meter);
	if (!meter)
		return; /* without memory nothing is counted */
	meter->next = atomic_load(&server->stats.meters);
	while (!atomic_compare_exchange_weak(&server->stats.meters, &meter->next, meter))
		;
	lfs_meter = meter;
}

void lfs_stats_free(struct lfs_server *server)
{
	struct lfs_meter *meter = atomic_exchange(&server->stats.meters, NULL), *next;
	for (; meter; meter = next) {
		next = meter->next;
		free(meter);
	}
	lfs_meter = NULL;
}

static unsigned bucket_of(uint64_t nanoseconds)
{
	uint64_t units = nanoseconds >> LFS_BUCKET_SHIFT;
	unsigned bucket = units ? 64 - (unsigned)__builtin_clzll(units) : 0;
	return bucket < LFS_BUCKETS ? bucket : LFS_BUCKETS - 1;
}

void lfs_count_request(uint32_t opcode, int error, uint64_t nanoseconds)
{
	if (!lfs_meter)
		return;
	struct lfs_operation_stats *stats = &lfs_meter->operations[opcode];
	lfs_bump(&stats->count, 1);
	lfs_bump(&stats->nanoseconds, nanoseconds);
	lfs_bump(&stats->buckets[bucket_of(nanoseconds)], 1);
	if (error < 0)
		lfs_bump(&stats->errors, 1);
	if (error == -ESTALE)
		lfs_count(LFS_COUNT_stale, 1);
}

/* --- as JSON --- */

static const char *const names[FUSE_OP_LIMIT] = {
	[FUSE_LOOKUP] = "LOOKUP", [FUSE_FORGET] = "FORGET", [FUSE_GETATTR] = "GETATTR", [FUSE_SETATTR] = "SETATTR", [FUSE_READLINK] = "READLINK",
	[FUSE_SYMLINK] = "SYMLINK", [FUSE_MKNOD] = "MKNOD", [FUSE_MKDIR] = "MKDIR", [FUSE_UNLINK] = "UNLINK", [FUSE_RMDIR] = "RMDIR",
	[FUSE_RENAME] = "RENAME", [FUSE_LINK] = "LINK", [FUSE_OPEN] = "OPEN", [FUSE_READ] = "READ", [FUSE_WRITE] = "WRITE",
	[FUSE_STATFS] = "STATFS", [FUSE_RELEASE] = "RELEASE", [FUSE_FSYNC] = "FSYNC", [FUSE_SETXATTR] = "SETXATTR", [FUSE_GETXATTR] = "GETXATTR",
	[FUSE_LISTXATTR] = "LISTXATTR", [FUSE_REMOVEXATTR] = "REMOVEXATTR", [FUSE_FLUSH] = "FLUSH", [FUSE_INIT] = "INIT",
	[FUSE_OPENDIR] = "OPENDIR", [FUSE_READDIR] = "READDIR", [FUSE_RELEASEDIR] = "RELEASEDIR", [FUSE_FSYNCDIR] = "FSYNCDIR",
	[FUSE_ACCESS] = "ACCESS", [FUSE_CREATE] = "CREATE", [FUSE_INTERRUPT] = "INTERRUPT", [FUSE_DESTROY] = "DESTROY", [FUSE_IOCTL] = "IOCTL",
	[FUSE_BATCH_FORGET] = "BATCH_FORGET", [FUSE_FALLOCATE] = "FALLOCATE", [FUSE_READDIRPLUS] = "READDIRPLUS", [FUSE_RENAME2] = "RENAME2",
	[FUSE_LSEEK] = "LSEEK", [FUSE_COPY_FILE_RANGE] = "COPY_FILE_RANGE", [FUSE_SYNCFS] = "SYNCFS", [FUSE_TMPFILE] = "TMPFILE",
	[FUSE_STATX] = "STATX", [FUSE_COPY_FILE_RANGE_64] = "COPY_FILE_RANGE_64",
};
#define LFS_COUNT_NAME(name) #name,
static const char *const count_names[LFS_COUNTS] = {LFS_COUNTERS(LFS_COUNT_NAME)};

struct sum { /* of all threads */
	uint64_t count, errors, nanoseconds, buckets[LFS_BUCKETS];
};

static uint64_t read_counter(const atomic_ullong *place)
{
	return atomic_load_explicit(place, memory_order_relaxed);
}

static struct sum sum_operation(const struct lfs_server *server, uint32_t opcode)
{
	struct sum sum = {0};
	for (const struct lfs_meter *meter = atomic_load(&server->stats.meters); meter; meter = meter->next) {
		const struct lfs_operation_stats *stats = &meter->operations[opcode];
		sum.count += read_counter(&stats->count);
		sum.errors += read_counter(&stats->errors);
		sum.nanoseconds += read_counter(&stats->nanoseconds);
		for (unsigned i = 0; i < LFS_BUCKETS; i++)
			sum.buckets[i] += read_counter(&stats->buckets[i]);
	}
	return sum;
}

/* The time that `percent` of the requests did not exceed: the end of its bucket. */
static uint64_t percentile(const struct sum *sum, unsigned percent)
{
	uint64_t total = 0, seen = 0;
	for (unsigned i = 0; i < LFS_BUCKETS; i++)
		total += sum->buckets[i];
	for (unsigned i = 0; i < LFS_BUCKETS; i++)
		if ((seen += sum->buckets[i]) * 100 >= total * percent)
			return 1ull << (i + LFS_BUCKET_SHIFT);
	return 0;
}

static void print_operation(FILE *file, const struct sum *sum)
{
	unsigned used = LFS_BUCKETS;
	while (used && !sum->buckets[used - 1])
		used--;
	fprintf(file, "{\"count\":%llu,\"errors\":%llu,\"nanoseconds\":%llu,\"p50\":%llu,\"p99\":%llu,\"histogram\":[", (unsigned long long)sum->count,
		(unsigned long long)sum->errors, (unsigned long long)sum->nanoseconds, (unsigned long long)percentile(sum, 50),
		(unsigned long long)percentile(sum, 99));
	for (unsigned i = 0; i < used; i++)
		fprintf(file, "%s%llu", i ? "," : "", (unsigned long long)sum->buckets[i]);
	fputs("]}", file);
}

static void print_requests(const struct lfs_server *server, FILE *file)
{
	const char *comma = "";
	fputs("\"requests\":{", file);
	for (uint32_t opcode = 0; opcode < FUSE_OP_LIMIT; opcode++) {
		struct sum sum = sum_operation(server, opcode);
		if (!sum.count)
			continue;
		if (names[opcode])
			fprintf(file, "%s\"%s\":", comma, names[opcode]);
		else
			fprintf(file, "%s\"%u\":", comma, opcode);
		print_operation(file, &sum);
		comma = ",";
	}
	fputs("},", file);
}

static void print_counters(const struct lfs_server *server, FILE *file)
{
	fputs("\"counters\":{", file);
	for (unsigned i = 0; i < LFS_COUNTS; i++) {
		uint64_t sum = 0;
		for (const struct lfs_meter *meter = atomic_load(&server->stats.meters); meter; meter = meter->next)
			sum += read_counter(&meter->counts[i]);
		fprintf(file, "%s\"%s\":%llu", i ? "," : "", count_names[i], (unsigned long long)sum);
	}
	fputs("},", file);
}

static unsigned descriptors_in_use(const struct lfs_server *server)
{
	unsigned count = 0;
	int fd = openat(server->upper.links, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		lfs_close_fd(&fd);
		return 0;
	}
	for (const struct dirent *entry; (entry = readdir(stream));)
		count += entry->d_name[0] != '.';
	closedir(stream);
	return count - 1; /* not this one */
}

static void print_state(struct lfs_server *server, FILE *file)
{
	unsigned descriptors = descriptors_in_use(server);
	lfs_lock(server);
	fprintf(file,
		"\"nodes\":%llu,\"names\":%llu,\"open_files\":%llu,\"kept_files\":%u,\"nameless\":%u,\"listing_bytes\":%llu,\"descriptors\":%u,"
		"\"layers\":%u,\"frozen_us\":%llu,"
		"\"features\":{\"passthrough\":%s,\"acl\":%s,\"killpriv\":%s,\"no_open\":%s,\"no_opendir\":%s}",
		(unsigned long long)server->nodes.node_count, (unsigned long long)server->nodes.name_count, (unsigned long long)server->files.handles,
		server->files.open, server->files.pinned, (unsigned long long)server->listings.bytes, descriptors, server->layer_count,
		(unsigned long long)server->last_pause / 1000, server->passthrough ? "true" : "false",
		server->acl ? "true" : "false", server->killpriv ? "true" : "false", server->no_open ? "true" : "false",
		server->no_opendir ? "true" : "false");
	lfs_unlock(server);
}

int lfs_stats_json(struct lfs_server *server, char **out, size_t *size)
{
	FILE *file = open_memstream(out, size);
	if (!file)
		return -errno;
	fprintf(file, "{\"protocol\":\"%u.%u\",\"transport\":\"%s\",\"seconds\":%.3f,\"bucket_nanoseconds\":%u,", FUSE_MAJOR, server->minor,
		server->uring ? "uring" : "device", (double)(lfs_now() - server->stats.started) / 1e9, 1u << LFS_BUCKET_SHIFT);
	print_requests(server, file);
	print_counters(server, file);
	print_state(server, file);
	fputs("}\n", file);
	bool failed = ferror(file);
	if (fclose(file) == 0 && !failed)
		return 0;
	free(*out);
	*out = NULL;
	return -ENOMEM;
}
