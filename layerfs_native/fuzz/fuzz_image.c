/* libFuzzer: hostile tree files. A sound tree is built from the first half of the input, the second half overwrites bytes of it
 * (3 bytes each: where, what); its checksums are put right again, and everything that reads trees is run on it.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude core/{tree,erofs_,merge,remap,xxh64,crc32c,error}*.c fuzz/fuzz_image.c
 */
#include <fcntl.h>

#include "../core/erofs_format.h"
#include "fuzz_trees.h"

static void fix_checksums(uint8_t *file, size_t size)
{
	struct lfs_xxh64 hash;
	lfs_set32(file + EROFS_SUPER_AT + EROFS_SB_CHECKSUM, 0);
	lfs_set32(file + EROFS_SUPER_AT + EROFS_SB_CHECKSUM,
		  lfs_crc32c(UINT32_MAX, file + EROFS_SUPER_AT, LFS_BLOCK - EROFS_SUPER_AT));
	lfs_xxh64_init(&hash);
	lfs_xxh64_update(&hash, file + EROFS_SUPER_AT, size - EROFS_SUPER_AT);
	lfs_set64(file + LFS_HEADER_AT_XXH64, lfs_xxh64_final(&hash));
}

static void damage(const char *from, const char *to, struct input *input)
{
	static uint8_t file[1 << 20];
	int fd = open(from, O_RDONLY);
	ssize_t size = read(fd, file, sizeof file);
	close(fd);
	if (size < 2 * (ssize_t)LFS_BLOCK)
		abort();
	while (input->end - input->at >= 3) {
		unsigned where = take(input) << 8 | take(input);
		file[where < 0x100 ? where % LFS_HEADER_SIZE
		     : where < 0x400 ? EROFS_SUPER_AT + where % 256
				     : (LFS_BLOCK + where) % (size_t)size] = (uint8_t)take(input);
	}
	fix_checksums(file, (size_t)size);
	fd = open(to, O_WRONLY | O_CREAT, 0600);
	if (write(fd, file, (size_t)size) != size)
		abort();
	close(fd);
}

struct walk {
	const struct lfs_image *image;
	const struct lfs_inode *directory;
	unsigned left;
	uint64_t sum;
};

static void read_inode(struct walk *walk, uint64_t nid)
{
	struct lfs_inode inode;
	struct lfs_bytes bytes;
	struct lfs_content content;
	char name[LFS_NAME_MAX + 32];
	if (lfs_image_inode(walk->image, nid, &inode) < 0)
		return;
	if (lfs_image_readlink(walk->image, &inode, &bytes) == 0)
		for (size_t i = 0; i < bytes.size; i++)
			walk->sum += ((const uint8_t *)bytes.data)[i];
	if (lfs_image_content(walk->image, &inode, &content) == 0)
		walk->sum += content.size + content.identity[31];
	for (size_t i = 0; lfs_image_xattr(walk->image, &inode, i, name, &bytes) == 0; i++)
		walk->sum += strlen(name) + (bytes.size ? *(const uint8_t *)bytes.data : 0);
}

static int read_entry(void *context, uint64_t position, const struct lfs_dirent *entry)
{
	struct walk *walk = context;
	uint64_t nid;
	uint8_t type;
	lfs_image_lookup(walk->image, walk->directory, entry->name, &nid, &type);
	read_inode(walk, entry->nid);
	(void)position;
	return !--walk->left;
}

static void read_all(const char *path)
{
	struct lfs_image image;
	struct lfs_error error;
	if (lfs_image_open(path, &image, &error) < 0)
		return;
	lfs_image_verify(&image, &error);
	struct walk walk = {.image = &image, .left = 2000};
	for (uint64_t nid = 0; nid < image.size / 32 && walk.left; nid++) {
		struct lfs_inode inode;
		if (lfs_image_inode(&image, nid, &inode) < 0 || !S_ISDIR(inode.mode))
			continue;
		walk.directory = &inode;
		lfs_image_readdir(&image, &inode, 0, read_entry, &walk);
		lfs_image_readdir(&image, &inode, walk.sum, read_entry, &walk);
		uint8_t type;
		lfs_image_lookup(&image, &inode, (struct lfs_bytes){"", 0}, &walk.sum, &type);
	}
	lfs_image_close(&image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t subject[LFS_ID_SIZE] = {2};
	static const struct lfs_move moves[] = {{.old_pack = 1, .old_block = 32, .new_block = 5, .new_pack = 9}};
	struct input first = {data, data + size / 2}, second = {data + size / 2, data + size};
	const char *sound = scratch(0), *bad = scratch(1), *out = scratch(2);
	take_layer(&first, sound);
	damage(sound, bad, &second);
	read_all(bad);
	if (lfs_remap(bad, out, moves, 1, NULL) == 0)
		read_all(out);
	const char *above[2] = {sound, bad}, *below[2] = {bad, sound}, *merged = scratch(3);
	if (lfs_merge(above, 2, merged, subject, NULL, NULL) == 0)
		must_verify(merged); /* whatever was read, what is written is sound */
	merged = scratch(4);
	if (lfs_merge(below, 2, merged, subject, NULL, NULL) == 0)
		must_verify(merged);
	remove_scratch();
	return 0;
}
