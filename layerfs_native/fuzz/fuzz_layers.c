/* libFuzzer: layers built from any steps are written, verified, remapped and merged; whatever comes out must verify.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude core/{tree,erofs_,merge,remap,xxh64,crc32c,error}*.c fuzz/fuzz_layers.c
 */
#include "fuzz_trees.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t subject[LFS_ID_SIZE] = {2};
	static const struct lfs_move moves[] = {{.old_pack = 1, .old_block = 32, .new_block = 5, .new_pack = 9}};
	struct input input = {data, data + size};
	const char *paths[4];
	size_t count = 1 + take(&input) % 4;
	for (size_t i = 0; i < count; i++) {
		paths[i] = scratch((unsigned)i);
		take_layer(&input, paths[i]);
		must_verify(paths[i]);
	}
	const char *merged = scratch(8), *moved = scratch(9);
	if (lfs_remap(paths[0], moved, moves, 1, NULL) < 0)
		abort();
	must_verify(moved);
	if (lfs_merge(paths, count, merged, subject, NULL, NULL) == 0) {
		must_verify(merged);
		const char *again[2] = {merged, paths[0]}, *out = scratch(10);
		if (lfs_merge(again, 2, out, subject, NULL, NULL) == 0)
			must_verify(out);
	}
	remove_scratch();
	return 0;
}
