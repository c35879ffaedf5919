/* What a header, long names and PAX records together say about a member, and where its data goes. */
#include <errno.h>

#include "tar.h"
#include "text.h"

static struct lfs_bytes until_nul(const struct lfs_buffer *buffer)
{
	return (struct lfs_bytes){buffer->data, buffer->size ? strnlen((const char *)buffer->data, buffer->size) : 0};
}

static int pax_number(struct lfs_bytes text, uint64_t limit, uint64_t *value, const char *what, struct lfs_error *error)
{
	if (text.data && (!lfs_decimal(text, value) || *value > limit))
		return lfs_fail(error, -EBADMSG, "bad PAX %s", what);
	return 0;
}

/* The header, overruled by long names, overruled by PAX records. */
static int describe(struct lfs_tar *tar, struct lfs_error *error)
{
	struct lfs_member *member = &tar->member;
	const struct lfs_tar_header *header = &tar->header;
	const struct lfs_pax_view *view = &tar->view;
	uint64_t uid = header->uid, gid = header->gid;
	int rc = lfs_pax_xattrs(&tar->view, error);
	if (rc < 0)
		return rc;
	*member = (struct lfs_member){.mode = header->mode, .major = header->major, .minor = header->minor, .mtime = header->mtime};
	member->name = view->path.data ? view->path : tar->have_name ? until_nul(&tar->long_name) : header->name;
	member->target = view->linkpath.data ? view->linkpath : tar->have_link ? until_nul(&tar->long_link) : header->link;
	if (pax_number(view->uid, UINT32_MAX, &uid, "uid", error) ||
	    pax_number(view->gid, UINT32_MAX, &gid, "gid", error))
		return -EBADMSG;
	if (view->mtime.data && !lfs_pax_time(view->mtime, &member->mtime, &member->mtime_nsec))
		return lfs_fail(error, -EBADMSG, "bad PAX mtime");
	member->uid = (uint32_t)uid;
	member->gid = (uint32_t)gid;
	member->xattrs = (const struct lfs_xattr *)view->xattrs.data;
	member->xattr_count = view->xattrs.size / sizeof *member->xattrs;
	member->map = &tar->map;
	return 0;
}

static bool ends_in_slash(struct lfs_bytes name)
{
	return name.size && ((const char *)name.data)[name.size - 1] == '/';
}

/* A member that is no regular file; `data` bytes that come with it are passed over. */
static int plain_member(struct lfs_tar *tar, enum lfs_member_type type, uint64_t data, struct lfs_error *error)
{
	tar->member.type = type;
	int rc = tar->events->member(tar->context, &tar->member, error);
	lfs_tar_forget_meta(tar);
	tar->data_size = data;
	lfs_tar_skip(tar, LFS_TAR_SKIP, data);
	return rc;
}

/* Goes to the next piece that has bytes; after the last, the file is done. */
int lfs_tar_next_piece(struct lfs_tar *tar, struct lfs_error *error)
{
	size_t count;
	const struct lfs_piece *pieces = lfs_map_pieces(&tar->map, &count);
	while (tar->piece < count && tar->piece_at == pieces[tar->piece].size) {
		tar->piece++;
		tar->piece_at = 0;
	}
	if (tar->piece < count)
		return 0;
	int rc = tar->events->done(tar->context, &tar->member, error);
	lfs_tar_forget_meta(tar);
	lfs_tar_end_of_data(tar);
	return rc;
}

/* The map is known; `stored` bytes of the file follow. */
static int begin_file(struct lfs_tar *tar, uint64_t stored, struct lfs_error *error)
{
	int rc = lfs_map_check(&tar->map, tar->member.size, stored, error);
	if (rc == 0)
		rc = tar->events->member(tar->context, &tar->member, error);
	tar->state = LFS_TAR_DATA;
	tar->piece = tar->piece_at = 0;
	return rc < 0 ? rc : lfs_tar_next_piece(tar, error);
}

static int old_sparse(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	tar->map.declared = true;
	tar->member.size = tar->header.real_size;
	int rc = lfs_map_old(&tar->map, block + 386, 4, error);
	if (rc < 0)
		return rc;
	if (!block[482])
		return begin_file(tar, tar->data_size, error);
	tar->state = LFS_TAR_OLD_MAP;
	return 0;
}

int lfs_tar_old_extension(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	int rc = lfs_map_old(&tar->map, block, 21, error);
	if (rc < 0 || block[504])
		return rc;
	return begin_file(tar, tar->data_size, error);
}

