/* Writes a tree as an EROFS image, front to back: docs/format.md, "Tree files". */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "erofs_format.h"
#include "erofs_layout.h"

#define STREAM_SIZE (256u << 10)

struct stream {
	int fd;
	int failed; /* -errno of the first write that failed; later ones do nothing */
	size_t used;
	uint64_t written; /* bytes put so far, from the start of the file */
	struct lfs_xxh64 hash;
	uint8_t *buffer;
};

static void write_all(struct stream *stream, const uint8_t *data, size_t size)
{
	while (size && !stream->failed) {
		ssize_t done = write(stream->fd, data, size);
		if (done < 0 && errno != EINTR)
			stream->failed = -errno;
		if (done > 0)
			data += done, size -= (size_t)done;
	}
}

static void flush(struct stream *stream)
{
	lfs_xxh64_update(&stream->hash, stream->buffer, stream->used);
	write_all(stream, stream->buffer, stream->used);
	stream->used = 0;
}

static void put(struct stream *stream, const void *data, size_t size) /* data NULL: zeros */
{
	stream->written += size;
	while (size) {
		size_t part = STREAM_SIZE - stream->used < size ? STREAM_SIZE - stream->used : size;
		if (data) {
			memcpy(stream->buffer + stream->used, data, part);
			data = (const uint8_t *)data + part;
		} else {
			memset(stream->buffer + stream->used, 0, part);
		}
		stream->used += part;
		size -= part;
		if (stream->used == STREAM_SIZE)
			flush(stream);
	}
}

static void put_until(struct stream *stream, uint64_t offset)
{
	put(stream, NULL, offset - stream->written);
}

/* --- front: superblock and device table --- */

static void fill_device(uint8_t *slot, const struct lfs_device *device)
{
	for (unsigned i = 0; i < 16; i++)
		slot[i] = (uint8_t) "0123456789abcdef"[device->pack >> (60 - 4 * i) & 15];
	lfs_set32(slot + 64, device->blocks);
}

static void fill_superblock(const struct lfs_layout *layout, const uint8_t *subject, uint8_t *super)
{
	lfs_set32(super + EROFS_SB_MAGIC, EROFS_MAGIC);
	lfs_set32(super + EROFS_SB_COMPAT, EROFS_COMPAT);
	super[EROFS_SB_BLOCK_BITS] = EROFS_BLOCK_BITS;
	lfs_set16(super + EROFS_SB_ROOT_NID, LFS_ROOT_NID);
	lfs_set64(super + EROFS_SB_INODES, layout->inode_count);
	lfs_set32(super + EROFS_SB_BLOCKS, (uint32_t)(layout->size / LFS_BLOCK));
	lfs_set32(super + EROFS_SB_META, (uint32_t)(layout->meta / LFS_BLOCK));
	memcpy(super + EROFS_SB_UUID, subject, 16);
	lfs_set32(super + EROFS_SB_INCOMPAT, EROFS_INCOMPAT_CHUNKED | (layout->device_count ? EROFS_INCOMPAT_DEVICES : 0));
	lfs_set16(super + EROFS_SB_DEVICES, (uint16_t)layout->device_count);
	lfs_set16(super + EROFS_SB_DEVICE_SLOT, layout->device_count ? EROFS_DEVICES_AT / EROFS_DEVICE_SIZE : 0);
}

/* Everything from the superblock to the meta region, as one piece because of the checksum. */
static int put_front(struct stream *stream, const struct lfs_layout *layout, const uint8_t *subject)
{
	size_t size = layout->meta - EROFS_SUPER_AT;
	uint8_t *front = calloc(1, size);
	if (!front)
		return -ENOMEM;
	fill_superblock(layout, subject, front);
	for (uint32_t i = 0; i < layout->device_count; i++)
		fill_device(front + EROFS_SUPER_SIZE + (size_t)i * EROFS_DEVICE_SIZE, &layout->devices[i]);
	lfs_set32(front + EROFS_SB_CHECKSUM, lfs_crc32c(UINT32_MAX, front, LFS_BLOCK - EROFS_SUPER_AT));
	put(stream, front, size);
	free(front);
	return 0;
}

/* --- inodes --- */

static uint32_t listed_node(const struct lfs_layout *layout, uint32_t directory, uint32_t listed)
{
	if (listed == LFS_LIST_DOT)
		return directory;
	if (listed == LFS_LIST_DOTDOT)
		return lfs_tree_parent(layout->tree, directory);
	return lfs_name_at(layout->tree, listed)->node;
}

static void put_dirents(struct stream *stream, const struct lfs_layout *layout, uint32_t directory, uint32_t from, uint32_t to)
{
	const uint32_t *list = layout->lists + lfs_node_at(layout->tree, directory)->directory.list + 1;
	uint8_t block[LFS_BLOCK];
	size_t text = (to - from) * (size_t)EROFS_DIRENT_SIZE;
	for (uint32_t i = from; i < to; i++) {
		const struct lfs_node *node = lfs_node_at(layout->tree, listed_node(layout, directory, list[i]));
		struct lfs_bytes name = lfs_layout_name(layout, list[i]);
		uint8_t *dirent = block + (i - from) * (size_t)EROFS_DIRENT_SIZE;
		lfs_set64(dirent, node->position);
		lfs_set16(dirent + 8, (uint16_t)text);
		dirent[10] = lfs_file_type(node->mode);
		dirent[11] = 0;
		memcpy(block + text, name.data, name.size);
		text += name.size;
	}
	put(stream, block, text);
}

