/* The orders: records on a descriptor, to its end or to a record without key and value, after which one byte says that it may be mounted: u16 size of the key, u32 size of the value (little-endian), key, value. Unknown keys are
 * refused, so that a library and a server of different versions do not misunderstand each other. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "../core/erofs_format.h"
#include "server.h"

#define ORDERS_MAX (1u << 20)

/* Where the first record with an empty key begins: who gives the orders has more to say (lfs_options_await). */
static size_t end_of_orders(const uint8_t *data, size_t size)
{
	for (size_t at = 0; size - at >= 6;) {
		size_t key_size = lfs_get16(data + at), value_size = lfs_get32(data + at + 2);
		if (!key_size)
			return at;
		if (key_size > size - at - 6 || value_size > size - at - 6 - key_size)
			break;
		at += 6 + key_size + value_size;
	}
	return size;
}

static int read_all(int fd, uint8_t **out, size_t *size, bool *waits)
{
	uint8_t *data = malloc(ORDERS_MAX);
	ssize_t got = data ? 1 : -1;
	size_t end = 0;
	*size = 0;
	while (got > 0 && end == *size && *size < ORDERS_MAX) {
		got = read(fd, data + *size, ORDERS_MAX - *size);
		*size += got > 0 ? (size_t)got : 0;
		end = end_of_orders(data, *size);
	}
	bool ended = end < *size;
	*waits = ended && *size == end + 6; /* else the byte has come with them */
	*size = end;
	*out = data;
	return got < 0 ? -ENOMEM : got && !ended ? -E2BIG : 0;
}

int lfs_options_await(int fd, const struct lfs_options *options)
{
	char word;
	return options->waits && read(fd, &word, 1) != 1 ? -ECANCELED : 0;
}

struct text_key {
	const char *key;
	size_t at;
};
struct flag_key {
	const char *key;
	size_t at;
};
#define AT(field) offsetof(struct lfs_options, field)
static const struct text_key texts[] = {{"tree", AT(tree)}, {"packs", AT(packs)}, {"objects", AT(objects)}, {"target", AT(target)},
					{"name", AT(name)}, {"upper", AT(upper)}, {"work", AT(work)}, {"uppers", AT(uppers)}};
static const struct flag_key flags[] = {
	{"read_only", AT(read_only)},	      {"volatile", AT(volatile_)},		  {"strict", AT(strict)},
	{"no_passthrough", AT(no_passthrough)}, {"no_readdirplus", AT(no_readdirplus)}, {"no_acl", AT(no_acl)},
	{"no_uring", AT(no_uring)},	      {"no_killpriv", AT(no_killpriv)},	  {"no_opendir_enosys", AT(no_opendir_enosys)},
	{"no_cache", AT(no_cache)},	      {"no_follow", AT(no_follow)},		  {"no_zero_open", AT(no_zero_open)},
	{"no_blocks", AT(no_blocks)},
	{"private", AT(private_)},
};
static const struct {
	const char *key;
	unsigned long flag;
} mount_flags[] = {{"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC}, {"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"strictatime", MS_STRICTATIME}};

static int add_frozen(struct lfs_options *options, const char *path, struct lfs_error *error)
{
	if (options->frozen_count == LFS_LAYERS_MAX)
		return lfs_fail(error, -EMLINK, "over %u frozen layers", LFS_LAYERS_MAX);
	char **wider = realloc(options->frozen, (options->frozen_count + 1) * sizeof *wider);
	if (!wider)
		return lfs_fail(error, -ENOMEM, "out of memory");
	options->frozen = wider;
	if (!(wider[options->frozen_count] = strdup(path)))
		return lfs_fail(error, -ENOMEM, "out of memory");
	options->frozen_count++;
	return 0;
}