/* 0 none, 1: 0.0 or 0.1, 2: 1.0. */
static int sparse_version(const struct lfs_pax_view *view, struct lfs_error *error)
{
	if (!view->sparse_major.data && !view->sparse_minor.data)
		return view->pairs.size || view->sparse_map.data;
	bool major0 = lfs_bytes_equal(view->sparse_major, LFS_LITERAL("0")), minor0 = lfs_bytes_equal(view->sparse_minor, LFS_LITERAL("0"));
	bool major1 = lfs_bytes_equal(view->sparse_major, LFS_LITERAL("1")), minor1 = lfs_bytes_equal(view->sparse_minor, LFS_LITERAL("1"));
	if (major1 && minor0)
		return 2;
	if (major0 && (minor0 || minor1))
		return 1;
	return lfs_fail(error, -EBADMSG, "unknown version of GNU sparse files");
}

static int pax_sparse(struct lfs_tar *tar, int version, struct lfs_error *error)
{
	const struct lfs_pax_view *view = &tar->view;
	struct lfs_bytes size = view->sparse_realsize.data ? view->sparse_realsize : view->sparse_size;
	int rc = pax_number(size, INT64_MAX, &tar->member.size, "sparse size", error);
	if (rc < 0)
		return rc;
	tar->map.declared = true;
	if (view->sparse_name.data)
		tar->member.name = view->sparse_name;
	if (version == 2) {
		tar->map_reader = (struct lfs_map_reader){0};
		tar->remaining = tar->data_size;
		tar->state = LFS_TAR_MAP;
		return 0;
	}
	rc = lfs_map_pax(&tar->map, view, error);
	return rc < 0 ? rc : begin_file(tar, tar->data_size, error);
}

/* The map counts as data of the member, by whole blocks. */
int lfs_tar_map_block(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	if (tar->remaining < LFS_TAR_BLOCK)
		return lfs_fail(error, -EBADMSG, "sparse map longer than the member");
	tar->remaining -= LFS_TAR_BLOCK;
	int rc = lfs_map_block(&tar->map_reader, &tar->map, block, LFS_TAR_BLOCK, error);
	return rc <= 0 ? rc : begin_file(tar, tar->remaining, error);
}

static int regular_file(struct lfs_tar *tar, struct lfs_error *error)
{
	tar->member.type = LFS_MEMBER_FILE;
	tar->member.size = tar->data_size;
	int version = sparse_version(&tar->view, error);
	if (version)
		return version < 0 ? version : pax_sparse(tar, version, error);
	int rc = tar->data_size ? lfs_map_add(&tar->map, 0, tar->data_size, error) : 0;
	return rc < 0 ? rc : begin_file(tar, tar->data_size, error);
}

static int begin_type(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	switch (tar->header.type) {
	case '\0':
		if (ends_in_slash(tar->member.name)) /* how archives before POSIX wrote directories */
			return plain_member(tar, LFS_MEMBER_DIRECTORY, tar->data_size, error);
		return regular_file(tar, error);
	case '0':
	case '7':
		return regular_file(tar, error);
	case '1':
		return plain_member(tar, LFS_MEMBER_LINK, 0, error);
	case '2':
		tar->member.mode = 0777;
		return plain_member(tar, LFS_MEMBER_SYMLINK, 0, error);
	case '3':
		return plain_member(tar, LFS_MEMBER_CHARACTER, 0, error);
	case '4':
		return plain_member(tar, LFS_MEMBER_DEVICE, 0, error);
	case '5':
		return plain_member(tar, LFS_MEMBER_DIRECTORY, 0, error);
	case '6':
		return plain_member(tar, LFS_MEMBER_FIFO, 0, error);
	case 'D':
		return plain_member(tar, LFS_MEMBER_DIRECTORY, tar->data_size, error);
	case 'S':
		tar->member.type = LFS_MEMBER_FILE;
		return old_sparse(tar, block, error);
	default:
		return lfs_fail(error, -EBADMSG, "unknown member type 0x%02x", tar->header.type);
	}
}

int lfs_tar_begin_member(struct lfs_tar *tar, const uint8_t *block, struct lfs_error *error)
{
	tar->map.list.size = 0;
	tar->map.declared = false;
	tar->data_size = tar->header.size;
	int rc = lfs_pax_look(&tar->view, &tar->global, &tar->local);
	if (rc == 0)
		rc = pax_number(tar->view.size, INT64_MAX, &tar->data_size, "size", error);
	if (rc == 0 && tar->header.type == 'V') { /* the volume's label */
		lfs_tar_forget_meta(tar);
		lfs_tar_skip(tar, LFS_TAR_SKIP, tar->data_size);
		return 0;
	}
	if (rc == 0)
		rc = describe(tar, error);
	return rc < 0 ? rc : begin_type(tar, block, error);
}