/* The blocks of a directory: all but the last (padded), or the last only (as it is). */
static void put_directory(struct stream *stream, const struct lfs_layout *layout, uint32_t number, bool tail)
{
	const struct lfs_node *node = lfs_node_at(layout->tree, number);
	const uint32_t *list = layout->lists + node->directory.list;
	bool inlined = node->layout == EROFS_INLINE;
	for (uint32_t at = 0, end, used; at < list[0]; at = end) {
		end = lfs_layout_block(layout, list + 1, list[0], at, &used);
		bool is_tail = inlined && end == list[0];
		if (is_tail != tail)
			continue;
		put_dirents(stream, layout, number, at, end);
		if (!tail)
			put(stream, NULL, LFS_BLOCK - used);
	}
}

static uint32_t count_links(const struct lfs_layout *layout, const struct lfs_node *node)
{
	if (!lfs_node_is_directory(node))
		return node->names;
	uint32_t links = 2;
	for (uint32_t at = node->directory.first; at != LFS_NONE; at = lfs_name_at(layout->tree, at)->next)
		links += lfs_node_is_directory(lfs_node_at(layout->tree, lfs_name_at(layout->tree, at)->node));
	return links;
}

static uint32_t inode_union(const struct lfs_layout *layout, const struct lfs_node *node)
{
	if (node->layout == EROFS_CHUNKED)
		return EROFS_CHUNK_INDEXES | lfs_chunk_bits(node->size);
	if (node->flags & LFS_NODE_WHITEOUT)
		return 0;
	if (S_ISCHR(node->mode) || S_ISBLK(node->mode))
		return node->device;
	return node->data == LFS_NONE ? EROFS_NO_BLOCK : (uint32_t)(layout->data / LFS_BLOCK) + node->data;
}

static void put_xattrs(struct stream *stream, const struct lfs_layout *layout, const struct lfs_node *node, size_t total, size_t split)
{
	static const uint8_t header[EROFS_XATTR_HEADER];
	uint8_t ours[LFS_PATH_MAX + 256];
	if (!total)
		return;
	put(stream, header, sizeof header);
	if (split)
		put(stream, node->xattrs, split);
	if (total > node->xattr_size) {
		lfs_xattr_overlay(node, lfs_layout_opaque(layout, node), lfs_layout_implicit(layout, node), ours);
		put(stream, ours, total - node->xattr_size);
	}
	if (node->xattr_size > split)
		put(stream, node->xattrs + split, node->xattr_size - split);
}

static void put_chunks(struct stream *stream, const struct lfs_layout *layout, const struct lfs_node *node)
{
	put_until(stream, lfs_round_up(stream->written, EROFS_CHUNK_INDEX_SIZE));
	uint8_t index[EROFS_CHUNK_INDEX_SIZE] = {0};
	bool packed = node->flags & LFS_NODE_PACKED;
	lfs_set16(index + 2, packed ? (uint16_t)layout->slots[node->content.pack] : 0);
	lfs_set32(index + 4, packed ? node->content.block : EROFS_NO_BLOCK);
	for (uint64_t left = lfs_chunk_count(node->size, lfs_chunk_bits(node->size)); left; left--)
		put(stream, index, sizeof index);
}

static void put_inode(struct stream *stream, const struct lfs_layout *layout, uint32_t number)
{
	const struct lfs_node *node = lfs_node_at(layout->tree, number);
	size_t split, total = lfs_xattr_layout(node, lfs_layout_opaque(layout, node), lfs_layout_implicit(layout, node), &split);
	uint8_t inode[EROFS_INODE_SIZE] = {0};
	lfs_set16(inode + EROFS_I_FORMAT, (uint16_t)(1 | node->layout << 1));
	lfs_set16(inode + EROFS_I_XATTRS, total ? (uint16_t)(1 + total / 4) : 0);
	lfs_set16(inode + EROFS_I_MODE, node->mode);
	lfs_set64(inode + EROFS_I_SIZE, node->flags & LFS_NODE_LINK ? 0 : node->size);
	lfs_set32(inode + EROFS_I_U, inode_union(layout, node));
	lfs_set32(inode + EROFS_I_INO, node->ino);
	lfs_set32(inode + EROFS_I_UID, node->uid);
	lfs_set32(inode + EROFS_I_GID, node->gid);
	lfs_set64(inode + EROFS_I_MTIME, (uint64_t)node->mtime);
	lfs_set32(inode + EROFS_I_MTIME_NSEC, node->mtime_nsec);
	lfs_set32(inode + EROFS_I_NLINK, count_links(layout, node));
	put_until(stream, layout->meta + (uint64_t)node->position * EROFS_SLOT);
	put(stream, inode, sizeof inode);
	put_xattrs(stream, layout, node, total, split);
	if (node->layout == EROFS_CHUNKED)
		put_chunks(stream, layout, node);
	else if (node->layout == EROFS_INLINE && lfs_node_is_directory(node))
		put_directory(stream, layout, number, true);
	else if (node->layout == EROFS_INLINE)
		put(stream, node->text, node->size);
}

