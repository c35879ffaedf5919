/* What this process may do on the host, and what becomes of what it may not. As root it keeps everything. As an ordinary user, or as root of
 * a user namespace, ids that it cannot give to a file are shown and stored as its own: the single-id case of rootless containers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server.h"

#define ALL_IDS 4294967295u

static int read_ranges(const char *path, struct lfs_known_ids *ids)
{
	char text[16384];
	LFS_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size < 0)
		return -errno;
	text[size] = 0;
	for (char *line = text; *line;) {
		uint32_t first, outside, count;
		int used = 0;
		if (sscanf(line, "%u %u %u%n", &first, &outside, &count, &used) != 3)
			return *line == '\n' ? 0 : -EINVAL;
		struct lfs_id_span *grown = reallocarray(ids->spans, ids->count + 1, sizeof *grown);
		if (!grown)
			return -ENOMEM;
		ids->spans = grown;
		ids->spans[ids->count++] = (struct lfs_id_span){first, count};
		line += used;
		line += strspn(line, " \n");
	}
	return 0;
}

static bool is_everybody(const struct lfs_known_ids *ids)
{
	return ids->count == 1 && !ids->spans[0].first && ids->spans[0].count == ALL_IDS;
}

static bool knows(const struct lfs_known_ids *ids, uint32_t id)
{
	for (size_t i = 0; i < ids->count; i++)
		if (id - ids->spans[i].first < ids->spans[i].count)
			return true;
	return false;
}

static uint64_t capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};
	if (syscall(SYS_capget, &header, data) < 0)
		return 0;
	return (uint64_t)data[1].effective << 32 | data[0].effective;
}

int lfs_rights_read(struct lfs_server *server, struct lfs_error *error)
{
	struct lfs_rights *rights = &server->rights;
	uint64_t has = capabilities();
	int rc = read_ranges("/proc/self/uid_map", &rights->users);
	if (rc >= 0)
		rc = read_ranges("/proc/self/gid_map", &rights->groups);
	if (rc < 0)
		return lfs_fail(error, rc, "/proc/self/uid_map: %s", strerror(-rc));
	rights->uid = geteuid();
	rights->gid = getegid();
	rights->everybody = is_everybody(&rights->users) && is_everybody(&rights->groups);
	rights->host = rights->everybody && has >> CAP_SYS_ADMIN & 1;
	rights->give = has >> CAP_CHOWN & 1 && has >> CAP_SETUID & 1 && has >> CAP_SETGID & 1;
	rights->override = has >> CAP_DAC_OVERRIDE & 1;
	return 0;
}

void lfs_rights_free(struct lfs_server *server)
{
	free(server->rights.users.spans);
	free(server->rights.groups.spans);
}

void lfs_rights_owner(const struct lfs_server *server, uint32_t *uid, uint32_t *gid)
{
	const struct lfs_rights *rights = &server->rights;
	if (rights->give && rights->everybody)
		return;
	if (!rights->give || !knows(&rights->users, *uid))
		*uid = rights->uid;
	if (!rights->give || !knows(&rights->groups, *gid))
		*gid = rights->gid;
}

/* --- files whose owner has forbidden himself to read or change them --- */

static int status_of(int dir_fd, const char *name, struct stat *status)
{
	return (name ? fstatat(dir_fd, name, status, AT_SYMLINK_NOFOLLOW) : fstat(dir_fd, status)) < 0 ? -errno : 0;
}

static int set_mode(struct lfs_server *server, int dir_fd, const char *name, mode_t mode)
{
	char path[300];
	lfs_fd_path(dir_fd, name, path);
	return fchmodat(server->upper.links, path, mode & 07777, 0) < 0 ? -errno : 0;
}

int lfs_lend(struct lfs_server *server, int dir_fd, const char *name, struct lfs_lent *lent)
{
	struct stat status;
	*lent = (struct lfs_lent){0};
	if (server->rights.override || status_of(dir_fd, name, &status) < 0)
		return -EACCES;
	mode_t wanted = S_ISDIR(status.st_mode) ? 0700 : 0600;
	if (S_ISLNK(status.st_mode) || status.st_uid != server->rights.uid || (status.st_mode & wanted) == wanted)
		return -EACCES;
	int rc = set_mode(server, dir_fd, name, status.st_mode | wanted);
	*lent = (struct lfs_lent){rc >= 0, status.st_mode};
	return rc;
}

void lfs_take_back(struct lfs_server *server, int dir_fd, const char *name, const struct lfs_lent *lent)
{
	if (lent->lent)
		set_mode(server, dir_fd, name, lent->mode);
}
