/* The upper directory. Entries are reached through descriptors of their directories (a bounded set of them is kept), never by a path
 * from a base: names may be as deep as the caller likes. Every thread's working directory is /proc/self/fd, so that "N" and "N/name"
 * are paths to what descriptor N is and has, for the calls that take no descriptor. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "server.h"

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define SHARED_WHITEOUT "whiteout"

/* --- opening --- */

static int open_scratch(struct lfs_server *server, struct lfs_error *error)
{
	int work = server->upper.work;
	if (mkdirat(work, "scratch", 0700) < 0 && errno != EEXIST)
		return lfs_fail(error, -errno, "%s/scratch: %s", server->options.work, strerror(errno));
	server->upper.scratch = openat(work, "scratch", DIR_FLAGS);
	if (server->upper.scratch < 0)
		return lfs_fail(error, -errno, "%s/scratch: %s", server->options.work, strerror(errno));
	return 0;
}

static int adopt_root(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_upper *upper = &server->upper;
	struct lfs_node *root = server->nodes.root;
	struct stat status;
	struct lfs_marks marks;
	if (fstat(upper->root, &status) < 0)
		return lfs_fail(error, -errno, "%s: %s", server->options.upper, strerror(errno));
	int rc = lfs_marks_read(server, upper->root, ".", &marks);
	if (rc < 0)
		return lfs_fail(error, rc, "%s: %s", server->options.upper, strerror(-rc));
	upper->device = status.st_dev;
	root->ino = status.st_ino;
	root->flags |= LFS_HERE | (marks.alternate ? LFS_ALTERNATE : 0) | (marks.impure ? LFS_IMPURE : 0) | marks.protection;
	root->low = marks.opaque ? 0 : (uint32_t)lfs_low_root(server);
	lfs_marks_free(&marks);
	return 0;
}

/* A container of an ordinary user's has marks that he can set, whoever mounts it; its directory belongs to him. */
static void choose_marks(struct lfs_server *server)
{
	struct stat home;
	bool ours = server->rights.host && (!server->upper.present || (fstatat(server->upper.root, "..", &home, 0) == 0 && !home.st_uid));
	server->upper.marks = ours ? "trusted.overlay." : "user.overlay.";
	server->upper.marks_size = strlen(server->upper.marks);
}

int lfs_upper_open(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_upper *upper = &server->upper;
	upper->view = upper->uppers = upper->root = upper->work = upper->scratch = LFS_NO_FD;
	choose_marks(server);
	upper->links = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (upper->links < 0 || fchdir(upper->links) < 0)
		return lfs_fail(error, -errno, "/proc/self/fd: %s", strerror(errno));
	if (!server->options.upper)
		return 0;
	int rc = lfs_view_upper(&server->options, upper, error);
	if (rc < 0)
		return rc;
	upper->present = true;
	choose_marks(server);
	lfs_newest_start(server);
	rc = server->writable ? open_scratch(server, error) : 0;
	return rc < 0 ? rc : adopt_root(server, error);
}

void lfs_upper_close(struct lfs_server *server)
{
	struct lfs_upper *upper = &server->upper;
	if (upper->scratch >= 0)
		unlinkat(upper->scratch, SHARED_WHITEOUT, 0);
	for (unsigned i = 1; i <= LFS_KEPT_DIRS; i++)
		if (upper->kept[i].node)
			close(upper->kept[i].fd);
	lfs_close_fd(&upper->view);
	lfs_close_fd(&upper->uppers);
	lfs_close_fd(&upper->root);
	lfs_close_fd(&upper->work);
	lfs_close_fd(&upper->scratch);
	lfs_close_fd(&upper->links);
}

/* --- kept directory descriptors, the least recently used goes first --- */

static void kept_unlink(struct lfs_upper *upper, uint8_t at)
{
	struct lfs_kept *kept = upper->kept;
	kept[kept[at].older].newer = kept[at].newer;
	kept[kept[at].newer].older = kept[at].older;
}

static void kept_newest(struct lfs_upper *upper, uint8_t at)
{
	struct lfs_kept *kept = upper->kept;
	kept[at].older = kept[0].older;
	kept[at].newer = 0;
	kept[kept[0].older].newer = at;
	kept[0].older = at;
}

