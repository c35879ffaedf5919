/* INIT: what this server and the kernel agree on. Each feature is used when it is offered and not switched off. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/vfs.h>

#include "server.h"

#define OVERLAY_MAGIC 0x794c7630
#define ECRYPTFS_MAGIC 0xf15f

/* The kernel wants to know how deep our backing files' file systems are stacked; too deep a number would keep others from stacking on us. */
static uint32_t stack_depth(const struct lfs_server *server)
{
	const int fds[] = {server->lower.objects, server->upper.root};
	uint32_t depth = 1;
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
		struct statfs status;
		if (fds[i] >= 0 && fstatfs(fds[i], &status) == 0 && (status.f_type == OVERLAY_MAGIC || status.f_type == ECRYPTFS_MAGIC))
			depth = 2;
	}
	return depth;
}

static uint64_t wanted(const struct lfs_server *server)
{
	const struct lfs_options *options = &server->options;
	uint64_t flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
			 FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA | FUSE_SETXATTR_EXT | FUSE_INIT_EXT |
			 FUSE_HAS_EXPIRE_ONLY | FUSE_DIRECT_IO_ALLOW_MMAP;
	flags |= options->no_readdirplus ? 0 : FUSE_DO_READDIRPLUS;
	flags |= options->no_acl ? 0 : FUSE_POSIX_ACL;
	flags |= options->no_killpriv ? 0 : FUSE_HANDLE_KILLPRIV_V2;
	flags |= options->no_opendir_enosys ? 0 : FUSE_NO_OPENDIR_SUPPORT;
	flags |= options->no_passthrough || !server->rights.host ? 0 : FUSE_PASSTHROUGH;
	flags |= server->rights.host && !options->users.count && !options->groups.count ? FUSE_ALLOW_IDMAP : 0; /* else we want to hear who asks */
	flags |= server->rings ? FUSE_OVER_IO_URING : 0;
	flags |= !options->no_zero_open && !server->upper.present ? FUSE_NO_OPEN_SUPPORT : 0;
	return flags;
}

/* What a kernel of an older protocol would not offer: tests pretend one by the order `minor`. */
static uint64_t known_in(uint32_t minor)
{
	static const struct {
		uint32_t minor;
		uint64_t flags;
	} since[] = {
		{33, FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT},
		{36, FUSE_INIT_EXT},
		{38, FUSE_HAS_EXPIRE_ONLY},
		{39, FUSE_DIRECT_IO_ALLOW_MMAP},
		{40, FUSE_PASSTHROUGH | FUSE_HAS_RESEND},
		{41, FUSE_ALLOW_IDMAP},
		{42, FUSE_OVER_IO_URING},
	};
	uint64_t flags = ~0ull;
	for (size_t i = 0; i < sizeof since / sizeof *since; i++)
		flags &= minor < since[i].minor ? ~since[i].flags : ~0ull;
	return flags;
}

int lfs_op_init(struct lfs_request *request)
{
	struct lfs_server *server = request->server;
	struct fuse_init_in in = {0};
	struct fuse_init_out *out = (struct fuse_init_out *)request->out;
	memcpy(&in, request->args, request->args_size < sizeof in ? request->args_size : sizeof in);
	*out = (struct fuse_init_out){.major = FUSE_MAJOR, .minor = FUSE_MINOR};
	request->out_size = sizeof *out;
	if (server->ready)
		return -EINVAL; /* once is enough */
	if (in.major > FUSE_MAJOR)
		return 0; /* the kernel asks again, with ours */
	if (in.major < FUSE_MAJOR || in.minor < FUSE_MINOR_OLDEST)
		return -EPROTO;
	server->minor = in.minor < server->options.minor ? in.minor : server->options.minor;
	uint64_t offered = in.flags, flags;
	if (in.flags & FUSE_INIT_EXT)
		offered |= (uint64_t)in.flags2 << 32;
	flags = wanted(server) & offered & known_in(server->minor);
	out->minor = server->minor;
	server->passthrough = flags & FUSE_PASSTHROUGH;
	server->acl = flags & FUSE_POSIX_ACL;
	server->killpriv = flags & FUSE_HANDLE_KILLPRIV_V2;
	server->setxattr_ext = flags & FUSE_SETXATTR_EXT;
	server->no_opendir = flags & FUSE_NO_OPENDIR_SUPPORT;
	server->uring = flags & FUSE_OVER_IO_URING;
	server->no_open = flags & FUSE_NO_OPEN_SUPPORT;
	out->max_readahead = in.max_readahead;
	out->flags = (uint32_t)flags;
	out->flags2 = (uint32_t)(flags >> 32);
	out->max_background = 64;
	out->congestion_threshold = 48;
	out->max_write = server->max_write;
	out->max_pages = (uint16_t)(server->max_write / LFS_BLOCK);
	out->time_gran = 1;
	out->max_stack_depth = server->passthrough ? stack_depth(server) : 0;
	server->ready = true;
	return 0;
}

int lfs_op_destroy(struct lfs_request *request)
{
	return 0;
}
