/* Drives the tree functions of core from a script on standard input, for tests: one command a line, words split by
 * spaces, bytes as %XX where needed. The first error is printed as "error ERRNO TEXT" and ends the run with status 1.
 *
 *   put PATH mode=OCTAL [uid= gid= mtime= nsec= dev=MAJOR:MINOR target= x:NAME=VALUE pack=ID:BLOCK:SIZE:HEX object=SIZE:HEX]
 *   link PATH TARGET | whiteout DIRECTORY NAME | opaque DIRECTORY | extra pack=... | extra object=...
 *   write OUT layer|merged HEX     prints the stats; a new tree starts
 *   many N DIRECTORY               N packed files, for timings
 *   merge OUT HEX PATH... | remap IN OUT OLD:BLOCK:NEWBLOCK:NEW... | verify PATH | dump PATH
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "layerfs.h"

#define WORDS 4096

static struct lfs_tree *tree;
static struct lfs_content *extra;
static size_t extra_count;
static struct lfs_error error;

static struct lfs_bytes unescape(char *word)
{
	char *out = word, *at = word;
	while (*at) {
		unsigned byte;
		if (*at == '%' && sscanf(at + 1, "%2x", &byte) == 1)
			*out++ = (char)byte, at += 3;
		else
			*out++ = *at++;
	}
	return (struct lfs_bytes){word, (size_t)(out - word)};
}

static void parse_hex(const char *text, uint8_t out[LFS_ID_SIZE])
{
	memset(out, 0, LFS_ID_SIZE);
	for (unsigned i = 0, byte; i < LFS_ID_SIZE && sscanf(text + 2 * i, "%2x", &byte) == 1; i++)
		out[i] = (uint8_t)byte;
}

static void parse_content(char *word, struct lfs_content *content)
{
	char hex[65] = "";
	*content = (struct lfs_content){0};
	unsigned long long pack, size;
	if (sscanf(word, "pack=%llx:%u:%llu:%64s", &pack, &content->block, &size, hex) == 4)
		content->kind = LFS_KIND_PACK, content->pack = pack, content->size = size;
	else if (sscanf(word, "object=%llu:%64s", &size, hex) == 2)
		content->kind = LFS_KIND_OBJECT, content->size = size;
	parse_hex(hex, content->identity);
}

static int run_put(char **words, int count)
{
	static struct lfs_xattr xattrs[WORDS];
	struct lfs_attr attr = {.mode = S_IFREG | 0644, .xattrs = xattrs};
	struct lfs_content content = {0};
	struct lfs_bytes target = {"", 0};
	for (int i = 2; i < count; i++) {
		char *word = words[i], *value = strchr(word, '=');
		if (!value)
			continue;
		value++;
		if (!strncmp(word, "x:", 2)) {
			value[-1] = 0;
			xattrs[attr.xattr_count].name = unescape(word + 2);
			xattrs[attr.xattr_count++].value = unescape(value);
		} else if (!strncmp(word, "mode=", 5))
			attr.mode = (uint32_t)strtoul(value, NULL, 8);
		else if (!strncmp(word, "uid=", 4))
			attr.uid = (uint32_t)strtoul(value, NULL, 10);
		else if (!strncmp(word, "gid=", 4))
			attr.gid = (uint32_t)strtoul(value, NULL, 10);
		else if (!strncmp(word, "mtime=", 6))
			attr.mtime = strtoll(value, NULL, 10);
		else if (!strncmp(word, "nsec=", 5))
			attr.mtime_nsec = (uint32_t)strtoul(value, NULL, 10);
		else if (!strncmp(word, "dev=", 4))
			sscanf(value, "%u:%u", &attr.major, &attr.minor);
		else if (!strncmp(word, "target=", 7))
			target = unescape(value);
		else
			parse_content(word, &content);
	}
	return lfs_tree_put(tree, unescape(words[1]), &attr, content.kind ? &content : NULL, target, &error);
}

static int run_many(unsigned long count, const char *directory)
{
	for (unsigned long i = 0; i < count; i++) {
		char path[300];
		struct lfs_attr attr = {.mode = S_IFREG | 0644, .mtime = (int64_t)i};
		struct lfs_content content = {.kind = LFS_KIND_PACK, .pack = 7, .block = (uint32_t)i, .size = 1 + i % 4096};
		memcpy(content.identity, &i, sizeof i);
		content.identity[31] = 1;
		int size = snprintf(path, sizeof path, "%s/d%03lu/name-of-a-file-%07lu", directory, i / 1000, i * 7919 % count);
		int rc = lfs_tree_put(tree, (struct lfs_bytes){path, (size_t)size}, &attr, &content, (struct lfs_bytes){"", 0}, &error);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int print_stats(int rc, const struct lfs_tree_stats *stats)
{
	if (!rc)
		printf("stats %llu %llu %llu\n", (unsigned long long)stats->entries, (unsigned long long)stats->content_size,
		       (unsigned long long)stats->unresolved_links);
	return rc;
}

static int run_write(char **words)
{
	struct lfs_tree_stats stats;
	uint8_t subject[LFS_ID_SIZE];
	parse_hex(words[3], subject);
	int rc = lfs_tree_write(tree, words[1], !strcmp(words[2], "merged"), subject, extra, extra_count, &stats, &error);
	lfs_tree_free(tree);
	extra_count = 0;
	if (lfs_tree_new(&tree) < 0)
		abort();
	return print_stats(rc, &stats);
}

static int run_merge(char **words, int count)
{
	struct lfs_tree_stats stats;
	uint8_t subject[LFS_ID_SIZE];
	parse_hex(words[2], subject);
	return print_stats(lfs_merge((const char *const *)words + 3, (size_t)count - 3, words[1], subject, &stats, &error), &stats);
}

static int run_remap(char **words, int count)
{
	static struct lfs_move moves[WORDS];
	size_t used = 0;
	for (int i = 3; i < count; i++) {
		unsigned long long old, new;
		struct lfs_move *move = &moves[used++];
		sscanf(words[i], "%llx:%u:%u:%llx", &old, &move->old_block, &move->new_block, &new);
		move->old_pack = old, move->new_pack = new;
	}
	return lfs_remap(words[1], words[2], moves, used, &error);
}

/* --- dump --- */

