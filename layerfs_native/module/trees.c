/* merge_trees, Fold, remap_tree, verify_tree and MergeResult. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

struct paths { /* encoded; the strings belong to `keep` */
	PyObject *keep;
	const char **list;
	size_t count;
};

static void paths_free(struct paths *paths)
{
	PyMem_Free(paths->list);
	Py_CLEAR(paths->keep);
}

static int paths_parse(PyObject *sequence, struct paths *paths)
{
	PyObject *tuple = PySequence_Tuple(sequence);
	if (!tuple)
		return -1;
	paths->count = (size_t)PyTuple_Size(tuple);
	paths->keep = PyList_New(0);
	paths->list = PyMem_Calloc(paths->count + 1, sizeof *paths->list);
	int rc = paths->keep && paths->list ? 0 : -1;
	if (!paths->list)
		PyErr_NoMemory();
	for (size_t i = 0; rc == 0 && i < paths->count; i++) {
		PyObject *encoded = NULL;
		if (!PyUnicode_FSConverter(PyTuple_GetItem(tuple, (Py_ssize_t)i), &encoded)) {
			rc = -1;
			break;
		}
		paths->list[i] = PyBytes_AsString(encoded);
		rc = PyList_Append(paths->keep, encoded);
		Py_DECREF(encoded);
	}
	Py_DECREF(tuple);
	return rc;
}

static PyObject *merge_result(PyObject *module, const struct lfs_tree_stats *stats)
{
	struct lfs_module *state = PyModule_GetState(module);
	PyObject *entries = PyLong_FromUnsignedLongLong(stats->entries), *size = PyLong_FromUnsignedLongLong(stats->content_size);
	PyObject *result = entries && size ? PyStructSequence_New((PyTypeObject *)state->merge_result) : NULL;
	if (!result) {
		Py_XDECREF(entries);
		Py_XDECREF(size);
		return NULL;
	}
	PyStructSequence_SetItem(result, 0, entries);
	PyStructSequence_SetItem(result, 1, size);
	return result;
}

static PyObject *merge_trees_method(PyObject *module, PyObject *arguments)
{
	PyObject *sequence, *out = NULL, *result = NULL;
	struct paths paths = {0};
	struct lfs_tree_stats stats = {0};
	struct lfs_error error = {""};
	const char *subject;
	Py_ssize_t subject_size;
	int rc;

	if (!PyArg_ParseTuple(arguments, "OO&y#:merge_trees", &sequence, PyUnicode_FSConverter, &out, &subject, &subject_size))
		return NULL;
	if (subject_size != LFS_ID_SIZE) {
		PyErr_SetString(PyExc_ValueError, "the subject of a tree has 32 bytes");
		goto done;
	}
	if (paths_parse(sequence, &paths) < 0)
		goto done;
	const char *out_path = PyBytes_AsString(out);
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_merge(paths.list, paths.count, out_path, (const uint8_t *)subject, &stats, &error);
	Py_END_ALLOW_THREADS
	result = rc < 0 ? lfs_raise(module, rc, &error, LFS_TREE) : merge_result(module, &stats);
done:
	paths_free(&paths);
	Py_XDECREF(out);
	return result;
}

/* --- Fold: a merge that goes on --- */

struct fold {
	PyObject_HEAD
	struct lfs_tree *tree; /* NULL: before __init__, and after an error */
	bool busy, begun;
};

static PyObject *fold_module(PyObject *self)
{
	return PyType_GetModule(Py_TYPE(self));
}

/* Claims the fold for one call. */
static bool fold_enter(struct fold *fold)
{
	if (fold->busy || !fold->tree) {
		PyErr_SetString(PyExc_RuntimeError, fold->busy ? "Fold is in use" : "Fold is of no use after an error");
		return false;
	}
	fold->busy = true;
	return true;
}

/* Gives it back; what failed half-way is thrown away. */
static void fold_leave(struct fold *fold, int rc)
{
	if (rc < 0) {
		lfs_tree_free(fold->tree);
		fold->tree = NULL;
	}
	fold->busy = false;
}

static int fold_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = {NULL};
	struct fold *fold = (struct fold *)self;
	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, ":Fold", names))
		return -1;
	if (fold->tree) {
		PyErr_SetString(PyExc_RuntimeError, "Fold was initialised before");
		return -1;
	}
	if (lfs_tree_new(&fold->tree) == 0)
		return 0;
	PyErr_NoMemory();
	return -1;
}

static PyObject *fold_add(PyObject *self, PyObject *path)
{
	struct fold *fold = (struct fold *)self;
	struct lfs_error error = {""};
	PyObject *encoded = NULL;
	int rc;

	if (!PyUnicode_FSConverter(path, &encoded))
		return NULL;
	if (!fold_enter(fold)) {
		Py_DECREF(encoded);
		return NULL;
	}
	const char *text = PyBytes_AsString(encoded);
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_merge_add(fold->tree, text, !fold->begun, &error);
	Py_END_ALLOW_THREADS
	fold->begun = true;
	fold_leave(fold, rc);
	Py_DECREF(encoded);
	return rc < 0 ? lfs_raise(fold_module(self), rc, &error, LFS_TREE) : Py_NewRef(Py_None);
}

