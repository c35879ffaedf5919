/* Hard links of lower inodes: at which names of the union an inode is still visible. The tree knows its names below; each is looked for
 * at the same path, and in every directory that was moved and took it along. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

#define DEPTH_MAX 2048 /* a path has at most 4095 bytes */

void lfs_spots_free(struct lfs_server *server, struct lfs_spots *spots)
{
	for (size_t i = 0; i < spots->count; i++) {
		lfs_node_put(server, spots->items[i].dir);
		free(spots->items[i].name);
	}
	free(spots->items);
	*spots = (struct lfs_spots){0};
}

static int add_spot(struct lfs_spots *spots, struct lfs_node *dir, struct lfs_bytes name)
{
	for (size_t i = 0; i < spots->count; i++)
		if (spots->items[i].dir == dir && strlen(spots->items[i].name) == name.size && !memcmp(spots->items[i].name, name.data, name.size))
			return 0;
	if (spots->count == spots->capacity) {
		size_t wider = spots->capacity ? spots->capacity * 2 : 8;
		struct lfs_spot *grown = realloc(spots->items, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		spots->items = grown;
		spots->capacity = wider;
	}
	char *copy = strndup(name.data, name.size);
	if (!copy)
		return -ENOMEM;
	lfs_node_get(dir);
	spots->items[spots->count++] = (struct lfs_spot){dir, copy};
	return 0;
}

/* --- moved directories --- */

void lfs_moves_forget(struct lfs_server *server)
{
	struct lfs_moves moves = server->moves;
	server->moves = (struct lfs_moves){0};
	for (size_t i = 0; i < moves.count; i++)
		lfs_node_put(server, moves.items[i].node);
	free(moves.items);
}

static int add_move(struct lfs_server *server, struct lfs_node *node)
{
	struct lfs_moves *moves = &server->moves;
	if (moves->count == moves->capacity) {
		size_t wider = moves->capacity ? moves->capacity * 2 : 8;
		struct lfs_moved *grown = realloc(moves->items, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		moves->items = grown;
		moves->capacity = wider;
	}
	lfs_node_get(node);
	moves->items[moves->count++] = (struct lfs_moved){node};
	return 0;
}

static bool is_moved(struct lfs_server *server, struct lfs_node *parent, struct lfs_node *node, struct lfs_bytes name)
{
	uint64_t natural;
	return node->low && !(parent->low && lfs_low_child(server, parent->low, name, &natural) == 0 && natural == node->low);
}

struct stack {
	struct lfs_node **items;
	size_t count, capacity;
};

static int push(struct stack *stack, struct lfs_node *node)
{
	if (stack->count == stack->capacity) {
		size_t wider = stack->capacity ? stack->capacity * 2 : 64;
		struct lfs_node **grown = realloc(stack->items, wider * sizeof(struct lfs_node *));
		if (!grown)
			return -ENOMEM;
		stack->items = grown;
		stack->capacity = wider;
	}
	stack->items[stack->count++] = node;
	return 0;
}

static int open_stream(struct lfs_server *server, struct lfs_node *dir, DIR **stream)
{
	int fd = lfs_dir_reopen(server, dir);
	*stream = fd < 0 ? NULL : fdopendir(fd);
	int rc = fd < 0 ? fd : *stream ? 0 : -errno;
	if (!*stream)
		lfs_close_fd(&fd);
	return rc;
}

/* What cannot be looked at shows nothing, but for one who is short of something now: he must not remember that. */
static int unless_short(int rc)
{
	return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM ? rc : 0;
}

static int scan_name(struct lfs_server *server, struct lfs_node *dir, const char *text, struct stack *stack)
{
	struct lfs_bytes name = {text, strlen(text)};
	struct lfs_node *node;
	if (!strcmp(text, ".") || !strcmp(text, ".."))
		return 0;
	int rc = lfs_look(server, dir, name, &node, NULL);
	if (rc < 0)
		return unless_short(rc);
	if (lfs_node_is_dir(node) && node->flags & LFS_HERE) {
		if (is_moved(server, dir, node, name))
			rc = add_move(server, node);
		if (rc >= 0 && (rc = push(stack, node)) >= 0)
			return 0; /* the stack has the reference */
	}
	lfs_node_put(server, node);
	return rc;
}

static int scan_directory(struct lfs_server *server, struct lfs_node *dir, struct stack *stack)
{
	DIR *stream;
	int rc = open_stream(server, dir, &stream);
	if (rc < 0)
		return rc;
	const struct dirent *entry;
	for (errno = 0; rc >= 0 && (entry = readdir(stream)); errno = 0)
		if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN)
			rc = scan_name(server, dir, entry->d_name, stack);
	if (rc >= 0)
		rc = -errno;
	closedir(stream);
	return rc;
}

static int find_moves(struct lfs_server *server)
{
	struct stack stack = {0};
	int rc = 0;
	if (server->moves.known)
		return 0;
	lfs_moves_forget(server);
	if (server->nodes.root->flags & LFS_HERE) {
		lfs_node_get(server->nodes.root);
		rc = push(&stack, server->nodes.root);
	}
	while (stack.count) {
		struct lfs_node *dir = stack.items[--stack.count];
		if (rc >= 0)
			rc = scan_directory(server, dir, &stack);
		lfs_node_put(server, dir);
	}
	free(stack.items);
	server->moves.known = rc >= 0;
	return rc;
}

/* --- names in a frozen layer --- */

void lfs_linked_forget(struct lfs_server *layer)
{
	struct lfs_linked *linked = &layer->linked;
	for (size_t i = 0; i < linked->count; i++) {
		lfs_node_put(layer, linked->items[i].spot.dir);
		free(linked->items[i].spot.name);
	}
	free(linked->items);
	*linked = (struct lfs_linked){0};
}

static int index_entry(struct lfs_server *layer, struct lfs_node *dir, const char *name, const struct stat *status)
{
	struct lfs_linked *linked = &layer->linked;
	if (linked->count == linked->capacity) {
		size_t wider = linked->capacity ? linked->capacity * 2 : 64;
		struct lfs_linked_name *grown = realloc(linked->items, wider * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		linked->items = grown;
		linked->capacity = wider;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	lfs_node_get(dir);
	linked->items[linked->count++] = (struct lfs_linked_name){status->st_ino, {dir, copy}};
	return 0;
}

static int index_name(struct lfs_server *layer, struct lfs_node *dir, int fd, const char *name, struct stack *stack)
{
	struct stat status;
	struct lfs_node *node;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return unless_short(-errno);
	if (!S_ISDIR(status.st_mode))
		return status.st_nlink > 1 && !lfs_is_whiteout(&status) ? index_entry(layer, dir, name, &status) : 0;
	int rc = lfs_look(layer, dir, (struct lfs_bytes){name, strlen(name)}, &node, NULL);
	if (rc < 0)
		return unless_short(rc);
	if ((rc = push(stack, node)) < 0)
		lfs_node_put(layer, node);
	return rc;
}

static int index_directory(struct lfs_server *layer, struct lfs_node *dir, struct stack *stack)
{
	DIR *stream;
	int rc = open_stream(layer, dir, &stream);
	if (rc < 0)
		return rc;
	const struct dirent *entry;
	for (errno = 0; rc >= 0 && (entry = readdir(stream)); errno = 0)
		rc = index_name(layer, dir, dirfd(stream), entry->d_name, stack);
	if (rc >= 0)
		rc = -errno;
	closedir(stream);
	return rc;
}

static int by_inode(const void *a, const void *b)
{
	uint64_t x = ((const struct lfs_linked_name *)a)->ino, y = ((const struct lfs_linked_name *)b)->ino;
	return (x > y) - (x < y);
}

static int make_index(struct lfs_server *layer)
{
	struct stack stack = {0};
	if (layer->linked.known)
		return 0;
	lfs_node_get(layer->nodes.root);
	int rc = push(&stack, layer->nodes.root);
	while (stack.count) {
		struct lfs_node *dir = stack.items[--stack.count];
		if (rc >= 0)
			rc = index_directory(layer, dir, &stack);
		lfs_node_put(layer, dir);
	}
	free(stack.items);
	if (rc < 0)
		lfs_linked_forget(layer);
	else if (layer->linked.count)
		qsort(layer->linked.items, layer->linked.count, sizeof *layer->linked.items, by_inode);
	layer->linked.known = rc >= 0;
	return rc;
}

static size_t first_linked(const struct lfs_linked *linked, uint64_t ino)
{
	size_t low = 0, high = linked->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (linked->items[middle].ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Where an inode is to be seen in a layer: one that its directory has. */
static int own_spots(struct lfs_server *layer, struct lfs_node *node, struct lfs_spots *spots)
{
	const struct lfs_linked *linked = &layer->linked;
	struct stat status;
	int rc = make_index(layer);
	if (rc >= 0)
		rc = lfs_entry_stat(layer, node, &status);
	if (rc < 0)
		return rc;
	for (size_t i = first_linked(linked, status.st_ino); rc >= 0 && i < linked->count && linked->items[i].ino == status.st_ino; i++) {
		const struct lfs_spot *spot = &linked->items[i].spot;
		rc = add_spot(spots, spot->dir, (struct lfs_bytes){spot->name, strlen(spot->name)});
	}
	return rc;
}

/* From `start`, which stands on chain[depth].dir's lower directory, down the lower names to the one at chain[0]. */
static int follow(struct lfs_server *server, struct lfs_node *start, const struct lfs_link *chain, size_t depth, uint64_t low,
		  struct lfs_spots *spots)
{
	struct lfs_node *at = start, *next;
	int rc = 0;
	lfs_node_get(at);
	for (size_t i = depth; i-- > 0;) {
		rc = lfs_look(server, at, chain[i].name, &next, NULL);
		if (rc < 0)
			break;
		if (!i && !(next->flags & LFS_HERE) && next->low == low)
			rc = add_spot(spots, at, chain[0].name);
		lfs_node_put(server, at);
		at = next;
		if (i && !lfs_node_is_dir(at))
			break;
	}
	lfs_node_put(server, at);
	return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc;
}

/* chain[0] is the link itself, chain[n] the directory that holds chain[n - 1]; returns the length, or -errno. */
static int ancestors(struct lfs_server *server, const struct lfs_link *link, struct lfs_link *chain)
{
	int depth = 0;
	chain[depth++] = *link;
	while (chain[depth - 1].dir != LFS_ROOT_NID) {
		if (depth == DEPTH_MAX)
			return -EIO;
		int rc = lfs_low_dir_place(server, chain[depth - 1].dir, &chain[depth]);
		if (rc < 0)
			return rc;
		depth++;
	}
	return depth;
}

static int visible_from(struct lfs_server *server, const struct lfs_link *chain, int depth, uint64_t low, struct lfs_spots *spots)
{
	struct lfs_node *root = server->nodes.root;
	int rc = root->low ? follow(server, root, chain, (size_t)depth, low, spots) : 0;
	for (size_t move = 0; rc >= 0 && move < server->moves.count; move++)
		for (int i = 0; rc >= 0 && i < depth; i++)
			if (chain[i].dir == server->moves.items[move].node->low)
				rc = follow(server, server->moves.items[move].node, chain, (size_t)i + 1, low, spots);
	return rc;
}

static int visible_as(struct lfs_server *server, const struct lfs_link *link, struct lfs_link *chain, uint64_t low, struct lfs_spots *spots)
{
	int depth = ancestors(server, link, chain);
	return depth < 0 ? depth : visible_from(server, chain, depth, low, spots);
}

/* As ancestors(), of a name in the layer below. */
static int layer_ancestors(struct lfs_server *layer, const struct lfs_spot *spot, uint64_t low, struct lfs_link *chain)
{
	struct lfs_node *dir = spot->dir;
	int depth = 0;
	chain[depth++] = (struct lfs_link){low, lfs_layer_number(layer, dir), {spot->name, strlen(spot->name)}};
	for (; dir != layer->nodes.root; dir = dir->names->dir) {
		if (depth == DEPTH_MAX || !dir->names)
			return -EIO;
		chain[depth++] = (struct lfs_link){lfs_layer_number(layer, dir), lfs_layer_number(layer, dir->names->dir), {dir->names->text, dir->names->size}};
	}
	return depth;
}

/* The names that the layer below shows it by are those that it may be seen by here. */
static int visible_over_layers(struct lfs_server *server, uint64_t low, struct lfs_spots *spots)
{
	struct lfs_server *top = server->layers[server->layer_count - 1], *layer = NULL;
	struct lfs_spots below = {0};
	struct lfs_node *node = NULL;
	if (low & LFS_FROZEN)
		layer = lfs_layer(server, low, &node);
	int rc = layer == top ? node ? own_spots(top, node, &below) : -EIO : lfs_visible_links(top, low, &below);
	if (rc >= 0 && server->upper.present)
		rc = find_moves(server);
	struct lfs_link *chain = rc < 0 ? NULL : malloc(DEPTH_MAX * sizeof *chain);
	if (rc >= 0 && !chain)
		rc = -ENOMEM;
	for (size_t i = 0; rc >= 0 && i < below.count; i++) {
		int depth = layer_ancestors(top, &below.items[i], low, chain);
		rc = depth < 0 ? depth : visible_from(server, chain, depth, low, spots);
	}
	free(chain);
	lfs_spots_free(top, &below);
	return rc;
}

int lfs_visible_links(struct lfs_server *server, uint64_t low, struct lfs_spots *spots)
{
	const struct lfs_link *links;
	size_t count;
	if (server->layer_count)
		return visible_over_layers(server, low, spots);
	int rc = lfs_low_links(server, low, &links, &count);
	if (rc >= 0 && server->upper.present)
		rc = find_moves(server);
	struct lfs_link *chain = rc < 0 ? NULL : malloc(DEPTH_MAX * sizeof *chain);
	if (rc >= 0 && !chain)
		rc = -ENOMEM;
	for (size_t i = 0; rc >= 0 && i < count; i++)
		rc = visible_as(server, &links[i], chain, low, spots);
	free(chain);
	return rc;
}
