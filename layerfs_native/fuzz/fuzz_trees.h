/* What the fuzzers of trees share: scratch paths, and building trees from bytes. */
#ifndef LFS_FUZZ_TREES_H
#define LFS_FUZZ_TREES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "layerfs.h"

struct input {
	const uint8_t *at, *end;
};

static inline unsigned take(struct input *input)
{
	return input->at < input->end ? *input->at++ : 0;
}

static inline const char *scratch(unsigned number)
{
	static char paths[16][64];
	snprintf(paths[number], sizeof *paths, "/dev/shm/layerfs-fuzz-%d-%u", (int)getpid(), number);
	unlink(paths[number]);
	return paths[number];
}

static inline void remove_scratch(void)
{
	for (unsigned i = 0; i < 16; i++)
		scratch(i);
}

/* A short path of few names, so that entries meet. */
static inline struct lfs_bytes take_path(struct input *input, char *buffer, bool dots)
{
	static const char *const names[] = {"a", "b", "c", "s", "d", "", "..", "."};
	unsigned choice = take(input), parts = choice % 5;
	size_t size = 0;
	if (dots && choice & 0x80)
		buffer[size++] = '/';
	for (unsigned i = 0; i < parts; i++) {
		const char *name = names[take(input) % (dots ? 8 : 5)];
		size += (size_t)sprintf(buffer + size, "%s%s", i ? "/" : "", name);
	}
	return (struct lfs_bytes){buffer, size};
}

static inline void take_content(struct input *input, struct lfs_content *content)
{
	unsigned choice = take(input);
	memset(content, 0, sizeof *content);
	content->kind = choice % 3;
	content->identity[0] = (uint8_t)choice;
	content->pack = choice >> 5;
	content->block = choice * 32;
	content->size = content->kind == LFS_KIND_OBJECT ? (uint64_t)(1 + choice) << (take(input) % 37) : 1 + choice * 500u;
}

static inline int take_put(struct input *input, struct lfs_tree *tree)
{
	static const uint32_t types[8] = {S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFCHR, S_IFIFO, S_IFBLK};
	static const char *const names[] = {"user.a", "trusted.b", "trusted.zz", "security.c", "system.posix_acl_access", "user.", "trusted.overlay.opaque"};
	char path[64], target[64];
	struct lfs_xattr xattrs[4];
	struct lfs_content content;
	struct lfs_attr attr = {.mode = types[take(input) % 8] | 0644, .major = 1, .minor = take(input), .xattrs = xattrs};
	struct lfs_bytes where = take_path(input, path, false), to = {target, 0};
	attr.mtime = (int8_t)take(input);
	attr.xattr_count = take(input) % 5;
	for (size_t i = 0; i < attr.xattr_count; i++) {
		const char *name = names[take(input) % 7];
		xattrs[i] = (struct lfs_xattr){{name, strlen(name)}, {path, take(input) % sizeof path}};
	}
	memset(path + where.size, 'v', sizeof path - where.size);
	take_content(input, &content);
	if (S_ISLNK(attr.mode))
		to = take_path(input, target, true);
	return lfs_tree_put(tree, where, &attr, &content, to, NULL);
}

static inline int take_step(struct input *input, struct lfs_tree *tree)
{
	char one[64], other[64];
	struct lfs_bytes path, name;
	switch (take(input) % 8) {
	default:
		return take_put(input, tree);
	case 5:
		path = take_path(input, one, false);
		return lfs_tree_link(tree, path, take_path(input, other, false), NULL);
	case 6:
		path = take_path(input, one, false);
		name = (struct lfs_bytes){other, 1};
		other[0] = (char)('a' + take(input) % 4);
		return lfs_tree_whiteout(tree, path, name, NULL);
	case 7:
		return lfs_tree_opaque(tree, take_path(input, one, false), NULL);
	}
}

/* A layer tree from some of the input, in a file. */
static inline bool take_layer(struct input *input, const char *path)
{
	static const uint8_t subject[LFS_ID_SIZE] = {1};
	struct lfs_tree *tree;
	struct lfs_content extra[2];
	unsigned steps = 1 + take(input) % 24, extras = take(input) % 3;
	if (lfs_tree_new(&tree) < 0)
		abort();
	bool good = true;
	for (unsigned i = 0; i < steps && input->at < input->end; i++)
		good = take_step(input, tree) >= 0 && good;
	for (unsigned i = 0; i < extras; i++) {
		take_content(input, &extra[i]);
		extra[i].size = 1 + extra[i].size % LFS_PACK_MAX;
	}
	struct lfs_error error;
	if (lfs_tree_write(tree, path, false, subject, extra, extras, NULL, &error) < 0)
		abort(); /* also after refused entries the tree is whole */
	lfs_tree_free(tree);
	return true;
}

static inline void must_verify(const char *path)
{
	struct lfs_image image;
	struct lfs_error error = {""};
	if (lfs_image_open(path, &image, &error) < 0 || lfs_image_verify(&image, &error) < 0) {
		fprintf(stderr, "%s: %s\n", path, error.text);
		abort();
	}
	lfs_image_close(&image);
}

#endif
