/* What the members of a layer do to its tree, kept until their contents have a place. */
#ifndef LFS_NOTES_H
#define LFS_NOTES_H

#include "depot.h"
#include "layerfs.h"

enum lfs_note_kind { LFS_NOTE_PUT, LFS_NOTE_LINK, LFS_NOTE_WHITEOUT, LFS_NOTE_OPAQUE };

struct lfs_note { /* one change to the tree */
	enum lfs_note_kind kind;
	uint32_t content; /* number in the depot, or LFS_NO_CONTENT */
	struct lfs_bytes path, other; /* other: target, or name of a whiteout */
	struct lfs_attr attr;
	size_t size; /* with what is behind it */
};

struct lfs_notes {
	struct lfs_tree *tree;
	struct lfs_depot *depot;
	uint64_t max_entries, metadata;
	uint8_t *data;
	size_t used;
};

int lfs_notes_init(struct lfs_notes *notes, struct lfs_depot *depot, uint64_t max_entries);
void lfs_notes_free(struct lfs_notes *notes);
/* Keeps a copy of the note and all that it points to; *kept is valid until the notes are settled. May settle first. */
int lfs_notes_keep(struct lfs_notes *notes, const struct lfs_note *note, struct lfs_note **kept, struct lfs_error *error);
/* Gives the contents so far their places, then changes the tree in the order of the archive. */
int lfs_notes_settle(struct lfs_notes *notes, struct lfs_error *error);
/* Puts a member's name before what is wrong with it. */
int lfs_name_error(int rc, struct lfs_bytes name, struct lfs_error *error);

#endif