/* kept[0].older is the newest, kept[0].newer the oldest of the ring. */
static uint8_t kept_slot(struct lfs_server *server)
{
	struct lfs_upper *upper = &server->upper;
	for (unsigned i = 1; i <= LFS_KEPT_DIRS; i++)
		if (!upper->kept[i].node)
			return (uint8_t)i;
	uint8_t oldest = upper->kept[0].newer;
	kept_unlink(upper, oldest);
	lfs_quota_settle_kept(server, &upper->kept[oldest]);
	close(upper->kept[oldest].fd);
	upper->kept[oldest].node->kept = 0;
	upper->kept[oldest].node = NULL;
	return oldest;
}

void lfs_dir_forget(struct lfs_server *server, struct lfs_node *dir)
{
	struct lfs_upper *upper = &server->upper;
	if (!dir->kept)
		return;
	kept_unlink(upper, dir->kept);
	lfs_quota_settle_kept(server, &upper->kept[dir->kept]);
	close(upper->kept[dir->kept].fd);
	upper->kept[dir->kept].node = NULL;
	dir->kept = 0;
}

static int known_fd(struct lfs_server *server, const struct lfs_node *dir)
{
	struct lfs_upper *upper = &server->upper;
	if (dir == server->nodes.root)
		return upper->root;
	if (!dir->kept)
		return LFS_NO_FD;
	kept_unlink(upper, dir->kept);
	kept_newest(upper, dir->kept);
	return upper->kept[dir->kept].fd;
}

static int open_at(struct lfs_server *server, int dir, const char *name, int flags)
{
	struct lfs_lent lent;
	int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC), rc = -errno;
	if (fd >= 0 || rc != -EACCES || lfs_lend(server, dir, name, &lent) < 0)
		return fd < 0 ? rc : fd;
	fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
	rc = -errno;
	lfs_take_back(server, dir, name, &lent);
	return fd < 0 ? rc : fd;
}

/* Opens a directory from below, on the way up from a deep place: from a subdirectory whose descriptor is kept. */
static int step_up(struct lfs_server *server, const struct lfs_node *dir)
{
	const struct lfs_kept *kept = server->upper.kept;
	for (unsigned i = 1; i <= LFS_KEPT_DIRS; i++) {
		const struct lfs_node *below = kept[i].node;
		if (below && below->names && below->names->dir == dir && !(below->flags & LFS_UNLINKED))
			return openat(kept[i].fd, "..", DIR_FLAGS);
	}
	return LFS_NO_FD;
}

/* Opens a directory from its nearest ancestor whose descriptor is known; the ones between are closed again. */
static int walk_down(struct lfs_server *server, struct lfs_node *dir)
{
	struct lfs_node *known = dir;
	size_t depth = 0;
	while (known_fd(server, known) < 0) {
		if (!known->names)
			return -ESTALE;
		known = known->names->dir;
		depth++;
	}
	struct lfs_node **chain = malloc(depth * sizeof *chain);
	if (!chain)
		return -ENOMEM;
	for (size_t i = depth; i--; dir = dir->names->dir)
		chain[i] = dir;
	int fd = known_fd(server, known);
	bool ours = false;
	for (size_t i = 0; i < depth && fd >= 0; i++) {
		int next = open_at(server, fd, chain[i]->names->text, DIR_FLAGS);
		int failed = next;
		if (ours)
			close(fd);
		fd = next < 0 ? failed : next;
		ours = true;
	}
	free(chain);
	return fd;
}

static int keep(struct lfs_server *server, struct lfs_node *dir, int fd)
{
	struct lfs_upper *upper = &server->upper;
	uint8_t at = kept_slot(server);
	upper->kept[at].node = dir;
	upper->kept[at].fd = fd;
	lfs_quota_kept(server, &upper->kept[at]);
	dir->kept = at;
	kept_newest(upper, at);
	return fd;
}

