/* Feeds the layer reader: a libFuzzer target, and with FUZZ_MAIN a program that runs files of a corpus.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -Ilayerfs_native/include layerfs_native/fuzz/fuzz_tar.c layerfs_native/core/[!.]*.c -pthread
 *   gcc -g -O1 -fsanitize=address,undefined -DFUZZ_MAIN ...
 *
 * The first two bytes choose how the archive is cut into feeds and whether the store knows the contents; checksums of
 * header blocks are put right, since mutations would rarely get past them. What it writes goes to a directory in /dev/shm. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layerfs.h"

static char directory[64];
static int directory_fd = -1;

static int lookup(void *context, const uint8_t *identities, size_t count, uint8_t *values)
{
	const uint8_t *mode = context;
	for (size_t i = 0; i < count; i++) /* unknown; the failure of an index now and then */
		if (*mode & 0x40 && identities[LFS_ID_SIZE * i] == 0)
			return -EIO;
	return 0;
}

static void clean_up(void)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf %s", directory);
	if (system(command) != 0)
		fprintf(stderr, "cannot remove %s\n", directory);
}

static void set_up(void)
{
	snprintf(directory, sizeof directory, "/dev/shm/layerfs-fuzz-XXXXXX");
	if (!mkdtemp(directory) || (directory_fd = open(directory, O_RDONLY | O_DIRECTORY)) < 0)
		abort();
	atexit(clean_up);
}

static void fix_checksums(uint8_t *tar, size_t size)
{
	for (size_t at = 0; at + 512 <= size; at += 512) {
		uint8_t *block = tar + at;
		unsigned sum = 0;
		if (memcmp(block + 257, "ustar", 5) != 0 && memcmp(block + 148, "sum!", 4) != 0)
			continue;
		memset(block + 148, ' ', 8);
		for (int i = 0; i < 512; i++)
			sum += block[i];
		char text[8];
		snprintf(text, sizeof text, "%06o", sum);
		memcpy(block + 148, text, 7);
	}
}

static void check_tree(const char *path)
{
	struct lfs_image image;
	struct lfs_error error = {""};
	if (lfs_image_open(path, &image, &error) < 0 || lfs_image_verify(&image, &error) < 0) {
		fprintf(stderr, "our own tree is not sound: %s\n", error.text);
		abort();
	}
	lfs_image_close(&image);
}

static void run(const uint8_t *data, size_t size, uint8_t mode)
{
	char tree[96];
	LFS_AUTO_FD pack = openat(directory_fd, "pack", O_RDWR | O_CREAT | O_TRUNC, 0600);
	struct lfs_ingest_config config = {.pack_fd = pack, .objects_fd = directory_fd, .pack_id = 1, .max_entries = 10000,
					   .max_file_size = 1ull << 40, .lookup = lookup, .context = &mode};
	struct lfs_ingest_result result;
	struct lfs_ingest *ingest = NULL;
	struct lfs_error error = {""};
	size_t step = mode & 0x80 ? (mode & 0x3f) + 1 : (size_t)((mode & 0x3f) + 1) * 512;
	snprintf(tree, sizeof tree, "%s/tree", directory);
	unlink(tree);
	if (lfs_ingest_new(&config, &ingest) < 0)
		abort();
	int rc = 0;
	for (size_t at = 0; rc == 0 && at < size; at += step) {
		rc = lfs_ingest_feed(ingest, data + at, size - at < step ? size - at : step, &error);
		lfs_ingest_split(ingest);
	}
	if (rc == 0)
		rc = lfs_ingest_finish(ingest, tree, &result, &error);
	if (rc == 0)
		check_tree(tree);
	else if (!error.text[0] && rc != -ENOMEM && rc != -EIO)
		abort(); /* an error without a word */
	lfs_ingest_free(ingest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (directory_fd < 0)
		set_up();
	if (size < 2)
		return 0;
	uint8_t *tar = malloc(size);
	if (!tar)
		return 0;
	memcpy(tar, data + 2, size - 2);
	if (data[1] & 1)
		fix_checksums(tar, size - 2);
	run(tar, size - 2, data[0]);
	free(tar);
	return 0;
}

#ifdef FUZZ_MAIN
int main(int count, char **names)
{
	for (int i = 1; i < count; i++) {
		static uint8_t data[1 << 24];
		FILE *file = fopen(names[i], "rb");
		size_t size = file ? fread(data + 2, 1, sizeof data - 2, file) : 0;
		if (file)
			fclose(file);
		for (int mode = 0; mode < 256; mode += 85) {
			data[0] = (uint8_t)mode;
			LLVMFuzzerTestOneInput(data, size + 2);
		}
	}
	return 0;
}
#endif
