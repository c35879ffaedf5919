/* A layer tar into contents, a tree and a tar-split record. */
#define _GNU_SOURCE /* F_DUPFD_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "depot.h"
#include "notes.h"
#include "path.h"
#include "ranges.h"
#include "split.h"
#include "tar.h"

struct lfs_ingest {
	struct lfs_ingest_config config;
	struct lfs_tar tar;
	struct lfs_notes notes;
	struct lfs_depot depot;
	struct lfs_split split;
	struct lfs_sha256 diff;
	uint64_t tar_size, members;
	struct lfs_note *open; /* the file that is coming in, when it becomes an inode */
	int failed;
	struct lfs_error error;
	bool finished;
};

/* --- members --- */

static uint32_t type_bits(enum lfs_member_type type)
{
	static const uint32_t bits[] = {
		[LFS_MEMBER_FILE] = S_IFREG,	  [LFS_MEMBER_LINK] = 0,	    [LFS_MEMBER_SYMLINK] = S_IFLNK,
		[LFS_MEMBER_CHARACTER] = S_IFCHR, [LFS_MEMBER_DEVICE] = S_IFBLK,    [LFS_MEMBER_DIRECTORY] = S_IFDIR,
		[LFS_MEMBER_FIFO] = S_IFIFO,
	};
	return bits[type];
}

static int plain_note(const struct lfs_member *member, struct lfs_note *note, char *link_text, struct lfs_error *error)
{
	if (member->type == LFS_MEMBER_LINK) {
		note->kind = LFS_NOTE_LINK;
		return lfs_path_clean(member->target, link_text, &note->other, error);
	}
	note->attr = (struct lfs_attr){
		.mode = member->mode | type_bits(member->type),
		.uid = member->uid,
		.gid = member->gid,
		.mtime = member->mtime,
		.mtime_nsec = member->mtime_nsec,
		.major = member->major,
		.minor = member->minor,
		.xattrs = member->xattrs,
		.xattr_count = member->xattr_count,
	};
	if (member->type == LFS_MEMBER_CHARACTER && member->major == 0 && member->minor == 0)
		return lfs_fail(error, -EBADMSG, "character device 0:0, which stands for a whiteout");
	if (member->type == LFS_MEMBER_SYMLINK)
		note->other = member->target;
	return 0;
}

/* What the member does to the tree. 1: nothing. */
static int make_note(const struct lfs_member *member, struct lfs_note *note, char *path_text, char *link_text, struct lfs_error *error)
{
	struct lfs_path_parts parts;
	struct lfs_bytes path;
	int rc = lfs_path_clean(member->name, path_text, &path, error);
	if (rc < 0)
		return rc;
	int kind = lfs_path_classify(path, &parts, error);
	*note = (struct lfs_note){.kind = LFS_NOTE_PUT, .content = LFS_NO_CONTENT, .path = path};
	switch (kind) {
	case LFS_PATH_PLAIN:
		return plain_note(member, note, link_text, error);
	case LFS_PATH_WHITEOUT:
		note->kind = LFS_NOTE_WHITEOUT;
		note->path = parts.directory;
		note->other = parts.name;
		return 0;
	case LFS_PATH_OPAQUE:
		note->kind = LFS_NOTE_OPAQUE;
		note->path = parts.directory;
		return 0;
	default:
		return kind < 0 ? kind : 1;
	}
}

static uint64_t holes_of(const struct lfs_member *member)
{
	size_t count;
	const struct lfs_piece *pieces = lfs_map_pieces(member->map, &count);
	uint64_t holes = member->size;
	for (size_t i = 0; i < count; i++)
		holes -= pieces[i].size;
	return holes;
}

static int check_limits(struct lfs_ingest *ingest, const struct lfs_member *member, struct lfs_error *error)
{
	const struct lfs_ingest_config *config = &ingest->config;
	if (++ingest->members > config->max_entries)
		return lfs_fail(error, -EBADMSG, "more than %llu members", (unsigned long long)config->max_entries);
	if (member->size > config->max_file_size)
		return lfs_fail(error, -EBADMSG, "file of %llu bytes, over the limit of %llu", (unsigned long long)member->size,
				(unsigned long long)config->max_file_size);
	return 0;
}

