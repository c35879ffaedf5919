/* The server's request parser and all below it: any requests, to a server over a small tree and an empty upper directory, without a mount.
 *
 * An input is records: opcode, node, u16 size of the arguments, the arguments. A node under 32 is one that a reply gave (0: the root);
 * others are ids that were never given. An opcode's highest bit: the reply does not arrive. The directory that the program is in holds
 * `store/tree`, `store/packs` and `store/objects` (tools/fuzz.py makes them). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../fuse/server.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GIVEN 32u
#define FRONT 4096u
#define FILE_LIMIT (16u << 20) /* the machine's disk is not what is tested */

static char *store;
static char place[64];
static int place_fd;
static uint8_t *out;

static void check(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static void clean(void)
{
	lfs_remove_tree(AT_FDCWD, place);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct rlimit limit = {FILE_LIMIT, FILE_LIMIT};
	char *program = realpath((*argv)[0], NULL);
	check(program && asprintf(&store, "%s/store", dirname(program)) > 0, "no store");
	free(program);
	snprintf(place, sizeof place, "%s/layerfs-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	check(mkdtemp(place) && (place_fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0, "no place for the upper directory");
	atexit(clean);
	setrlimit(RLIMIT_FSIZE, &limit);
	out = malloc(LFS_MAX_WRITE + FRONT);
	return out ? 0 : 1;
}

static char *path(const char *folder, const char *name)
{
	char *text = NULL;
	check(asprintf(&text, "%s/%s", folder, name) > 0, "no memory");
	return text;
}

static void start(struct lfs_server *server, uint8_t mode)
{
	struct lfs_error error = {""};
	lfs_server_init(server);
	mkdirat(place_fd, "upper", 0755);
	mkdirat(place_fd, "work", 0755);
	server->options.tree = path(store, "tree");
	server->options.packs = path(store, "packs");
	server->options.objects = path(store, "objects");
	server->options.volatile_ = true;
	server->options.strict = mode & 1;
	if (!(mode & 2)) {
		server->options.upper = path(place, "upper");
		server->options.work = path(place, "work");
	}
	server->options.read_only = (mode & 12) == 12;
	server->minor = mode & 16 ? FUSE_MINOR_OLDEST : FUSE_MINOR;
	check(lfs_server_open(server, &error) == 0, error.text);
	lfs_meter_start(server);
}

static void finish(struct lfs_server *server)
{
	char *text;
	size_t size;
	check(lfs_stats_json(server, &text, &size) == 0 && size, "no statistics");
	free(text);
	lfs_server_close(server);
	lfs_remove_tree(place_fd, "upper");
	lfs_remove_tree(place_fd, "work");
}

/* Replies that give a node: remembered, so that requests come to more than the root. */
static void remember(const struct lfs_request *request, uint64_t *given, unsigned *count)
{
	const struct fuse_entry_out *entry = (const struct fuse_entry_out *)request->out;
	switch (request->header.opcode) {
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_CREATE:
	case FUSE_TMPFILE:
		check(request->out_size >= sizeof *entry, "an entry is too short");
		if (entry->nodeid)
			given[1 + (*count)++ % (GIVEN - 1)] = entry->nodeid;
		break;
	default:
		break;
	}
}

static void ask(struct lfs_server *server, const uint8_t record[4], const uint8_t *args, size_t size, uint64_t *given, unsigned *count)
{
	uint8_t *copy = malloc(size ? size : 1); /* of the exact size: nothing behind it may be read */
	struct lfs_request request = {.server = server, .args = copy, .args_size = size, .out = out, .out_room = LFS_MAX_WRITE + FRONT};
	check(copy, "no memory");
	memcpy(copy, args, size);
	request.header = (struct fuse_in_header){
		.len = (uint32_t)(sizeof request.header + size),
		.opcode = record[0] & 127,
		.unique = 2,
		.nodeid = record[1] < GIVEN ? given[record[1]] : record[1] & 1 ? record[1] : ~(uint64_t)record[1] << (record[1] & 62),
		.uid = record[1] & 32 ? 1000 : 0,
	};
	int error = lfs_dispatch(&request);
	check(error <= 0 && error > -512, "not an error number");
	check(request.out_size <= request.out_room, "a reply larger than its room");
	if (!error && record[0] & 128)
		lfs_undelivered(&request);
	else if (!error)
		remember(&request, given, count);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lfs_server server;
	uint64_t given[GIVEN] = {[0] = FUSE_ROOT};
	unsigned count = 0;
	if (!size)
		return 0;
	signal(SIGXFSZ, SIG_IGN); /* libFuzzer takes it as a failure */
	start(&server, data[0]);
	for (size_t at = 1; at + 4 <= size;) {
		const uint8_t *record = data + at;
		size_t wanted = record[2] | (size_t)record[3] << 8;
		at += 4;
		size_t got = wanted < size - at ? wanted : size - at;
		ask(&server, record, data + at, got, given, &count);
		at += got;
	}
	finish(&server);
	return 0;
}
