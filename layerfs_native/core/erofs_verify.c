/* Is a tree file what a writer of trees made? Checksums first, then every directory entry and inode. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_format.h"
#include "erofs_read.h"

int lfs_image_checksums(const struct lfs_image *image, struct lfs_error *error)
{
	uint8_t front[LFS_BLOCK - EROFS_SUPER_AT];
	struct lfs_xxh64 hash;
	lfs_xxh64_init(&hash);
	lfs_xxh64_update(&hash, image->base + EROFS_SUPER_AT, image->size - EROFS_SUPER_AT);
	if (lfs_xxh64_final(&hash) != lfs_get64(image->base + LFS_HEADER_AT_XXH64))
		return lfs_fail(error, -EIO, "damaged tree file: its XXH64 does not fit");
	memcpy(front, image->base + EROFS_SUPER_AT, sizeof front);
	lfs_set32(front + EROFS_SB_CHECKSUM, 0);
	if (lfs_crc32c(UINT32_MAX, front, sizeof front) != lfs_get32(image->base + EROFS_SUPER_AT + EROFS_SB_CHECKSUM))
		return lfs_fail(error, -EIO, "damaged tree file: its superblock checksum does not fit");
	if (memcmp(image->subject, image->base + EROFS_SUPER_AT + EROFS_SB_UUID, 16)) /* the header has no checksum of its own */
		return lfs_fail(error, -EIO, "damaged tree file: its subject is not its UUID");
	return 0;
}

struct record { /* of one inode number */
	uint64_t nid;
	uint32_t nlink, seen;
};

struct check {
	const struct lfs_image *image;
	struct lfs_error *error;
	struct record *records; /* by i_ino - 1 */
	uint64_t inode_count;
	struct step {
		uint64_t nid, parent;
	} *queue; /* directories, in the order they were met */
	uint64_t queued, names, content_size, contents;
};

static int bad(const struct check *check, uint64_t nid, const char *what)
{
	return lfs_fail(check->error, -EIO, "damaged tree file: inode %llu: %s", (unsigned long long)nid, what);
}

static int check_xattrs(const struct check *check, const struct lfs_inode *inode, const struct lfs_content *content)
{
	struct lfs_image_xattr_entry entry;
	uint64_t offset = 0;
	bool redirect = false;
	int rc;
	while (!(rc = lfs_image_next_xattr(check->image, inode, &offset, &entry))) {
		if (strcmp(entry.prefix, "trusted.") || entry.rest.size != 16 || memcmp(entry.rest.data, "overlay.redirect", 16))
			continue;
		char hex[2 * LFS_ID_SIZE + 3] = "", *at = hex;
		for (unsigned i = 0; i < LFS_ID_SIZE; i++) {
			if (i < 2)
				*at++ = '/';
			*at++ = "0123456789abcdef"[content->identity[i] >> 4];
			*at++ = "0123456789abcdef"[content->identity[i] & 15];
		}
		redirect = entry.value.size == strlen(hex) && !memcmp(entry.value.data, hex, entry.value.size);
		if (!redirect)
			return bad(check, inode->nid, "its redirect is not its content");
	}
	if (rc < 0 || offset != inode->xattr_size)
		return bad(check, inode->nid, "its extended attributes");
	if (redirect != (content->kind == LFS_KIND_OBJECT))
		return bad(check, inode->nid, "an object without a redirect, or the reverse");
	return 0;
}

static int check_inode(struct check *check, const struct lfs_inode *inode)
{
	struct lfs_content content = {0};
	struct lfs_image_marks marks;
	struct lfs_bytes target;
	if (check->image->merged && !lfs_image_marks(check->image, inode, &marks) &&
	    (marks.whiteout || marks.opaque || marks.implicit || marks.link))
		return bad(check, inode->nid, "a mark of layers in a merged tree");
	if (S_ISREG(inode->mode) && lfs_image_content(check->image, inode, &content) < 0)
		return bad(check, inode->nid, "its content");
	if (S_ISLNK(inode->mode) && lfs_image_readlink(check->image, inode, &target) < 0)
		return bad(check, inode->nid, "its target");
	check->content_size += S_ISREG(inode->mode) ? inode->size : 0;
	check->contents += content.kind != LFS_KIND_NONE;
	return check_xattrs(check, inode, &content);
}

/* An inode that a name leads to. */
static int meet(struct check *check, uint64_t nid, uint8_t type, uint64_t parent)
{
	struct lfs_inode inode;
	if (lfs_image_inode(check->image, nid, &inode) < 0 || !inode.ino || inode.ino > check->inode_count)
		return bad(check, nid, "cannot be read");
	if (lfs_file_type(inode.mode) != type)
		return bad(check, nid, "has another type than its name says");
	struct record *record = &check->records[inode.ino - 1];
	if (record->seen++) {
		if (record->nid != nid || S_ISDIR(inode.mode))
			return bad(check, nid, "two inodes of one number, or two names for a directory");
		return 0;
	}
	record->nid = nid;
	record->nlink = S_ISDIR(inode.mode) ? 1 : inode.nlink;
	if (S_ISDIR(inode.mode))
		check->queue[check->queued++] = (struct step){nid, parent};
	return check_inode(check, &inode);
}