static int begin_member(struct lfs_ingest *ingest, const struct lfs_member *member, struct lfs_error *error)
{
	char path_text[LFS_PATH_MAX], link_text[LFS_PATH_MAX];
	struct lfs_note note;
	int rc = check_limits(ingest, member, error);
	if (rc == 0)
		rc = make_note(member, &note, path_text, link_text, error);
	ingest->open = NULL;
	if (rc == 0)
		rc = lfs_notes_keep(&ingest->notes, &note, &ingest->open, error);
	if (rc < 0 || member->type != LFS_MEMBER_FILE || !member->size)
		return rc;
	return lfs_depot_begin(&ingest->depot, member->size, holes_of(member) >= LFS_HOLES_MIN, error);
}

static int on_member(void *context, const struct lfs_member *member, struct lfs_error *error)
{
	int rc = begin_member(context, member, error);
	return rc == -EBADMSG ? lfs_name_error(rc, member->name, error) : rc < 0 ? rc : 0;
}

static int on_raw(void *context, const uint8_t *data, size_t size, struct lfs_error *error)
{
	struct lfs_ingest *ingest = context;
	lfs_sha256_update(&ingest->diff, data, size);
	return lfs_split_raw(&ingest->split, data, size);
}

static int on_data(void *context, uint64_t offset, const uint8_t *data, size_t size, struct lfs_error *error)
{
	struct lfs_ingest *ingest = context;
	return lfs_depot_data(&ingest->depot, offset, data, size, &ingest->diff, error);
}

static int record_pieces(struct lfs_ingest *ingest, const struct lfs_member *member, uint32_t content)
{
	size_t count;
	const struct lfs_piece *pieces = lfs_map_pieces(member->map, &count);
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++)
		if (pieces[i].size)
			rc = lfs_split_range(&ingest->split, lfs_table_at(&ingest->depot.table, content)->identity, pieces[i].offset,
					     pieces[i].size);
	return rc;
}

static int on_done(void *context, const struct lfs_member *member, struct lfs_error *error)
{
	struct lfs_ingest *ingest = context;
	uint32_t content;
	if (!member->size)
		return 0;
	int rc = lfs_depot_end(&ingest->depot, &content, error);
	if (rc == 0)
		rc = record_pieces(ingest, member, content);
	if (rc < 0)
		return rc;
	if (ingest->open)
		ingest->open->content = content;
	return lfs_depot_full(&ingest->depot) ? lfs_notes_settle(&ingest->notes, error) : 0;
}

/* --- the whole --- */

static const struct lfs_tar_events events = {.raw = on_raw, .member = on_member, .data = on_data, .done = on_done};

int lfs_ingest_new(const struct lfs_ingest_config *config, struct lfs_ingest **out)
{
	struct lfs_ingest *ingest = calloc(1, sizeof *ingest);
	if (!ingest)
		return -ENOMEM;
	ingest->config = *config;
	/* Our own: a thread may still write when the caller closes its descriptors after an error. */
	ingest->config.pack_fd = fcntl(config->pack_fd, F_DUPFD_CLOEXEC, 3);
	ingest->config.objects_fd = fcntl(config->objects_fd, F_DUPFD_CLOEXEC, 3);
	if (ingest->config.pack_fd < 0 || ingest->config.objects_fd < 0) {
		int rc = -errno;
		lfs_ingest_free(ingest);
		return rc;
	}
	lfs_tar_init(&ingest->tar, &events, ingest);
	lfs_sha256_init(&ingest->diff);
	int rc = lfs_depot_init(&ingest->depot, &ingest->config);
	if (rc == 0)
		rc = lfs_notes_init(&ingest->notes, &ingest->depot, ingest->config.max_entries);
	if (rc < 0) {
		lfs_ingest_free(ingest);
		return rc;
	}
	*out = ingest;
	return 0;
}

void lfs_ingest_free(struct lfs_ingest *ingest)
{
	if (!ingest)
		return;
	lfs_depot_free(&ingest->depot);
	lfs_tar_free(&ingest->tar);
	lfs_split_free(&ingest->split);
	lfs_notes_free(&ingest->notes);
	lfs_close_fd(&ingest->config.pack_fd);
	lfs_close_fd(&ingest->config.objects_fd);
	free(ingest);
}

