/* The FUSE kernel protocol, 7.31 to 7.45, as far as this server speaks it. Host byte order; every struct has the kernel's layout. */
#ifndef LFS_FUSE_PROTOCOL_H
#define LFS_FUSE_PROTOCOL_H

#include <stdint.h>
#include <sys/ioctl.h>

#define FUSE_MAJOR 7u
#define FUSE_MINOR 45u
#define FUSE_MINOR_OLDEST 31u
#define FUSE_ROOT 1u

enum fuse_op {
	FUSE_LOOKUP = 1,
	FUSE_FORGET = 2,
	FUSE_GETATTR = 3,
	FUSE_SETATTR = 4,
	FUSE_READLINK = 5,
	FUSE_SYMLINK = 6,
	FUSE_MKNOD = 8,
	FUSE_MKDIR = 9,
	FUSE_UNLINK = 10,
	FUSE_RMDIR = 11,
	FUSE_RENAME = 12,
	FUSE_LINK = 13,
	FUSE_OPEN = 14,
	FUSE_READ = 15,
	FUSE_WRITE = 16,
	FUSE_STATFS = 17,
	FUSE_RELEASE = 18,
	FUSE_FSYNC = 20,
	FUSE_SETXATTR = 21,
	FUSE_GETXATTR = 22,
	FUSE_LISTXATTR = 23,
	FUSE_REMOVEXATTR = 24,
	FUSE_FLUSH = 25,
	FUSE_INIT = 26,
	FUSE_OPENDIR = 27,
	FUSE_READDIR = 28,
	FUSE_RELEASEDIR = 29,
	FUSE_FSYNCDIR = 30,
	FUSE_ACCESS = 34,
	FUSE_CREATE = 35,
	FUSE_INTERRUPT = 36,
	FUSE_DESTROY = 38,
	FUSE_IOCTL = 39,
	FUSE_BATCH_FORGET = 42,
	FUSE_FALLOCATE = 43,
	FUSE_READDIRPLUS = 44,
	FUSE_RENAME2 = 45,
	FUSE_LSEEK = 46,
	FUSE_COPY_FILE_RANGE = 47,
	FUSE_SYNCFS = 50,
	FUSE_TMPFILE = 51,
	FUSE_STATX = 52,
	FUSE_COPY_FILE_RANGE_64 = 53,
	FUSE_OP_LIMIT = 64, /* of our tables */
};

enum { /* flags of INIT */
	FUSE_ASYNC_READ = 1u << 0,
	FUSE_ATOMIC_O_TRUNC = 1u << 3,
	FUSE_BIG_WRITES = 1u << 5,
	FUSE_DONT_MASK = 1u << 6,
	FUSE_AUTO_INVAL_DATA = 1u << 12,
	FUSE_DO_READDIRPLUS = 1u << 13,
	FUSE_READDIRPLUS_AUTO = 1u << 14,
	FUSE_ASYNC_DIO = 1u << 15,
	FUSE_NO_OPEN_SUPPORT = 1u << 17,
	FUSE_PARALLEL_DIROPS = 1u << 18,
	FUSE_POSIX_ACL = 1u << 20,
	FUSE_MAX_PAGES = 1u << 22,
	FUSE_CACHE_SYMLINKS = 1u << 23,
	FUSE_NO_OPENDIR_SUPPORT = 1u << 24,
	FUSE_EXPLICIT_INVAL_DATA = 1u << 25,
	FUSE_HANDLE_KILLPRIV_V2 = 1u << 28,
	FUSE_SETXATTR_EXT = 1u << 29,
	FUSE_INIT_EXT = 1u << 30,
};
#define FUSE_HAS_EXPIRE_ONLY (1ull << 35)
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ull << 36)
#define FUSE_PASSTHROUGH (1ull << 37)
#define FUSE_HAS_RESEND (1ull << 39)
#define FUSE_ALLOW_IDMAP (1ull << 40)
#define FUSE_OVER_IO_URING (1ull << 41)

enum { FATTR_MODE = 1, FATTR_UID = 2, FATTR_GID = 4, FATTR_SIZE = 8, FATTR_ATIME = 16, FATTR_MTIME = 32, FATTR_FH = 64,
       FATTR_ATIME_NOW = 128, FATTR_MTIME_NOW = 256, FATTR_LOCKOWNER = 512, FATTR_CTIME = 1024, FATTR_KILL_SUIDGID = 2048 };
enum { FOPEN_DIRECT_IO = 1, FOPEN_KEEP_CACHE = 2, FOPEN_CACHE_DIR = 8, FOPEN_NOFLUSH = 32, FOPEN_PARALLEL_DIRECT_WRITES = 64,
       FOPEN_PASSTHROUGH = 128 };
enum { FUSE_WRITE_KILL_SUIDGID = 4 };
enum { FUSE_OPEN_KILL_SUIDGID = 1 };
enum { FUSE_SETXATTR_ACL_KILL_SGID = 1 };
enum { FUSE_FSYNC_DATA = 1 };
enum { FUSE_IOCTL_DIR = 16 };

enum { FUSE_NOTIFY_INVAL_INODE = 2, FUSE_NOTIFY_INVAL_ENTRY = 3 };

