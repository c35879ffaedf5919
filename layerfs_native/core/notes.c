#include "notes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "text.h"
#include "tree_internal.h"

#define NOTES_SIZE (8u << 20)
#define METADATA_MAX (256ull << 20) /* link targets and extended attributes of a layer, which memory holds */

int lfs_notes_init(struct lfs_notes *notes, struct lfs_depot *depot, uint64_t max_entries)
{
	*notes = (struct lfs_notes){.depot = depot, .max_entries = max_entries, .data = malloc(NOTES_SIZE)};
	return notes->data ? lfs_tree_new(&notes->tree) : -ENOMEM;
}

void lfs_notes_free(struct lfs_notes *notes)
{
	if (notes->tree)
		lfs_tree_free(notes->tree);
	free(notes->data);
}

static int apply(struct lfs_notes *notes, const struct lfs_note *note, struct lfs_error *error)
{
	static const struct lfs_content empty;
	switch (note->kind) {
	case LFS_NOTE_LINK:
		return lfs_tree_link(notes->tree, note->path, note->other, error);
	case LFS_NOTE_WHITEOUT:
		return lfs_tree_whiteout(notes->tree, note->path, note->other, error);
	case LFS_NOTE_OPAQUE:
		return lfs_tree_opaque(notes->tree, note->path, error);
	default: {
		const struct lfs_content *content =
			note->content == LFS_NO_CONTENT ? &empty : lfs_table_at(&notes->depot->table, note->content);
		return lfs_tree_put(notes->tree, note->path, &note->attr, S_ISREG(note->attr.mode) ? content : NULL, note->other,
				    error);
	}
	}
}

int lfs_name_error(int rc, struct lfs_bytes name, struct lfs_error *error)
{
	char quoted[LFS_QUOTED];
	struct lfs_error inner = *error;
	if (rc == -EINVAL) /* what the tree calls a bad argument came from the archive */
		rc = -EBADMSG;
	return lfs_fail(error, rc, "%s: %s", lfs_quote(quoted, name), inner.text[0] ? inner.text : strerror(-rc));
}

int lfs_notes_settle(struct lfs_notes *notes, struct lfs_error *error)
{
	int rc = lfs_depot_settle(notes->depot, error);
	for (size_t at = 0; rc == 0 && at < notes->used;) {
		const struct lfs_note *note = (const struct lfs_note *)(notes->data + at);
		rc = apply(notes, note, error);
		if (rc == 0 && notes->tree->name_count > notes->max_entries)
			rc = lfs_fail(error, -EBADMSG, "more than %llu names", (unsigned long long)notes->max_entries);
		if (rc < 0)
			rc = lfs_name_error(rc, note->path, error);
		at += note->size;
	}
	notes->used = 0;
	return rc;
}

static struct lfs_bytes copy_bytes(uint8_t **to, struct lfs_bytes bytes)
{
	struct lfs_bytes copy = {*to, bytes.size};
	if (bytes.size)
		memcpy(*to, bytes.data, bytes.size);
	*to += bytes.size;
	return copy;
}

int lfs_notes_keep(struct lfs_notes *notes, const struct lfs_note *note, struct lfs_note **kept, struct lfs_error *error)
{
	const struct lfs_attr *attr = &note->attr;
	size_t size = sizeof *note + attr->xattr_count * sizeof *attr->xattrs + note->path.size + note->other.size, metadata;
	for (size_t i = 0; i < attr->xattr_count; i++)
		size += attr->xattrs[i].name.size + attr->xattrs[i].value.size;
	metadata = size - sizeof *note - note->path.size;
	size = (size + 15) & ~(size_t)15;
	notes->metadata += metadata;
	if (size > NOTES_SIZE || notes->metadata > METADATA_MAX)
		return lfs_fail(error, -EBADMSG, "too many extended attributes and link targets");
	int rc = size > NOTES_SIZE - notes->used ? lfs_notes_settle(notes, error) : 0;
	if (rc < 0)
		return rc;

	struct lfs_note *copy = (struct lfs_note *)(notes->data + notes->used);
	struct lfs_xattr *xattrs = (struct lfs_xattr *)(copy + 1);
	uint8_t *to = (uint8_t *)(xattrs + attr->xattr_count);
	*copy = *note;
	copy->size = size;
	copy->path = copy_bytes(&to, note->path);
	copy->other = copy_bytes(&to, note->other);
	copy->attr.xattrs = xattrs;
	for (size_t i = 0; i < attr->xattr_count; i++)
		xattrs[i] = (struct lfs_xattr){copy_bytes(&to, attr->xattrs[i].name), copy_bytes(&to, attr->xattrs[i].value)};
	notes->used += size;
	*kept = copy;
	return 0;
}
