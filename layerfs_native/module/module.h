/* Shared by the files of the Python binding. */
#ifndef LFS_MODULE_H
#define LFS_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "layerfs.h"

struct lfs_module {
	PyObject *errors; /* layerfs.errors, imported at the first error */
	PyObject *layer_result, *merge_result, *reader, *fold; /* types */
};

enum lfs_side { LFS_HOST, LFS_TREE }; /* what -EIO means: the host's disk, or a tree file that is not sound */

/* Raises the class that fits a core function's -errno; returns NULL. An exception that is already set stays. */
PyObject *lfs_raise(PyObject *module, int negative_errno, const struct lfs_error *error, enum lfs_side side);
/* Raises layerfs.errors.<name>(text, path=path) with its errno set to that of the kernel; returns NULL. */
PyObject *lfs_raise_named(PyObject *module, const char *name, int number, const char *text, PyObject *path);

extern PyMethodDef lfs_hash_methods[], lfs_linux_methods[], lfs_spawn_methods[], lfs_tree_methods[];
int lfs_reader_register(PyObject *module);
int lfs_trees_register(PyObject *module);

#endif