struct fuse_in_header {
	uint32_t len, opcode;
	uint64_t unique, nodeid;
	uint32_t uid, gid, pid;
	uint16_t total_extlen; /* of extensions behind the arguments, in units of 8 bytes */
	uint16_t padding;
};
struct fuse_out_header {
	uint32_t len;
	int32_t error;
	uint64_t unique;
};
struct fuse_attr {
	uint64_t ino, size, blocks, atime, mtime, ctime;
	uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags;
};
struct fuse_entry_out {
	uint64_t nodeid, generation, entry_valid, attr_valid;
	uint32_t entry_valid_nsec, attr_valid_nsec;
	struct fuse_attr attr;
};
struct fuse_attr_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, dummy;
	struct fuse_attr attr;
};
struct fuse_kstatfs {
	uint64_t blocks, bfree, bavail, files, ffree;
	uint32_t bsize, namelen, frsize, padding, spare[6];
};
struct fuse_forget_in {
	uint64_t nlookup;
};
struct fuse_forget_one {
	uint64_t nodeid, nlookup;
};
struct fuse_batch_forget_in {
	uint32_t count, dummy;
};
struct fuse_getattr_in {
	uint32_t getattr_flags, dummy;
	uint64_t fh;
};
struct fuse_mknod_in {
	uint32_t mode, rdev, umask, padding;
};
struct fuse_mkdir_in {
	uint32_t mode, umask;
};
struct fuse_rename_in {
	uint64_t newdir;
};
struct fuse_rename2_in {
	uint64_t newdir;
	uint32_t flags, padding;
};
struct fuse_link_in {
	uint64_t oldnodeid;
};
struct fuse_setattr_in {
	uint32_t valid, padding;
	uint64_t fh, size, lock_owner, atime, mtime, ctime;
	uint32_t atimensec, mtimensec, ctimensec, mode, unused4, uid, gid, unused5;
};
struct fuse_open_in {
	uint32_t flags, open_flags;
};
struct fuse_create_in {
	uint32_t flags, mode, umask, open_flags;
};
struct fuse_open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};
struct fuse_release_in {
	uint64_t fh;
	uint32_t flags, release_flags;
	uint64_t lock_owner;
};
struct fuse_read_in { /* also READDIR */
	uint64_t fh, offset;
	uint32_t size, read_flags;
	uint64_t lock_owner;
	uint32_t flags, padding;
};
struct fuse_write_in {
	uint64_t fh, offset;
	uint32_t size, write_flags;
	uint64_t lock_owner;
	uint32_t flags, padding;
};
struct fuse_write_out {
	uint32_t size, padding;
};
struct fuse_fsync_in {
	uint64_t fh;
	uint32_t fsync_flags, padding;
};
struct fuse_setxattr_in {
	uint32_t size, flags;
};
struct fuse_setxattr_ext_in { /* with FUSE_SETXATTR_EXT */
	uint32_t size, flags, setxattr_flags, padding;
};
struct fuse_getxattr_in {
	uint32_t size, padding;
};
struct fuse_getxattr_out {
	uint32_t size, padding;
};
struct fuse_ioctl_in {
	uint64_t fh;
	uint32_t flags, cmd;
	uint64_t arg;
	uint32_t in_size, out_size;
};
struct fuse_ioctl_out {
	int32_t result;
	uint32_t flags, in_iovs, out_iovs;
};
struct fuse_fallocate_in {
	uint64_t fh, offset, length;
	uint32_t mode, padding;
};
struct fuse_lseek_in {
	uint64_t fh, offset;
	uint32_t whence, padding;
};
struct fuse_lseek_out {
	uint64_t offset;
};
struct fuse_copy_file_range_in {
	uint64_t fh_in, off_in, nodeid_out, fh_out, off_out, len, flags;
};
struct fuse_copy_file_range_out { /* COPY_FILE_RANGE_64 */
	uint64_t bytes_copied;
};
struct fuse_init_in {
	uint32_t major, minor, max_readahead, flags; /* before 7.36 nothing more */
	uint32_t flags2, unused[11];
};
struct fuse_init_out {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint16_t request_timeout, unused[11];
};
struct fuse_dirent {
	uint64_t ino, off;
	uint32_t namelen, type;
	/* the name, padded to 8 */
};
struct fuse_direntplus {
	struct fuse_entry_out entry;
	struct fuse_dirent dirent;
};
struct fuse_notify_inval_inode_out {
	uint64_t ino;
	int64_t off, len;
};

struct fuse_backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define FUSE_IOC_CLONE _IOR(229, 0, uint32_t)
#define FUSE_IOC_BACKING_OPEN _IOW(229, 1, struct fuse_backing_map)
#define FUSE_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

/* io_uring: the first of the two iovecs of a ring entry */
struct fuse_uring_in_out {
	uint64_t flags, commit_id;
	uint32_t payload_size, padding;
	uint64_t reserved;
};
struct fuse_uring_header {
	char in_out[128]; /* fuse_in_header or fuse_out_header */
	char op_in[128];  /* the operation's struct */
	struct fuse_uring_in_out ring;
};
struct fuse_uring_command { /* in the SQE */
	uint64_t flags, commit_id;
	uint16_t queue, padding[3];
};
enum { FUSE_URING_REGISTER = 1, FUSE_URING_COMMIT_AND_FETCH = 2 };

_Static_assert(sizeof(struct fuse_in_header) == 40, "layout");
_Static_assert(sizeof(struct fuse_attr) == 88, "layout");
_Static_assert(sizeof(struct fuse_entry_out) == 128, "layout");
_Static_assert(sizeof(struct fuse_setattr_in) == 88, "layout");
_Static_assert(sizeof(struct fuse_init_in) == 64, "layout");
_Static_assert(sizeof(struct fuse_init_out) == 64, "layout");
_Static_assert(sizeof(struct fuse_kstatfs) == 80, "layout");
_Static_assert(sizeof(struct fuse_read_in) == 40, "layout");
_Static_assert(sizeof(struct fuse_uring_header) == 288, "layout");

#endif