static PyObject *fold_write(PyObject *self, PyObject *arguments)
{
	struct fold *fold = (struct fold *)self;
	struct lfs_tree_stats stats = {0};
	struct lfs_error error = {""};
	PyObject *out = NULL;
	const char *subject;
	Py_ssize_t subject_size;
	int rc;

	if (!PyArg_ParseTuple(arguments, "O&y#:write", PyUnicode_FSConverter, &out, &subject, &subject_size))
		return NULL;
	if (subject_size != LFS_ID_SIZE)
		PyErr_SetString(PyExc_ValueError, "the subject of a tree has 32 bytes");
	if (subject_size != LFS_ID_SIZE || !fold_enter(fold)) {
		Py_DECREF(out);
		return NULL;
	}
	const char *path = PyBytes_AsString(out);
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_tree_write(fold->tree, path, true, (const uint8_t *)subject, NULL, 0, &stats, &error);
	Py_END_ALLOW_THREADS
	fold_leave(fold, rc);
	Py_DECREF(out);
	return rc < 0 ? lfs_raise(fold_module(self), rc, &error, LFS_TREE) : merge_result(fold_module(self), &stats);
}

static void fold_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	lfs_tree_free(((struct fold *)self)->tree);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

static PyMethodDef fold_methods[] = {
	{"add", fold_add, METH_O, "Fold one more tree file on top."},
	{"write", fold_write, METH_VARARGS, "Write what there is as a merged tree; more may be added afterwards."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot fold_slots[] = {
	{Py_tp_doc, "Folds tree files one after the other, and writes the merged tree of any of these stacks."},
	{Py_tp_init, fold_init},
	{Py_tp_dealloc, fold_dealloc},
	{Py_tp_methods, fold_methods},
	{0, NULL},
};

static PyType_Spec fold_spec = {
	.name = "layerfs._native.Fold",
	.basicsize = sizeof(struct fold),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = fold_slots,
};

/* --- the other functions --- */

static PyObject *remap_tree_method(PyObject *module, PyObject *arguments)
{
	PyObject *from = NULL, *to = NULL, *result = NULL;
	Py_buffer mapping = {0};
	struct lfs_move *moves = NULL;
	struct lfs_error error = {""};
	int rc;

	if (!PyArg_ParseTuple(arguments, "O&O&y*:remap_tree", PyUnicode_FSConverter, &from, PyUnicode_FSConverter, &to, &mapping))
		goto done;
	if (mapping.len % (Py_ssize_t)sizeof *moves != 0) {
		PyErr_SetString(PyExc_ValueError, "a mapping has 32 bytes a record");
		goto done;
	}
	if (!(moves = PyMem_Malloc((size_t)mapping.len + 1))) { /* a copy: the buffer may be unaligned */
		PyErr_NoMemory();
		goto done;
	}
	memcpy(moves, mapping.buf, (size_t)mapping.len);
	const char *path = PyBytes_AsString(from), *out_path = PyBytes_AsString(to);
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_remap(path, out_path, moves, (size_t)mapping.len / sizeof *moves, &error);
	Py_END_ALLOW_THREADS
	result = rc < 0 ? lfs_raise(module, rc, &error, LFS_TREE) : Py_NewRef(Py_None);
done:
	PyMem_Free(moves);
	if (mapping.obj)
		PyBuffer_Release(&mapping);
	Py_XDECREF(from);
	Py_XDECREF(to);
	return result;
}

static int verify(const char *path, struct lfs_error *error)
{
	struct lfs_image image;
	int rc = lfs_image_open(path, &image, error);
	if (rc < 0)
		return rc;
	rc = lfs_image_verify(&image, error);
	lfs_image_close(&image);
	return rc;
}

static PyObject *verify_tree_method(PyObject *module, PyObject *path)
{
	PyObject *encoded = NULL;
	struct lfs_error error = {""};
	int rc;

	if (!PyUnicode_FSConverter(path, &encoded))
		return NULL;
	const char *text = PyBytes_AsString(encoded);
	Py_BEGIN_ALLOW_THREADS
	rc = verify(text, &error);
	Py_END_ALLOW_THREADS
	Py_DECREF(encoded);
	if (rc == -EIO || rc == -EBADMSG || rc == -EUCLEAN) /* what the readers answer for a file that is not sound */
		Py_RETURN_FALSE;
	return rc < 0 ? lfs_raise(module, rc, &error, LFS_TREE) : Py_NewRef(Py_True);
}

PyMethodDef lfs_tree_methods[] = {
	{"merge_trees", merge_trees_method, METH_VARARGS, "Fold tree files, base first, into a merged tree."},
	{"remap_tree", remap_tree_method, METH_VARARGS, "Copy a tree with its packed files moved."},
	{"verify_tree", verify_tree_method, METH_O, "Whether a tree file is sound."},
	{NULL, NULL, 0, NULL},
};

static PyStructSequence_Field merge_fields[] = {
	{"entries", "names in the tree"},
	{"content_size", "sum of sizes of the regular files"},
	{NULL, NULL},
};

static PyStructSequence_Desc merge_description = {
	.name = "layerfs._native.MergeResult",
	.doc = "What merging gave.",
	.fields = merge_fields,
	.n_in_sequence = 2,
};

int lfs_trees_register(PyObject *module)
{
	struct lfs_module *state = PyModule_GetState(module);
	if (!(state->merge_result = (PyObject *)PyStructSequence_NewType(&merge_description)) ||
	    !(state->fold = PyType_FromModuleAndSpec(module, &fold_spec, NULL)))
		return -1;
	if (PyModule_AddType(module, (PyTypeObject *)state->merge_result) < 0)
		return -1;
	return PyModule_AddType(module, (PyTypeObject *)state->fold);
}
