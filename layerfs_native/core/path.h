/* Names in layer archives: cleaned, and what `.wh.` makes of them. */
#ifndef LFS_PATH_H
#define LFS_PATH_H

#include "layerfs.h"

#define LFS_PATH_MAX 4095u

/* Resolves "", ".", ".." by text, clamped at the root; out has LFS_PATH_MAX bytes. -EBADMSG: too long, or a NUL. */
int lfs_path_clean(struct lfs_bytes name, char *out, struct lfs_bytes *clean, struct lfs_error *error);

enum lfs_path_kind {
	LFS_PATH_PLAIN,
	LFS_PATH_WHITEOUT, /* hides `name` of lower layers in `directory` */
	LFS_PATH_OPAQUE,   /* hides all that lower layers have in `directory` */
	LFS_PATH_SKIPPED,  /* AUFS bookkeeping, or below it */
};
struct lfs_path_parts {
	struct lfs_bytes directory, name;
};
/* An lfs_path_kind, or -EBADMSG for a name that cannot be. */
int lfs_path_classify(struct lfs_bytes clean, struct lfs_path_parts *parts, struct lfs_error *error);

#endif
