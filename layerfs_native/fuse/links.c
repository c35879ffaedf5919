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

static int scan_directory(struct lfs_server *server, struct lfs_node *dir, struct stack *stack)
{
	int fd = lfs_dir_reopen(server, dir);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		lfs_close_fd(&fd);
		return fd < 0 ? fd : -errno;
	}
	int rc = 0;
	for (struct dirent *entry; rc >= 0 && (entry = readdir(stream));) {
		struct lfs_bytes name = {entry->d_name, strlen(entry->d_name)};
		struct lfs_node *node;
		if ((entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (lfs_look(server, dir, name, &node, NULL) < 0)
			continue;
		if (lfs_node_is_dir(node) && node->flags & LFS_HERE) {
			if (is_moved(server, dir, node, name))
				rc = add_move(server, node);
			if (rc >= 0 && (rc = push(stack, node)) >= 0)
				continue; /* the stack has the reference */
		}
		lfs_node_put(server, node);
	}
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

/* --- visible names --- */

/* --- names in a frozen layer --- */

struct index { /* being made */
	struct lfs_server *layer;
	struct stack stack;
	size_t capacity;
};

static int index_entry(struct index *index, struct lfs_node *dir, const char *name, const struct stat *status)
{
	struct lfs_server *layer = index->layer;
	if (layer->same_spot_count == index->capacity) {
		size_t wider = index->capacity ? index->capacity * 2 : 64;
		struct lfs_spot *spots = realloc(layer->same_spots, wider * sizeof *spots);
		uint64_t *inodes = spots ? realloc(layer->same_inodes, wider * sizeof *inodes) : NULL;
		layer->same_spots = spots ? spots : layer->same_spots;
		if (!inodes)
			return -ENOMEM;
		layer->same_inodes = inodes;
		index->capacity = wider;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	lfs_node_get(dir);
	layer->same_inodes[layer->same_spot_count] = status->st_ino;
	layer->same_spots[layer->same_spot_count++] = (struct lfs_spot){dir, copy};
	return 0;
}

static int index_directory(struct index *index, struct lfs_node *dir)
{
	int fd = lfs_dir_reopen(index->layer, dir), rc = 0;
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		lfs_close_fd(&fd);
		return fd < 0 ? fd : -errno;
	}
	for (struct dirent *entry; rc >= 0 && (entry = readdir(stream));) {
		struct stat status;
		struct lfs_node *node;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!S_ISDIR(status.st_mode)) {
			if (status.st_nlink > 1 && !lfs_is_whiteout(&status))
				rc = index_entry(index, dir, entry->d_name, &status);
		} else if (lfs_look(index->layer, dir, (struct lfs_bytes){entry->d_name, strlen(entry->d_name)}, &node, NULL) >= 0) {
			if ((rc = push(&index->stack, node)) < 0)
				lfs_node_put(index->layer, node);
		}
	}
	closedir(stream);
	return rc;
}

static int make_index(struct lfs_server *layer)
{
	struct index index = {.layer = layer};
	if (layer->same_known)
		return 0;
	lfs_node_get(layer->nodes.root);
	int rc = push(&index.stack, layer->nodes.root);
	while (index.stack.count) {
		struct lfs_node *dir = index.stack.items[--index.stack.count];
		if (rc >= 0)
			rc = index_directory(&index, dir);
		lfs_node_put(layer, dir);
	}
	free(index.stack.items);
	layer->same_known = rc >= 0;
	return rc;
}

/* Where an inode is to be seen in a layer: one that its directory has. */
static int own_spots(struct lfs_server *layer, struct lfs_node *node, struct lfs_spots *spots)
{
	struct stat status;
	int rc = lfs_entry_stat(layer, node, &status);
	if (rc >= 0)
		rc = make_index(layer);
	for (size_t i = 0; rc >= 0 && i < layer->same_spot_count; i++) {
		const struct lfs_spot *spot = &layer->same_spots[i];
		if (layer->same_inodes[i] == status.st_ino)
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
