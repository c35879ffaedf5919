/* Ids as they are stored (in the tree and the upper directory) and as the mount shows them: what an id-mapped mount of the kernel does, and
 * with its answers. Whatever has no counterpart is shown as the overflow id, and cannot be given to anything. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

#define OVERFLOW_ID 65534u
#define ACL_VERSION 2u
#define ACL_USER 2u
#define ACL_GROUP 8u

struct acl_entry { /* of system.posix_acl_*, little-endian */
	uint16_t tag, permissions;
	uint32_t id;
};
struct capability { /* security.capability; the first version's end is at root_id */
	uint32_t magic, data[4], root_id;
};
#define CAPABILITY_OLD_SIZE offsetof(struct capability, root_id)

int lfs_idmap_parse(struct lfs_idmap *map, const char *text)
{
	while (*text) {
		struct lfs_id_range range;
		int used = 0;
		if (sscanf(text, "%u:%u:%u%n", &range.stored, &range.shown, &range.count, &used) != 3 || !range.count)
			return -EINVAL;
		struct lfs_id_range *grown = reallocarray(map->ranges, map->count + 1, sizeof range);
		if (!grown)
			return -ENOMEM;
		map->ranges = grown;
		map->ranges[map->count++] = range;
		text += used;
		if (*text && *text++ != ',')
			return -EINVAL;
	}
	return 0;
}

static bool to_shown(const struct lfs_idmap *map, uint32_t *id)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct lfs_id_range *range = &map->ranges[i];
		if (*id - range->stored < range->count) {
			*id = range->shown + (*id - range->stored);
			return true;
		}
	}
	return !map->count;
}

static bool to_stored(const struct lfs_idmap *map, uint32_t *id)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct lfs_id_range *range = &map->ranges[i];
		if (*id - range->shown < range->count) {
			*id = range->stored + (*id - range->shown);
			return true;
		}
	}
	return !map->count;
}

static bool in_force(const struct lfs_server *server)
{
	return server->options.users.count || server->options.groups.count;
}

bool lfs_ids_show(const struct lfs_server *server, struct fuse_attr *attr)
{
	bool user = to_shown(&server->options.users, &attr->uid), group = to_shown(&server->options.groups, &attr->gid);
	attr->uid = user ? attr->uid : OVERFLOW_ID;
	attr->gid = group ? attr->gid : OVERFLOW_ID;
	return user && group;
}

int lfs_id_store_user(const struct lfs_server *server, uint32_t *id)
{
	return to_stored(&server->options.users, id) ? 0 : -EOVERFLOW;
}

int lfs_id_store_group(const struct lfs_server *server, uint32_t *id)
{
	return to_stored(&server->options.groups, id) ? 0 : -EOVERFLOW;
}

int lfs_ids_store(const struct lfs_server *server, struct lfs_new *what)
{
	int rc = lfs_id_store_user(server, &what->uid);
	return rc < 0 ? rc : lfs_id_store_group(server, &what->gid);
}

bool lfs_ids_known(struct lfs_server *server, struct lfs_node *node, bool *user, bool *group)
{
	struct fuse_attr attr;
	*user = *group = true;
	if (!in_force(server) || lfs_attr(server, node, &attr) < 0)
		return true;
	*user = to_shown(&server->options.users, &attr.uid);
	*group = to_shown(&server->options.groups, &attr.gid);
	return *user && *group;
}

/* --- ids within xattrs --- */

static bool is_acl(struct lfs_bytes name)
{
	static const char access[] = "system.posix_acl_access", rule[] = "system.posix_acl_default";
	return (name.size == strlen(access) && !memcmp(name.data, access, name.size)) || (name.size == strlen(rule) && !memcmp(name.data, rule, name.size));
}

static bool is_capability(struct lfs_bytes name)
{
	static const char capability[] = "security.capability";
	return name.size == strlen(capability) && !memcmp(name.data, capability, name.size);
}