static void print_bytes(struct lfs_bytes bytes)
{
	const unsigned char *at = bytes.data;
	for (size_t i = 0; i < bytes.size; i++) {
		if (at[i] > ' ' && at[i] < 127 && at[i] != '%')
			putchar(at[i]);
		else
			printf("%%%02x", at[i]);
	}
}

static int print_xattrs(const struct lfs_image *image, const struct lfs_inode *inode)
{
	char name[LFS_NAME_MAX + 32];
	struct lfs_bytes value;
	int rc;
	for (size_t i = 0; !(rc = lfs_image_xattr(image, inode, i, name, &value)); i++) {
		printf(" x:");
		print_bytes((struct lfs_bytes){name, strlen(name)});
		putchar('=');
		print_bytes(value);
	}
	return rc == -ENODATA ? 0 : rc;
}

static int print_inode(const struct lfs_image *image, const char *path, const struct lfs_inode *inode)
{
	printf("%s mode=%o uid=%u gid=%u size=%llu mtime=%lld nsec=%u ino=%u nlink=%u", *path ? path : ".", inode->mode, inode->uid,
	       inode->gid, (unsigned long long)inode->size, (long long)inode->mtime, inode->mtime_nsec, inode->ino, inode->nlink);
	int rc = 0;
	if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode))
		printf(" dev=%u:%u", inode->major, inode->minor);
	if (S_ISLNK(inode->mode)) {
		struct lfs_bytes target;
		if ((rc = lfs_image_readlink(image, inode, &target)) < 0)
			return rc;
		printf(" target=");
		print_bytes(target);
	}
	if (S_ISREG(inode->mode) && inode->size) {
		struct lfs_content content;
		if ((rc = lfs_image_content(image, inode, &content)) < 0)
			return rc;
		if (content.kind == LFS_KIND_PACK)
			printf(" pack=%llx:%u", (unsigned long long)content.pack, content.block);
		else
			printf(" object");
		printf(" identity=");
		for (unsigned i = 0; i < LFS_ID_SIZE; i++)
			printf("%02x", content.identity[i]);
	}
	rc = print_xattrs(image, inode);
	putchar('\n');
	return rc;
}

struct listing {
	const struct lfs_image *image;
	const struct lfs_inode *directory;
	const char *path;
	int depth;
};

static int dump_directory(const struct lfs_image *image, const struct lfs_inode *directory, const char *path, int depth);