int lfs_dir_fd(struct lfs_server *server, struct lfs_node *dir)
{
	int fd = known_fd(server, dir);
	if (fd >= 0)
		return fd;
	if (!(dir->flags & LFS_HERE))
		return -ENOENT;
	if (dir->flags & LFS_UNLINKED)
		return lfs_is_pinned(dir) ? lfs_pinned_fd(server, dir) : -ESTALE;
	fd = step_up(server, dir);
	if (fd < 0)
		fd = walk_down(server, dir);
	return fd < 0 ? fd : keep(server, dir, fd);
}

int lfs_dir_reopen(struct lfs_server *server, struct lfs_node *dir)
{
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	struct lfs_lent lent;
	int copy = openat(fd, ".", DIR_FLAGS), rc = -errno;
	if (copy >= 0 || rc != -EACCES || lfs_lend(server, fd, NULL, &lent) < 0)
		return copy < 0 ? rc : copy;
	copy = openat(fd, ".", DIR_FLAGS);
	rc = -errno;
	lfs_take_back(server, fd, NULL, &lent);
	return copy < 0 ? rc : copy;
}

/* A freeze puts another in its place, but closes neither. */
int lfs_upper_root(struct lfs_server *server)
{
	lfs_lock(server);
	int root = server->upper.root;
	lfs_unlock(server);
	return root;
}

/* --- entries --- */

int lfs_place(struct lfs_server *server, struct lfs_node *node, const char **name)
{
	if (node == server->nodes.root) {
		*name = ".";
		return server->upper.root;
	}
	if (!node->names)
		return -ESTALE;
	*name = node->names->text;
	return lfs_dir_fd(server, node->names->dir);
}

void lfs_fd_path(int fd, const char *name, char out[300])
{
	if (name)
		snprintf(out, 300, "%d/%s", fd, name);
	else
		snprintf(out, 300, "%d", fd);
}

