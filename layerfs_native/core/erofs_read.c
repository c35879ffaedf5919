/* Reads tree files from a map. Nothing in the file is trusted: every offset is checked where it is used, and inodes once, when
 * they are read, so a struct lfs_inode that lfs_image_inode() filled may be used as it is. Lookups allocate nothing. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "erofs_format.h"
#include "erofs_read.h"

/* --- opening --- */

static bool front_is_sound(struct lfs_image *image)
{
	const uint8_t *super = image->base + EROFS_SUPER_AT;
	uint32_t incompat = lfs_get32(super + EROFS_SB_INCOMPAT);
	image->table = lfs_get64(image->base + LFS_HEADER_AT_TABLE);
	image->table_count = lfs_get64(image->base + LFS_HEADER_AT_TABLE_COUNT);
	image->meta = (uint64_t)lfs_get32(super + EROFS_SB_META) * LFS_BLOCK;
	image->devices = lfs_get16(super + EROFS_SB_DEVICES);
	return lfs_get32(super + EROFS_SB_MAGIC) == EROFS_MAGIC && super[EROFS_SB_BLOCK_BITS] == EROFS_BLOCK_BITS &&
	       lfs_get16(super + EROFS_SB_ROOT_NID) == LFS_ROOT_NID &&
	       incompat == (EROFS_INCOMPAT_CHUNKED | (image->devices ? EROFS_INCOMPAT_DEVICES : 0)) &&
	       lfs_get32(super + EROFS_SB_BLOCKS) == image->size / LFS_BLOCK &&
	       image->meta >= EROFS_DEVICES_AT + (uint64_t)EROFS_DEVICE_SIZE * image->devices && image->table % LFS_BLOCK == 0 &&
	       image->meta < image->table && image->table <= image->size &&
	       image->table_count <= (image->size - image->table) / LFS_ID_SIZE;
}

static int read_front(struct lfs_image *image, struct lfs_error *error)
{
	struct lfs_inode root;
	if (memcmp(image->base, LFS_HEADER_MAGIC, 8))
		return lfs_fail(error, -EIO, "not a tree file");
	if (lfs_get32(image->base + LFS_HEADER_AT_VERSION) != LFS_HEADER_VERSION)
		return lfs_fail(error, -EPROTONOSUPPORT, "tree file of another format version");
	uint32_t kind = lfs_get32(image->base + LFS_HEADER_AT_KIND);
	image->merged = kind == 2;
	memcpy(image->subject, image->base + LFS_HEADER_AT_SUBJECT, LFS_ID_SIZE);
	if ((kind != 1 && kind != 2) || !front_is_sound(image) || lfs_image_inode(image, LFS_ROOT_NID, &root) < 0 || !S_ISDIR(root.mode))
		return lfs_fail(error, -EIO, "damaged tree file");
	return 0;
}