static int dump_entry(void *context, uint64_t position, const struct lfs_dirent *entry)
{
	struct listing *listing = context;
	uint64_t nid;
	uint8_t type;
	struct lfs_inode inode;
	int rc = lfs_image_lookup(listing->image, listing->directory, entry->name, &nid, &type);
	if (rc < 0 || nid != entry->nid || type != entry->type)
		return rc < 0 ? rc : -EIO;
	if ((rc = lfs_image_inode(listing->image, nid, &inode)) < 0)
		return rc;
	const char *text = entry->name.data;
	if (*text == '.' && (entry->name.size == 1 || (entry->name.size == 2 && text[1] == '.')))
		return 0;
	char *path, *name = calloc(1, 3 * entry->name.size + 1), *at = name;
	for (size_t i = 0; i < entry->name.size; i++)
		at += (unsigned char)text[i] > ' ' && text[i] < 127 && text[i] != '%' ? sprintf(at, "%c", text[i])
										      : sprintf(at, "%%%02x", (unsigned char)text[i]);
	if (asprintf(&path, "%s%s%s", listing->path, *listing->path ? "/" : "", name) < 0)
		abort();
	rc = print_inode(listing->image, path, &inode);
	if (!rc && S_ISDIR(inode.mode) && listing->depth < 1000)
		rc = dump_directory(listing->image, &inode, path, listing->depth + 1);
	free(name);
	free(path);
	return rc;
}

static int dump_directory(const struct lfs_image *image, const struct lfs_inode *directory, const char *path, int depth)
{
	struct listing listing = {image, directory, path, depth};
	return lfs_image_readdir(image, directory, 0, dump_entry, &listing);
}

static int run_image(const char *path, bool dump)
{
	struct lfs_image image;
	struct lfs_inode root;
	int rc = lfs_image_open(path, &image, &error);
	if (rc < 0)
		return rc;
	if (!dump)
		rc = lfs_image_verify(&image, &error);
	else if (!(rc = lfs_image_inode(&image, LFS_ROOT_NID, &root)) && !(rc = print_inode(&image, "", &root)))
		rc = dump_directory(&image, &root, "", 0);
	lfs_image_close(&image);
	return rc;
}

static int run(char **words, int count)
{
	if (!strcmp(words[0], "put"))
		return run_put(words, count);
	if (!strcmp(words[0], "link"))
		return lfs_tree_link(tree, unescape(words[1]), unescape(words[2]), &error);
	if (!strcmp(words[0], "whiteout"))
		return lfs_tree_whiteout(tree, unescape(words[1]), unescape(words[2]), &error);
	if (!strcmp(words[0], "opaque"))
		return lfs_tree_opaque(tree, unescape(words[1]), &error);
	if (!strcmp(words[0], "write"))
		return run_write(words);
	if (!strcmp(words[0], "many"))
		return run_many(strtoul(words[1], NULL, 10), words[2]);
	if (!strcmp(words[0], "merge"))
		return run_merge(words, count);
	if (!strcmp(words[0], "remap"))
		return run_remap(words, count);
	if (!strcmp(words[0], "verify") || !strcmp(words[0], "dump"))
		return run_image(words[1], words[0][0] == 'd');
	if (!strcmp(words[0], "extra")) {
		extra = realloc(extra, (extra_count + 1) * sizeof *extra);
		parse_content(words[1], &extra[extra_count++]);
		return 0;
	}
	return lfs_fail(&error, -EINVAL, "unknown command %s", words[0]);
}

int main(int argc, char **argv)
{
	bool timed = argc > 1 && !strcmp(argv[1], "-t");
	char *line = NULL, *words[WORDS];
	size_t room = 0;
	int rc = lfs_tree_new(&tree);
	while (!rc && getline(&line, &room, stdin) > 0) {
		int count = 0;
		line[strcspn(line, "\n")] = 0;
		for (char *at = line, *word; count < WORDS - 1 && (word = strsep(&at, " "));)
			words[count++] = word;
		words[count] = NULL;
		struct timespec start, end;
		clock_gettime(CLOCK_MONOTONIC, &start);
		rc = *words[0] ? run(words, count) : 0;
		clock_gettime(CLOCK_MONOTONIC, &end);
		if (timed)
			fprintf(stderr, "%s %.1f ms\n", words[0],
				(double)(end.tv_sec - start.tv_sec) * 1e3 + (double)(end.tv_nsec - start.tv_nsec) / 1e6);
	}
	if (rc < 0)
		printf("error %d %s\n", -rc, error.text);
	lfs_tree_free(tree);
	free(extra);
	free(line);
	return rc < 0;
}