/* Remembers a failure: nothing can be added after one. The thread is idle then, so that what it made can be removed. */
static int fail(struct lfs_ingest *ingest, int rc, struct lfs_error *error)
{
	if (rc < 0)
		lfs_depot_wait(&ingest->depot, NULL);
	if (rc < 0 && !ingest->failed) {
		ingest->failed = rc;
		ingest->error = *error;
	}
	return rc;
}

static int refuse(struct lfs_ingest *ingest, struct lfs_error *error)
{
	error->text[0] = '\0';
	if (ingest->failed) {
		*error = ingest->error;
		return ingest->failed;
	}
	return ingest->finished ? lfs_fail(error, -EINVAL, "the layer is finished") : 0;
}

/* Says where in the archive the trouble is. */
static int locate(struct lfs_ingest *ingest, int rc, struct lfs_error *error)
{
	struct lfs_error inner = *error;
	if (rc == -EBADMSG)
		lfs_fail(error, rc, "layer archive, header at byte %llu: %s", (unsigned long long)ingest->tar.header_at, inner.text);
	return rc;
}

int lfs_ingest_feed(struct lfs_ingest *ingest, const void *data, size_t size, struct lfs_error *error)
{
	struct lfs_error own;
	error = error ? error : &own;
	int rc = refuse(ingest, error);
	if (rc < 0)
		return rc;
	ingest->tar_size += size;
	rc = lfs_tar_feed(&ingest->tar, data, size, error);
	return fail(ingest, locate(ingest, rc, error), error);
}

int lfs_ingest_feed_ranges(struct lfs_ingest *ingest, const struct lfs_file_range *ranges, size_t count, struct lfs_error *error)
{
	struct lfs_error own;
	error = error ? error : &own;
	uint64_t size = lfs_ranges_size(ranges, count);
	int rc = refuse(ingest, error);
	if (rc < 0)
		return rc;
	if (!lfs_tar_in_data(&ingest->tar, size))
		return fail(ingest, lfs_fail(error, -EINVAL, "not a file's bytes"), error);
	ingest->tar_size += size;
	rc = lfs_depot_ranges(&ingest->depot, ranges, count, &ingest->diff, error);
	if (rc == 0)
		rc = locate(ingest, lfs_tar_pass(&ingest->tar, size, error), error);
	return fail(ingest, rc, error);
}

void lfs_ingest_delta(struct lfs_ingest *ingest, uint64_t number)
{
	lfs_depot_delta(&ingest->depot, number);
}

struct lfs_bytes lfs_ingest_split(struct lfs_ingest *ingest)
{
	return lfs_split_take(&ingest->split);
}

static int finish(struct lfs_ingest *ingest, const char *tree_path, struct lfs_ingest_result *result, struct lfs_error *error)
{
	int rc = locate(ingest, lfs_tar_finish(&ingest->tar, error), error);
	if (rc == 0)
		rc = lfs_notes_settle(&ingest->notes, error);
	if (rc == 0)
		rc = lfs_depot_wait(&ingest->depot, error);
	if (rc < 0)
		return rc;
	lfs_sha256_final(&ingest->diff, result->diff_id);
	rc = lfs_split_end(&ingest->split, ingest->tar_size, result->diff_id);
	if (rc < 0)
		return rc;
	const struct lfs_buffer *contents = &ingest->depot.table.list; /* all: the tree drops those that inodes use */
	return lfs_tree_write(ingest->notes.tree, tree_path, false, result->diff_id, (const struct lfs_content *)contents->data,
			      lfs_table_count(&ingest->depot.table), &result->tree, error);
}

int lfs_ingest_finish(struct lfs_ingest *ingest, const char *tree_path, struct lfs_ingest_result *result, struct lfs_error *error)
{
	struct lfs_error own;
	error = error ? error : &own;
	int rc = refuse(ingest, error);
	if (rc < 0)
		return rc;
	*result = (struct lfs_ingest_result){.tar_size = ingest->tar_size};
	rc = finish(ingest, tree_path, result, error);
	ingest->finished = true;
	result->pack_blocks = ingest->depot.blocks;
	result->contents = (const struct lfs_new_content *)ingest->depot.rows.data;
	result->content_count = ingest->depot.rows.size / sizeof *result->contents;
	return fail(ingest, rc, error);
}