static int check_entry(struct check *check, const struct step *step, const struct lfs_dirent *entry)
{
	const char *text = entry->name.data;
	size_t size = entry->name.size;
	if (memchr(text, '/', size) || memchr(text, 0, size))
		return bad(check, step->nid, "a name with a slash or NUL");
	if (text[0] == '.' && size == 1)
		return entry->nid == step->nid && entry->type == EROFS_FT_DIR ? 0 : bad(check, step->nid, "its \".\"");
	if (text[0] == '.' && size == 2 && text[1] == '.')
		return entry->nid == step->parent && entry->type == EROFS_FT_DIR ? 0 : bad(check, step->nid, "its \"..\"");
	check->names++;
	return meet(check, entry->nid, entry->type, step->nid);
}

static int check_directory(struct check *check, const struct step *step)
{
	struct lfs_inode inode;
	struct lfs_dirent entry;
	struct lfs_bytes last = {"", 0};
	uint64_t position = 0, dots = 0;
	int rc;
	if (lfs_image_inode(check->image, step->nid, &inode) < 0)
		return bad(check, step->nid, "cannot be read");
	while (!(rc = lfs_image_next(check->image, &inode, &position, &entry))) {
		size_t common = last.size < entry.name.size ? last.size : entry.name.size;
		int order = memcmp(last.data, entry.name.data, common);
		if (order > 0 || (!order && last.size >= entry.name.size))
			return bad(check, step->nid, "its names are not sorted");
		last = entry.name;
		dots += (entry.name.size == 1 && *(const char *)last.data == '.') || (last.size == 2 && !memcmp(last.data, "..", 2));
		if ((rc = check_entry(check, step, &entry)) < 0)
			return rc;
	}
	if (rc < 0 || dots != 2)
		return bad(check, step->nid, "its entries");
	return 0;
}

static int check_counts(const struct check *check)
{
	const uint8_t *base = check->image->base;
	for (uint64_t i = 0; i < check->inode_count; i++) {
		if (!check->records[i].seen || check->records[i].seen != check->records[i].nlink)
			return bad(check, check->records[i].nid, "its link count, or it has no name");
	}
	if (check->names != lfs_get64(base + LFS_HEADER_AT_NAMES) || check->content_size != lfs_get64(base + LFS_HEADER_AT_CONTENT_SIZE))
		return lfs_fail(check->error, -EIO, "damaged tree file: its totals do not fit");
	return 0;
}

static bool is_zero(const uint8_t *at, const uint8_t *end)
{
	while (at < end && !*at)
		at++;
	return at == end;
}

/* The header's count is not covered by a checksum. Identities behind those of inodes are sorted; then there are zeros. */
static int check_table(const struct check *check)
{
	const struct lfs_image *image = check->image;
	const uint8_t *table = image->base + image->table, *end = image->base + image->size;
	uint64_t count = image->table_count;
	bool sound = check->contents <= count && (!image->merged || check->contents == count) &&
		     lfs_round_up(count * LFS_ID_SIZE, LFS_BLOCK) == image->size - image->table;
	for (uint64_t i = check->contents + 1; sound && i < count; i++)
		sound = memcmp(table + (i - 1) * LFS_ID_SIZE, table + i * LFS_ID_SIZE, LFS_ID_SIZE) < 0;
	if (count && sound)
		sound = !is_zero(table + (count - 1) * LFS_ID_SIZE, table + count * LFS_ID_SIZE);
	if (!sound || !is_zero(table + count * LFS_ID_SIZE, end))
		return lfs_fail(check->error, -EIO, "damaged tree file: its content table");
	return 0;
}

static int check_structure(struct check *check)
{
	int rc = meet(check, LFS_ROOT_NID, EROFS_FT_DIR, LFS_ROOT_NID);
	for (uint64_t i = 0; !rc && i < check->queued; i++)
		rc = check_directory(check, &check->queue[i]);
	if (!rc)
		rc = check_counts(check);
	return rc ? rc : check_table(check);
}

int lfs_image_verify(const struct lfs_image *image, struct lfs_error *error)
{
	int rc = lfs_image_checksums(image, error);
	if (rc < 0)
		return rc;
	struct check check = {.image = image, .error = error};
	check.inode_count = lfs_get64(image->base + EROFS_SUPER_AT + EROFS_SB_INODES);
	if (!check.inode_count || check.inode_count > (image->table - image->meta) / EROFS_INODE_SIZE)
		return lfs_fail(error, -EIO, "damaged tree file: its number of inodes");
	check.records = calloc(check.inode_count, sizeof *check.records);
	check.queue = calloc(check.inode_count, sizeof *check.queue);
	rc = check.records && check.queue ? check_structure(&check) : lfs_fail(error, -ENOMEM, "out of memory");
	free(check.records);
	free(check.queue);
	return rc;
}
