/* Extended attributes of the tree in memory: kept as the sorted entries that go to disk. Those in trusted.overlay.* are
 * never kept: an image must not forge them, and ours follow from the node. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erofs_format.h"
#include "tree_internal.h"

struct prefix {
	const char *text;
	uint8_t size, index;
	bool whole; /* the full name, nothing follows */
};
static const struct prefix prefixes[] = { /* in the order of full names */
	{"security.", 9, EROFS_XATTR_SECURITY, false},
	{"system.posix_acl_access", 23, EROFS_XATTR_ACL_ACCESS, true},
	{"system.posix_acl_default", 24, EROFS_XATTR_ACL_DEFAULT, true},
	{"trusted.", 8, EROFS_XATTR_TRUSTED, false},
	{"user.", 5, EROFS_XATTR_USER, false},
};
#define PREFIX_TRUSTED 3u
#define PREFIX_COUNT (sizeof prefixes / sizeof *prefixes)
static const char overlay[] = "overlay.";
#define OVERLAY_SIZE (sizeof overlay - 1)

struct item {
	unsigned prefix;
	struct lfs_bytes rest, value;
	size_t order;
};

static int compare_bytes(struct lfs_bytes a, struct lfs_bytes b)
{
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common ? memcmp(a.data, b.data, common) : 0;
	return order ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_items(const void *left, const void *right)
{
	const struct item *a = left, *b = right;
	if (a->prefix != b->prefix)
		return a->prefix < b->prefix ? -1 : 1;
	int order = compare_bytes(a->rest, b->rest);
	return order ? order : (a->order > b->order) - (a->order < b->order);
}

static bool starts_with_overlay(struct lfs_bytes rest)
{
	return rest.size >= OVERLAY_SIZE && !memcmp(rest.data, overlay, OVERLAY_SIZE);
}

/* False: a name that trees do not keep. */
static bool split_name(struct lfs_bytes name, struct item *item)
{
	for (unsigned i = 0; i < PREFIX_COUNT; i++) {
		const struct prefix *prefix = &prefixes[i];
		if (name.size < prefix->size || memcmp(name.data, prefix->text, prefix->size))
			continue;
		item->prefix = i;
		item->rest = (struct lfs_bytes){(const char *)name.data + prefix->size, name.size - prefix->size};
		if (prefix->whole)
			return item->rest.size == 0;
		return item->rest.size && !((prefix->index == EROFS_XATTR_TRUSTED || prefix->index == EROFS_XATTR_USER) &&
					    starts_with_overlay(item->rest));
	}
	return false;
}

static size_t entry_size(size_t rest, size_t value)
{
	return lfs_round_up(EROFS_XATTR_ENTRY + rest + value, 4);
}

static uint8_t *put_entry(uint8_t *out, uint8_t index, struct lfs_bytes rest, struct lfs_bytes value)
{
	size_t size = entry_size(rest.size, value.size);
	memset(out + size - 4, 0, 4);
	out[0] = (uint8_t)rest.size;
	out[1] = index;
	lfs_set16(out + 2, (uint16_t)value.size);
	if (rest.size)
		memcpy(out + EROFS_XATTR_ENTRY, rest.data, rest.size);
	if (value.size)
		memcpy(out + EROFS_XATTR_ENTRY + rest.size, value.data, value.size);
	return out + size;
}

/* Filters, sorts and drops duplicates; returns how many items are left, or -errno. */
static ssize_t collect(struct item *items, const struct lfs_xattr *xattrs, size_t count, size_t *total, struct lfs_error *error)
{
	size_t kept = 0, unique = 0;
	for (size_t i = 0; i < count; i++) {
		if (!split_name(xattrs[i].name, &items[kept]))
			continue;
		if (xattrs[i].name.size > LFS_NAME_MAX)
			return lfs_fail(error, -EBADMSG, "extended attribute name longer than 255 bytes");
		if (xattrs[i].value.size > LFS_VALUE_MAX)
			return lfs_fail(error, -EBADMSG, "value of extended attribute %.*s longer than 65535 bytes",
					(int)xattrs[i].name.size, (const char *)xattrs[i].name.data);
		items[kept].value = xattrs[i].value;
		items[kept].order = i;
		kept++;
	}
	qsort(items, kept, sizeof *items, compare_items);
	*total = 0;
	for (size_t i = 0; i < kept; i++) {
		if (i + 1 < kept && items[i].prefix == items[i + 1].prefix && !compare_bytes(items[i].rest, items[i + 1].rest))
			continue; /* the last of equal names counts */
		items[unique++] = items[i];
		*total += entry_size(items[i].rest.size, items[i].value.size);
		if (*total > LFS_XATTRS_MAX)
			return lfs_fail(error, -EBADMSG, "extended attributes of one file larger than 262128 bytes");
	}
	return (ssize_t)unique;
}

static int store(struct lfs_tree *tree, struct lfs_node *node, const struct item *items, size_t count, size_t total)
{
	uint8_t *entries = lfs_tree_alloc(tree, total);
	if (!entries)
		return -ENOMEM;
	uint8_t *out = entries;
	for (size_t i = 0; i < count; i++)
		out = put_entry(out, prefixes[items[i].prefix].index, items[i].rest, items[i].value);
	if (total == tree->last_xattr_size && !memcmp(entries, tree->last_xattrs, total)) {
		lfs_tree_release(tree, entries, total);
		entries = (uint8_t *)tree->last_xattrs;
	}
	node->xattrs = tree->last_xattrs = entries;
	node->xattr_size = tree->last_xattr_size = (uint32_t)total;
	return 0;
}

int lfs_tree_set_xattrs(struct lfs_tree *tree, struct lfs_node *node, const struct lfs_xattr *xattrs, size_t count,
			struct lfs_error *error)
{
	struct item few[16], *items = few;
	node->xattrs = NULL;
	node->xattr_size = 0;
	if (!count)
		return 0;
	if (count > sizeof few / sizeof *few && !(items = calloc(count, sizeof *items)))
		return lfs_fail(error, -ENOMEM, "out of memory");
	size_t total = 0;
	ssize_t kept = collect(items, xattrs, count, &total, error);
	int rc = kept < 0 ? (int)kept : 0;
	if (kept > 0 && (rc = store(tree, node, items, (size_t)kept, total)) < 0)
		lfs_fail(error, rc, "out of memory");
	if (items != few)
		free(items);
	return rc;
}

/* --- the entries in trusted.overlay.* --- */

struct ours {
	struct lfs_bytes rest, value;
};
#define BYTES(text) ((struct lfs_bytes){text, sizeof text - 1})

/* In the order of names; redirect is the caller's buffer of 67 bytes. */
static unsigned overlay_entries(const struct lfs_node *node, bool opaque, bool implicit, struct ours out[2], char redirect[67])
{
	unsigned count = 0;
	if (implicit)
		out[count++] = (struct ours){BYTES("overlay.layerfs.implicit"), BYTES("y")};
	if (node->flags & LFS_NODE_LINK)
		out[count++] = (struct ours){BYTES("overlay.layerfs.link"), {node->text, node->size}};
	if (opaque)
		out[count++] = (struct ours){BYTES("overlay.opaque"), BYTES("y")};
	if (node->flags & LFS_NODE_OBJECT) {
		static const char digits[] = "0123456789abcdef";
		char *at = redirect;
		for (unsigned i = 0; i < LFS_ID_SIZE; i++) {
			if (i < 2)
				*at++ = '/';
			*at++ = digits[node->content.identity[i] >> 4];
			*at++ = digits[node->content.identity[i] & 15];
		}
		out[count++] = (struct ours){BYTES("overlay.metacopy"), {"", 0}};
		out[count++] = (struct ours){BYTES("overlay.redirect"), {redirect, (size_t)(at - redirect)}};
	}
	return count;
}

size_t lfs_xattr_layout(const struct lfs_node *node, bool opaque, bool implicit, size_t *split)
{
	struct ours ours[2];
	char redirect[67];
	unsigned count = overlay_entries(node, opaque, implicit, ours, redirect);
	size_t total = node->xattr_size;
	for (unsigned i = 0; i < count; i++)
		total += entry_size(ours[i].rest.size, ours[i].value.size);
	size_t at = 0;
	while (count && at < node->xattr_size) {
		const uint8_t *entry = node->xattrs + at;
		if (entry[1] == EROFS_XATTR_USER)
			break;
		struct lfs_bytes rest = {entry + EROFS_XATTR_ENTRY, entry[0]};
		if (entry[1] == EROFS_XATTR_TRUSTED && compare_bytes(rest, (struct lfs_bytes){overlay, OVERLAY_SIZE}) > 0)
			break;
		at += entry_size(entry[0], lfs_get16(entry + 2));
	}
	*split = at;
	return total;
}

void lfs_xattr_overlay(const struct lfs_node *node, bool opaque, bool implicit, uint8_t *out)
{
	struct ours ours[2];
	char redirect[67];
	unsigned count = overlay_entries(node, opaque, implicit, ours, redirect);
	for (unsigned i = 0; i < count; i++)
		out = put_entry(out, EROFS_XATTR_TRUSTED, ours[i].rest, ours[i].value);
}