int lfs_image_open(const char *path, struct lfs_image *image, struct lfs_error *error)
{
	struct stat status;
	LFS_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		return lfs_fail(error, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size < 2 * (off_t)LFS_BLOCK || status.st_size % LFS_BLOCK)
		return lfs_fail(error, -EIO, "%s: not a tree file", path);
	*image = (struct lfs_image){.size = (uint64_t)status.st_size};
	void *map = mmap(NULL, image->size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return lfs_fail(error, -errno, "%s: %s", path, strerror(errno));
	image->base = map;
	int rc = read_front(image, error);
	if (rc < 0)
		lfs_image_close(image);
	return rc;
}

void lfs_image_close(struct lfs_image *image)
{
	if (image->base)
		munmap((void *)image->base, image->size);
	image->base = NULL;
}

/* --- inodes --- */

static bool in_data(const struct lfs_image *image, uint64_t block, uint64_t count)
{
	uint64_t end = image->table / LFS_BLOCK;
	return block >= image->meta / LFS_BLOCK && block <= end && count <= end - block;
}

/* Directories and symlinks: whole blocks elsewhere, perhaps a tail here. */
static bool bytes_are_inside(const struct lfs_image *image, const struct lfs_inode *inode)
{
	uint64_t blocks = inode->size / LFS_BLOCK + (inode->size % LFS_BLOCK != 0);
	if (!inode->size || inode->size > image->size)
		return false;
	if (inode->layout == EROFS_PLAIN)
		return in_data(image, inode->raw_block, blocks);
	uint64_t tail = inode->size - (blocks - 1) * LFS_BLOCK;
	return inode->layout == EROFS_INLINE && tail <= image->table - inode->tail_offset &&
	       (blocks == 1 || in_data(image, inode->raw_block, blocks - 1));
}

static bool chunks_are_inside(const struct lfs_image *image, const struct lfs_inode *inode)
{
	unsigned bits = inode->raw_block & 0x1f;
	if (inode->layout == EROFS_PLAIN)
		return inode->size == 0;
	return inode->layout == EROFS_CHUNKED && inode->size && inode->size <= INT64_MAX &&
	       (inode->raw_block & ~0x1fu) == EROFS_CHUNK_INDEXES &&
	       lfs_chunk_count(inode->size, bits) <= (image->table - inode->tail_offset) / EROFS_CHUNK_INDEX_SIZE;
}

static bool inode_is_sound(const struct lfs_image *image, const struct lfs_inode *inode)
{
	switch (inode->mode & S_IFMT) {
	case S_IFDIR:
		return bytes_are_inside(image, inode);
	case S_IFLNK:
		return inode->size < LFS_BLOCK && bytes_are_inside(image, inode);
	case S_IFREG:
		return chunks_are_inside(image, inode);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return inode->layout == EROFS_PLAIN;
	default:
		return false;
	}
}

int lfs_image_inode(const struct lfs_image *image, uint64_t nid, struct lfs_inode *inode)
{
	if (nid >= lfs_image_slots(image) || image->table - (image->meta + nid * EROFS_SLOT) < EROFS_INODE_SIZE)
		return -EIO;
	uint64_t at = image->meta + nid * EROFS_SLOT;
	const uint8_t *raw = image->base + at;
	uint16_t format = lfs_get16(raw + EROFS_I_FORMAT);
	uint32_t xattrs = lfs_get16(raw + EROFS_I_XATTRS), u = lfs_get32(raw + EROFS_I_U);
	inode->nid = nid;
	inode->ino = lfs_get32(raw + EROFS_I_INO);
	inode->mode = lfs_get16(raw + EROFS_I_MODE);
	inode->uid = lfs_get32(raw + EROFS_I_UID);
	inode->gid = lfs_get32(raw + EROFS_I_GID);
	inode->nlink = lfs_get32(raw + EROFS_I_NLINK);
	inode->size = lfs_get64(raw + EROFS_I_SIZE);
	inode->mtime = (int64_t)lfs_get64(raw + EROFS_I_MTIME);
	inode->mtime_nsec = lfs_get32(raw + EROFS_I_MTIME_NSEC);
	inode->layout = format >> 1 & 7;
	inode->raw_block = u;
	inode->major = inode->minor = 0;
	if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode)) {
		inode->major = u >> 8 & 0xfff;
		inode->minor = (u & 0xff) | (u >> 12 & 0xfff00);
	}
	inode->xattr_offset = at + EROFS_INODE_SIZE + (xattrs ? EROFS_XATTR_HEADER : 0);
	inode->xattr_size = xattrs ? (xattrs - 1) * 4 : 0;
	inode->tail_offset = inode->xattr_offset + inode->xattr_size;
	if (inode->layout == EROFS_CHUNKED)
		inode->tail_offset = lfs_round_up(inode->tail_offset, EROFS_CHUNK_INDEX_SIZE);
	if ((format & ~0xeu) != 1 || inode->tail_offset > image->table || inode->mtime_nsec > 999999999 || !inode_is_sound(image, inode))
		return -EIO;
	return 0;
}

int lfs_image_readlink(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_bytes *target)
{
	if (!S_ISLNK(inode->mode))
		return -EINVAL;
	uint64_t at = inode->layout == EROFS_INLINE ? inode->tail_offset : (uint64_t)inode->raw_block * LFS_BLOCK;
	*target = (struct lfs_bytes){image->base + at, inode->size};
	return memchr(target->data, 0, target->size) ? -EIO : 0;
}

int lfs_image_content(const struct lfs_image *image, const struct lfs_inode *inode, struct lfs_content *content)
{
	*content = (struct lfs_content){.size = inode->size};
	if (!S_ISREG(inode->mode))
		return -EINVAL;
	if (!inode->size)
		return 0;
	if (!inode->ino || inode->ino > image->table_count)
		return -EIO;
	static const uint8_t nothing[LFS_ID_SIZE];
	const uint8_t *identity = image->base + image->table + (uint64_t)(inode->ino - 1) * LFS_ID_SIZE;
	if (!memcmp(identity, nothing, LFS_ID_SIZE)) /* padding */
		return -EIO;
	memcpy(content->identity, identity, LFS_ID_SIZE);
	const uint8_t *index = image->base + inode->tail_offset;
	uint32_t device = lfs_get16(index + 2);
	content->kind = LFS_KIND_OBJECT;
	content->block = lfs_get32(index + 4);
	if (content->block == EROFS_NO_BLOCK) {
		content->block = 0;
		return 0;
	}
	if (!device || device > image->devices || inode->size > LFS_PACK_MAX || (inode->raw_block & 0x1f) > 5 ||
	    content->block > UINT32_MAX - 1 - LFS_PACK_MAX / LFS_BLOCK)
		return -EIO;
	content->kind = LFS_KIND_PACK;
	const uint8_t *tag = image->base + EROFS_DEVICES_AT + (uint64_t)(device - 1) * EROFS_DEVICE_SIZE;
	for (unsigned i = 0; i < 16; i++) {
		unsigned digit = tag[i] >= 'a' && tag[i] <= 'f' ? tag[i] - 'a' + 10u : tag[i] - (unsigned)'0';
		if (digit > 15)
			return -EIO;
		content->pack = content->pack << 4 | digit;
	}
	return 0;
}
