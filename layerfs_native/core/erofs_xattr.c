/* Extended attributes of tree files, and the marks of layers among them. */
#define _GNU_SOURCE /* stpcpy */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_format.h"
#include "erofs_read.h"

static const char *const prefixes[] = {
	[EROFS_XATTR_USER] = "user.",
	[EROFS_XATTR_ACL_ACCESS] = "system.posix_acl_access",
	[EROFS_XATTR_ACL_DEFAULT] = "system.posix_acl_default",
	[EROFS_XATTR_TRUSTED] = "trusted.",
	[EROFS_XATTR_SECURITY] = "security.",
};

int lfs_image_next_xattr(const struct lfs_image *image, const struct lfs_inode *inode, uint64_t *offset,
			 struct lfs_image_xattr_entry *entry)
{
	if (*offset >= inode->xattr_size)
		return 1;
	const uint8_t *raw = image->base + inode->xattr_offset + *offset;
	uint64_t left = inode->xattr_size - *offset; /* at least 4 */
	uint8_t index = raw[1];
	size_t rest = raw[0], value = lfs_get16(raw + 2);
	if (index >= sizeof prefixes / sizeof *prefixes || !prefixes[index] || EROFS_XATTR_ENTRY + rest + value > left)
		return -EIO;
	entry->prefix = prefixes[index];
	entry->rest = (struct lfs_bytes){raw + EROFS_XATTR_ENTRY, rest};
	entry->value = (struct lfs_bytes){raw + EROFS_XATTR_ENTRY + rest, value};
	bool whole = index == EROFS_XATTR_ACL_ACCESS || index == EROFS_XATTR_ACL_DEFAULT;
	if (whole != !rest || memchr(entry->rest.data, 0, rest))
		return -EIO;
	*offset += lfs_round_up(EROFS_XATTR_ENTRY + rest + value, 4);
	return 0;
}

int lfs_image_xattr(const struct lfs_image *image, const struct lfs_inode *inode, size_t index, char name[LFS_NAME_MAX + 32],
		    struct lfs_bytes *value)
{
	struct lfs_image_xattr_entry entry;
	uint64_t offset = 0;
	int rc;
	while (!(rc = lfs_image_next_xattr(image, inode, &offset, &entry))) {
		if (index--)
			continue;
		char *end = stpcpy(name, entry.prefix);
		memcpy(end, entry.rest.data, entry.rest.size);
		end[entry.rest.size] = 0;
		*value = entry.value;
		return 0;
	}
	return rc == 1 ? -ENODATA : rc;
}

static bool equals(struct lfs_bytes bytes, const char *text)
{
	return bytes.size == strlen(text) && !memcmp(bytes.data, text, bytes.size);
}

int lfs_image_marks(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_image_marks *marks)
{
	*marks = (struct lfs_image_marks){.whiteout = S_ISCHR(inode->mode) && !inode->major && !inode->minor};
	struct lfs_image_xattr_entry entry;
	uint64_t offset = 0;
	int rc;
	while (!(rc = lfs_image_next_xattr(image, inode, &offset, &entry))) {
		if (entry.prefix != prefixes[EROFS_XATTR_TRUSTED])
			continue;
		if (S_ISDIR(inode->mode)) {
			marks->opaque |= equals(entry.rest, "overlay.opaque") && equals(entry.value, "y");
			marks->implicit |= equals(entry.rest, "overlay.layerfs.implicit") && equals(entry.value, "y");
		} else if (S_ISREG(inode->mode) && !inode->size && equals(entry.rest, "overlay.layerfs.link")) {
			marks->link = true;
			marks->path = entry.value;
		}
	}
	return rc == 1 ? 0 : rc;
}