/* --- the rest --- */

static void put_data(struct stream *stream, const struct lfs_layout *layout)
{
	put_until(stream, layout->data);
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		const struct lfs_node *node = lfs_node_at(layout->tree, layout->order[i]);
		if (node->data == LFS_NONE)
			continue;
		if (lfs_node_is_directory(node)) {
			put_directory(stream, layout, layout->order[i], false);
		} else {
			put(stream, node->text, node->size);
			put(stream, NULL, LFS_BLOCK - node->size);
		}
	}
}

static void put_table(struct stream *stream, const struct lfs_layout *layout)
{
	for (uint32_t i = 0; i < layout->inode_count; i++) {
		const struct lfs_node *node = lfs_node_at(layout->tree, layout->order[i]);
		if (node->flags & LFS_NODE_CONTENT)
			put(stream, node->content.identity, LFS_ID_SIZE);
	}
	for (size_t i = 0; i < layout->extra_count; i++)
		put(stream, layout->extra[i], LFS_ID_SIZE);
	put_until(stream, layout->size);
}

static int write_header(struct stream *stream, const struct lfs_layout *layout, const uint8_t *subject)
{
	uint8_t header[LFS_HEADER_SIZE] = LFS_HEADER_MAGIC;
	lfs_set32(header + LFS_HEADER_AT_VERSION, LFS_HEADER_VERSION);
	lfs_set32(header + LFS_HEADER_AT_KIND, layout->merged ? 2 : 1);
	lfs_set64(header + LFS_HEADER_AT_TABLE, layout->table);
	lfs_set64(header + LFS_HEADER_AT_TABLE_COUNT, layout->content_count + layout->extra_count);
	memcpy(header + LFS_HEADER_AT_SUBJECT, subject, LFS_ID_SIZE);
	lfs_set64(header + LFS_HEADER_AT_XXH64, lfs_xxh64_final(&stream->hash));
	lfs_set64(header + LFS_HEADER_AT_NAMES, layout->stats.entries);
	lfs_set64(header + LFS_HEADER_AT_CONTENT_SIZE, layout->stats.content_size);
	ssize_t done = pwrite(stream->fd, header, sizeof header, 0);
	return done == (ssize_t)sizeof header ? 0 : done < 0 ? -errno : -ENOSPC;
}

static int write_file(struct stream *stream, const struct lfs_layout *layout, const uint8_t *subject)
{
	static const uint8_t zeros[EROFS_SUPER_AT];
	write_all(stream, zeros, sizeof zeros); /* the header's place: not hashed, filled last */
	stream->written = EROFS_SUPER_AT;
	int rc = put_front(stream, layout, subject);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < layout->inode_count && !stream->failed; i++)
		put_inode(stream, layout, layout->order[i]);
	put_data(stream, layout);
	put_table(stream, layout);
	flush(stream);
	return stream->failed ? stream->failed : write_header(stream, layout, subject);
}

static int create_file(const struct lfs_layout *layout, const char *out_path, const uint8_t *subject, struct lfs_error *error)
{
	LFS_AUTO_FD fd = open(out_path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return lfs_fail(error, -errno, "%s: %s", out_path, strerror(errno));
	struct stream stream = {.fd = fd, .buffer = malloc(STREAM_SIZE)};
	lfs_xxh64_init(&stream.hash);
	int rc = stream.buffer ? write_file(&stream, layout, subject) : -ENOMEM;
	if (!rc && fchmod(fd, 0444) < 0) /* whatever the umask */
		rc = -errno;
	free(stream.buffer);
	if (rc < 0) {
		unlink(out_path);
		return lfs_fail(error, rc, "%s: %s", out_path, strerror(-rc));
	}
	return 0;
}

int lfs_tree_write(struct lfs_tree *tree, const char *out_path, bool merged, const uint8_t subject[LFS_ID_SIZE],
		   const struct lfs_content *extra, size_t extra_count, struct lfs_tree_stats *stats, struct lfs_error *error)
{
	struct lfs_layout layout = {.tree = tree, .merged = merged};
	lfs_tree_bury(tree);
	int rc = merged ? 0 : lfs_tree_settle(tree);
	if (rc < 0)
		return lfs_fail(error, rc, rc == -ENOMEM ? "out of memory" : "too many files in one tree");
	rc = lfs_layout_make(&layout, extra, extra_count, error);
	if (!rc)
		rc = create_file(&layout, out_path, subject, error);
	if (!rc && stats)
		*stats = layout.stats;
	lfs_layout_free(&layout);
	return rc;
}