static int map_acl(const struct lfs_server *server, uint8_t *value, size_t size, bool show)
{
	for (size_t at = sizeof(uint32_t); at + sizeof(struct acl_entry) <= size; at += sizeof(struct acl_entry)) {
		struct acl_entry entry;
		memcpy(&entry, value + at, sizeof entry);
		if (entry.tag != ACL_USER && entry.tag != ACL_GROUP)
			continue;
		const struct lfs_idmap *map = entry.tag == ACL_USER ? &server->options.users : &server->options.groups;
		if (!(show ? to_shown : to_stored)(map, &entry.id)) {
			if (!show)
				return -EOVERFLOW;
			entry.id = OVERFLOW_ID;
		}
		memcpy(value + at, &entry, sizeof entry);
	}
	return (int)size;
}

/* Who has no stored ids makes no names, whether of new entries or not. The kernel says nothing of the caller on an id-mapped mount. */
bool lfs_ids_caller(const struct lfs_server *server, uint32_t user, uint32_t group)
{
	return user == UINT32_MAX || (to_stored(&server->options.users, &user) && to_stored(&server->options.groups, &group));
}

/* A capability without a root id is root's of whoever stored it: shown, it has the id that this root is shown as. */
static int show_capability(const struct lfs_server *server, uint8_t *value, size_t size, size_t room)
{
	struct capability capability = {0};
	memcpy(&capability, value, size < sizeof capability ? size : sizeof capability);
	bool old = size == CAPABILITY_OLD_SIZE && (capability.magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_2;
	if (!old && (size != sizeof capability || (capability.magic & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_3))
		return (int)size;
	if (!to_shown(&server->options.users, &capability.root_id))
		return -ENODATA;
	if (!capability.root_id && old)
		return (int)size;
	capability.magic = VFS_CAP_REVISION_3 | (capability.magic & ~VFS_CAP_REVISION_MASK);
	if (room && room < sizeof capability)
		return -ERANGE;
	if (room)
		memcpy(value, &capability, sizeof capability);
	return sizeof capability;
}

static int store_capability(const struct lfs_server *server, uint8_t *value, size_t size)
{
	struct capability capability = {0};
	if (size != sizeof capability && size != CAPABILITY_OLD_SIZE)
		return -EINVAL;
	memcpy(&capability, value, size);
	if (!to_stored(&server->options.users, &capability.root_id))
		return -EINVAL;
	if (!capability.root_id) { /* as images have it */
		capability.magic = VFS_CAP_REVISION_2 | (capability.magic & ~VFS_CAP_REVISION_MASK);
		size = CAPABILITY_OLD_SIZE;
	}
	memcpy(value, &capability, size);
	return (int)size;
}

int lfs_ids_show_xattr(struct lfs_server *server, struct lfs_node *node, struct lfs_bytes name, uint8_t *out, size_t room)
{
	uint8_t whole[sizeof(struct capability)];
	if (in_force(server) && is_capability(name)) { /* may become longer than it is stored */
		int rc = lfs_xattr_get(server, node, name, whole, sizeof whole);
		rc = rc < 0 ? rc : show_capability(server, whole, (size_t)rc, sizeof whole);
		if (rc < 0 || !room)
			return rc;
		if ((size_t)rc > room)
			return -ERANGE;
		memcpy(out, whole, (size_t)rc);
		return rc;
	}
	int rc = lfs_xattr_get(server, node, name, out, room);
	return rc > 0 && room && in_force(server) && is_acl(name) ? map_acl(server, out, (size_t)rc, true) : rc;
}

int lfs_ids_store_xattr(const struct lfs_server *server, struct lfs_bytes name, struct lfs_bytes *value, uint8_t *space, size_t room)
{
	bool acl = is_acl(name);
	if (!in_force(server) || !(acl || is_capability(name)))
		return 0;
	if (value->size > room)
		return -E2BIG;
	memcpy(space, value->data, value->size);
	int rc = acl ? map_acl(server, space, value->size, false) : store_capability(server, space, value->size);
	if (rc >= 0)
		*value = (struct lfs_bytes){space, (size_t)rc};
	return rc < 0 ? rc : 0;
}