int lfs_fd_reopen(struct lfs_server *server, int fd, int flags)
{
	char path[300];
	lfs_fd_path(fd, NULL, path);
	fd = openat(server->upper.links, path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int lfs_entry_open(struct lfs_server *server, struct lfs_node *node, int flags)
{
	const char *name;
	if (lfs_is_pinned(node)) {
		int pinned = lfs_pinned_fd(server, node);
		return pinned < 0 ? pinned : lfs_fd_reopen(server, pinned, flags);
	}
	int dir = lfs_place(server, node, &name);
	if (dir < 0)
		return dir;
	return open_at(server, dir, name, flags);
}

int lfs_entry_stat(struct lfs_server *server, struct lfs_node *node, struct stat *status)
{
	const char *name;
	if (lfs_is_pinned(node)) {
		int pinned = lfs_pinned_fd(server, node);
		if (pinned < 0 || fstatat(pinned, "", status, AT_EMPTY_PATH) < 0)
			return pinned < 0 ? pinned : -errno;
		status->st_nlink -= node->file->parked != 0; /* the name in scratch is none */
		return 0;
	}
	if (lfs_node_is_dir(node)) {
		int fd = known_fd(server, node);
		if (fd < 0 && node->names && known_fd(server, node->names->dir) < 0 && (fd = step_up(server, node)) >= 0)
			fd = keep(server, node, fd);
		if (fd >= 0)
			return fstat(fd, status) < 0 ? -errno : 0;
	}
	int dir = lfs_place(server, node, &name);
	if (dir < 0)
		return dir;
	return fstatat(dir, name, status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

bool lfs_is_whiteout(const struct stat *status)
{
	return S_ISCHR(status->st_mode) && status->st_rdev == 0;
}

void lfs_attr_from_stat(const struct stat *status, struct fuse_attr *attr)
{
	unsigned high = major(status->st_rdev), low = minor(status->st_rdev);
	*attr = (struct fuse_attr){
		.ino = status->st_ino,
		.size = (uint64_t)status->st_size,
		.blocks = (uint64_t)status->st_blocks,
		.atime = (uint64_t)status->st_atim.tv_sec,
		.mtime = (uint64_t)status->st_mtim.tv_sec,
		.ctime = (uint64_t)status->st_ctim.tv_sec,
		.atimensec = (uint32_t)status->st_atim.tv_nsec,
		.mtimensec = (uint32_t)status->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)status->st_ctim.tv_nsec,
		.mode = status->st_mode,
		.nlink = (uint32_t)status->st_nlink,
		.uid = status->st_uid,
		.gid = status->st_gid,
		.rdev = (low & 0xff) | high << 8 | (low & ~0xffu) << 12,
		.blksize = LFS_BLOCK,
	};
}

/* --- marks --- */

static void mark_name(const struct lfs_server *server, const char *mark, char out[64])
{
	snprintf(out, 64, "%s%s", server->upper.marks, mark);
}

struct mark_call {
	enum { MARK_GET, MARK_SET, MARK_DROP } what;
	const char *mark;
	void *value;
	size_t size;
};

static ssize_t call_once(struct lfs_server *server, int dir_fd, const char *name, const struct mark_call *call)
{
	char path[300], full[64];
	ssize_t rc;
	lfs_fd_path(dir_fd, name, path);
	mark_name(server, call->mark, full);
	if (call->what == MARK_GET)
		rc = name ? lgetxattr(path, full, call->value, call->size) : getxattr(path, full, call->value, call->size);
	else if (call->what == MARK_SET)
		rc = name ? lsetxattr(path, full, call->value, call->size, 0) : setxattr(path, full, call->value, call->size, 0);
	else
		rc = name ? lremovexattr(path, full) : removexattr(path, full);
	return rc < 0 ? -errno : rc;
}

static int call_mark(struct lfs_server *server, int dir_fd, const char *name, struct mark_call call)
{
	struct lfs_lent lent;
	ssize_t rc = call_once(server, dir_fd, name, &call);
	if (rc != -EACCES || lfs_lend(server, dir_fd, name, &lent) < 0)
		return (int)rc;
	rc = call_once(server, dir_fd, name, &call);
	lfs_take_back(server, dir_fd, name, &lent);
	return (int)rc;
}

int lfs_mark_get(struct lfs_server *server, int dir_fd, const char *name, const char *mark, void *value, size_t size)
{
	int rc = call_mark(server, dir_fd, name, (struct mark_call){MARK_GET, mark, value, size});
	return rc == -ENOTSUP ? -ENODATA : rc;
}

int lfs_mark_set(struct lfs_server *server, int dir_fd, const char *name, const char *mark, const void *value, size_t size)
{
	return call_mark(server, dir_fd, name, (struct mark_call){MARK_SET, mark, (void *)(uintptr_t)value, size});
}

int lfs_mark_drop(struct lfs_server *server, int dir_fd, const char *name, const char *mark)
{
	int rc = call_mark(server, dir_fd, name, (struct mark_call){MARK_DROP, mark, NULL, 0});
	return rc == -ENODATA || rc == -ENOTSUP ? 0 : rc;
}

/* The kernel's file handle of an EROFS inode with our tree's uuid, as overlayfs keeps it. */
static uint64_t origin_nid(const struct lfs_server *server, const uint8_t *value, ssize_t size)
{
	static const uint8_t front[5] = {0, 0xFB, 33, 0, 0x81};
	uint32_t words[3];
	if (size != 33 || memcmp(value, front, sizeof front) || memcmp(value + 5, server->lower.image.subject, 16))
		return 0;
	memcpy(words, value + 21, sizeof words);
	return (uint64_t)words[0] << 32 | words[1];
}

static int read_redirect(const char *path, const char *full, struct lfs_marks *marks)
{
	ssize_t size = lgetxattr(path, full, NULL, 0);
	if (size < 0)
		return -errno;
	marks->redirect = malloc((size_t)size + 1);
	if (!marks->redirect)
		return -ENOMEM;
	size = lgetxattr(path, full, marks->redirect, (size_t)size);
	if (size < 0)
		return -errno;
	marks->has_redirect = true;
	marks->redirect_size = (size_t)size;
	return 0;
}

static int read_mark(struct lfs_server *server, const char *path, const char *full, struct lfs_marks *marks)
{
	const char *mark = full + server->upper.marks_size;
	uint8_t value[64];
	if (!strcmp(mark, "redirect"))
		return read_redirect(path, full, marks);
	ssize_t size = lgetxattr(path, full, value, sizeof value);
	if (size < 0)
		return errno == ERANGE || errno == ENODATA ? 0 : -errno;
	if (!strcmp(mark, "opaque") && size == 1) {
		marks->opaque = value[0] == 'y';
		marks->alternate = value[0] == 'x';
	} else if (!strcmp(mark, "impure")) {
		marks->impure = true;
	} else if (!strcmp(mark, "metacopy")) {
		marks->metacopy = true;
	} else if (!strcmp(mark, "layerfs.blocks")) {
		marks->blocks = true;
	} else if (!strcmp(mark, "protattr")) {
		marks->protection = lfs_protection_of((const char *)value, size);
	} else if (!strcmp(mark, "whiteout")) {
		marks->whiteout = true;
	} else if (!strcmp(mark, "origin")) {
		uint64_t nid = origin_nid(server, value, size);
		marks->ino = nid ? LFS_TREE_INO | nid : marks->ino;
	} else if (!strcmp(mark, "layerfs.ino") && size == 8 && !marks->ino) {
		memcpy(&marks->ino, value, 8);
	}
	return 0;
}

static int read_marks(struct lfs_server *server, int dir_fd, const char *name, struct lfs_marks *marks)
{
	char path[300], first[1024], *list = first;
	*marks = (struct lfs_marks){0};
	lfs_fd_path(dir_fd, name, path);
	ssize_t size = llistxattr(path, first, sizeof first);
	if (size < 0 && errno == ERANGE) {
		list = malloc(65536);
		size = list ? llistxattr(path, list, 65536) : -1;
	}
	int rc = size < 0 && errno != ENOTSUP ? -errno : 0;
	for (ssize_t at = 0; at < size && rc >= 0; at += (ssize_t)strlen(list + at) + 1)
		if (!strncmp(list + at, server->upper.marks, server->upper.marks_size))
			rc = read_mark(server, path, list + at, marks);
	if (list != first)
		free(list);
	if (rc < 0)
		lfs_marks_free(marks);
	return rc;
}

int lfs_marks_read(struct lfs_server *server, int dir_fd, const char *name, struct lfs_marks *marks)
{
	struct lfs_lent lent;
	int rc = read_marks(server, dir_fd, name, marks);
	if (rc != -EACCES || lfs_lend(server, dir_fd, name, &lent) < 0)
		return rc;
	rc = read_marks(server, dir_fd, name, marks);
	lfs_take_back(server, dir_fd, name, &lent);
	return rc;
}

void lfs_marks_free(struct lfs_marks *marks)
{
	free(marks->redirect);
	marks->redirect = NULL;
}

int lfs_impure(struct lfs_server *server, struct lfs_node *dir)
{
	if (dir->flags & LFS_IMPURE)
		return 0;
	int fd = lfs_dir_fd(server, dir);
	int rc = fd < 0 ? fd : lfs_mark_set(server, fd, NULL, "impure", "y", 1);
	if (rc >= 0)
		dir->flags |= LFS_IMPURE;
	return rc;
}

/* --- scratch --- */

void lfs_temp_name(struct lfs_server *server, char out[LFS_TEMP_SIZE])
{
	snprintf(out, LFS_TEMP_SIZE, "%lx-n%llx", (unsigned long)getpid(), (unsigned long long)server->upper.next_name++);
}

int lfs_remove_tree(int dir_fd, const char *name)
{
	if (unlinkat(dir_fd, name, 0) == 0)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	int fd = openat(dir_fd, name, DIR_FLAGS);
	if (fd < 0 && errno == EACCES && fchmodat(dir_fd, name, 0700, 0) == 0) /* its owner had locked himself out */
		fd = openat(dir_fd, name, DIR_FLAGS);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		lfs_close_fd(&fd);
		return -errno;
	}
	int rc = 0;
	for (struct dirent *entry; !rc && (entry = readdir(stream));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = lfs_remove_tree(dirfd(stream), entry->d_name);
	closedir(stream);
	if (!rc && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0)
		rc = -errno;
	return rc;
}

void lfs_scratch_remove(struct lfs_server *server, const char *name)
{
	lfs_remove_tree(server->upper.scratch, name);
}

/* A directory that changes its parent must be writable, which is for the kernel to see to, not for the host. */
int lfs_rename_at(struct lfs_server *server, int old_dir, const char *old_name, int new_dir, const char *new_name, unsigned flags)
{
	struct lfs_lent lent, other = {0};
	int rc = syscall(SYS_renameat2, old_dir, old_name, new_dir, new_name, flags) < 0 ? -errno : 0;
	if (rc != -EACCES || server->rights.override)
		return rc;
	lfs_lend(server, old_dir, old_name, &lent);
	if (flags & RENAME_EXCHANGE)
		lfs_lend(server, new_dir, new_name, &other);
	rc = syscall(SYS_renameat2, old_dir, old_name, new_dir, new_name, flags) < 0 ? -errno : 0;
	lfs_take_back(server, rc < 0 ? old_dir : new_dir, rc < 0 ? old_name : new_name, &lent);
	lfs_take_back(server, rc < 0 ? new_dir : old_dir, rc < 0 ? new_name : old_name, &other);
	return rc;
}

/* --- whiteouts: hard links to one shared inode --- */

static int make_shared(struct lfs_server *server)
{
	struct lfs_upper *upper = &server->upper;
	lfs_identity(0, 0, 0);
	if (mknodat(upper->scratch, SHARED_WHITEOUT, S_IFCHR, 0) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	LFS_AUTO_FD fd = openat(upper->scratch, SHARED_WHITEOUT, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : lfs_mark_set(server, upper->scratch, SHARED_WHITEOUT, "whiteout", "y", 1);
}

/* Which form whiteouts have here is told by the shared one; it is made before the first is needed. */
static int know_shared(struct lfs_server *server)
{
	struct lfs_upper *upper = &server->upper;
	struct stat status;
	int rc = fstatat(upper->scratch, SHARED_WHITEOUT, &status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (rc == -ENOENT && (rc = make_shared(server)) >= 0)
		rc = fstatat(upper->scratch, SHARED_WHITEOUT, &status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (rc < 0)
		return rc;
	upper->alternate = S_ISREG(status.st_mode);
	upper->knows_whiteouts = true;
	return 0;
}

int lfs_whiteout_make(struct lfs_server *server, char name[LFS_TEMP_SIZE])
{
	int scratch = server->upper.scratch;
	for (unsigned tries = 0; tries < 3; tries++) {
		lfs_temp_name(server, name);
		if (linkat(scratch, SHARED_WHITEOUT, scratch, name, 0) == 0)
			return 0;
		if (errno == EMLINK) {
			unlinkat(scratch, SHARED_WHITEOUT, 0);
		} else if (errno == ENOENT) {
			int rc = make_shared(server);
			if (rc < 0)
				return rc;
		} else {
			return -errno;
		}
	}
	return -EMLINK;
}

/* A directory must say that it holds whiteouts in their xattr form; an opaque one needs no whiteouts. */
int lfs_allow_alternate(struct lfs_server *server, struct lfs_node *dir)
{
	char value;
	int rc = server->upper.knows_whiteouts ? 0 : know_shared(server);
	if (rc < 0 || !server->upper.alternate || dir->flags & LFS_ALTERNATE)
		return rc;
	int fd = lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	if (lfs_mark_get(server, fd, NULL, "opaque", &value, 1) >= 0)
		return 0;
	dir->flags |= LFS_ALTERNATE;
	return lfs_mark_set(server, fd, NULL, "opaque", "x", 1);
}

int lfs_whiteout_put(struct lfs_server *server, struct lfs_node *dir, const char *name)
{
	char temp[LFS_TEMP_SIZE];
	int rc = lfs_allow_alternate(server, dir), fd = rc < 0 ? rc : lfs_dir_fd(server, dir);
	if (fd < 0)
		return fd;
	int scratch = server->upper.scratch;
	if (linkat(scratch, SHARED_WHITEOUT, fd, name, 0) == 0) /* the common case: a free name */
		return 0;
	if ((rc = lfs_whiteout_make(server, temp)) < 0)
		return rc;
	rc = lfs_rename_at(server, scratch, temp, fd, name, 0);
	unlinkat(scratch, temp, 0); /* rename leaves it when the name is a link to the same inode */
	return rc;
}