static int set_option(struct lfs_options *options, const char *key, const char *value, struct lfs_error *error)
{
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (!strcmp(key, texts[i].key)) {
			char **place = (char **)((char *)options + texts[i].at);
			free(*place);
			*place = strdup(value);
			return *place ? 0 : lfs_fail(error, -ENOMEM, "out of memory");
		}
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		if (!strcmp(key, flags[i].key)) {
			*(bool *)((char *)options + flags[i].at) = true;
			return 0;
		}
	for (size_t i = 0; i < sizeof mount_flags / sizeof *mount_flags; i++)
		if (!strcmp(key, mount_flags[i].key)) {
			options->mount_flags |= mount_flags[i].flag;
			return 0;
		}
	if (!strcmp(key, "uidmap") || !strcmp(key, "gidmap"))
		return lfs_idmap_parse(key[0] == 'u' ? &options->users : &options->groups, value) < 0
			       ? lfs_fail(error, -EINVAL, "the order %s is not understood", key)
			       : 0;
	if (!strcmp(key, "frozen"))
		return add_frozen(options, value, error);
	char *end;
	unsigned long number = strtoul(value, &end, 10);
	if (!*value || *end)
		return lfs_fail(error, -EINVAL, "unknown order %s", key);
	if (!strcmp(key, "report"))
		options->report = (int)number;
	else if (!strcmp(key, "size"))
		options->size_limit = number;
	else if (!strcmp(key, "inodes"))
		options->inode_limit = number;
	else if (!strcmp(key, "cache"))
		options->cache_seconds = number < LFS_FOREVER ? number : LFS_FOREVER;
	else if (!strcmp(key, "control"))
		options->control = (int)number;
	else if (!strcmp(key, "pass_lower_size"))
		options->pass_lower_size = number;
	else if (!strcmp(key, "blocks_size"))
		options->blocks_size = number;
	else if (!strcmp(key, "minor") && number >= FUSE_MINOR_OLDEST && number <= FUSE_MINOR)
		options->minor = (uint32_t)number;
	else if (!strcmp(key, "threads") && number >= 1 && number <= LFS_THREADS_MAX)
		options->threads = (unsigned)number;
	else
		return lfs_fail(error, -EINVAL, "unknown order %s", key);
	return 0;
}

static int parse(const uint8_t *data, size_t size, struct lfs_options *options, struct lfs_error *error)
{
	for (size_t at = 0; at < size;) {
		if (size - at < 6)
			return lfs_fail(error, -EINVAL, "the orders end too early");
		size_t key_size = lfs_get16(data + at), value_size = lfs_get32(data + at + 2);
		at += 6;
		if (key_size > size - at || value_size > size - at - key_size)
			return lfs_fail(error, -EINVAL, "the orders end too early");
		char *key = strndup((const char *)data + at, key_size), *value = strndup((const char *)data + at + key_size, value_size);
		int rc = key && value ? set_option(options, key, value, error) : lfs_fail(error, -ENOMEM, "out of memory");
		free(key);
		free(value);
		if (rc < 0)
			return rc;
		at += key_size + value_size;
	}
	return 0;
}

int lfs_options_read(int fd, struct lfs_options *options, struct lfs_error *error)
{
	uint8_t *data;
	size_t size;
	int rc = read_all(fd, &data, &size, &options->waits);
	rc = rc < 0 ? lfs_fail(error, rc, "the orders cannot be read: %s", strerror(-rc)) : parse(data, size, options, error);
	free(data);
	if (rc >= 0 && (!options->tree || !options->packs || !options->objects || !options->target || !options->name))
		rc = lfs_fail(error, -EINVAL, "the orders lack something");
	if (rc >= 0 && options->upper && !options->work)
		rc = lfs_fail(error, -EINVAL, "an upper directory needs a work directory");
	options->no_cache |= !options->cache_seconds;
	options->no_opendir_enosys |= !options->cache_seconds;
	if (options->read_only || !options->upper)
		options->mount_flags |= MS_RDONLY;
	return rc;
}

void lfs_options_free(struct lfs_options *options)
{
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		free(*(char **)((char *)options + texts[i].at));
	for (size_t i = 0; i < options->frozen_count; i++)
		free(options->frozen[i]);
	free(options->frozen);
	free(options->users.ranges);
	free(options->groups.ranges);
}
