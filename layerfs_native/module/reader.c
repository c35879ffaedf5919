/* LayerReader and LayerResult. */
#include <errno.h>
#include <string.h>

#include "module.h"

struct reader {
	PyObject_HEAD
	struct lfs_ingest *ingest;
	PyObject *lookup;
	PyThreadState *thread; /* ours while the lock is given up */
	bool busy;
};

/* --- the lookup callback, called from the core without the lock --- */

static int take_values(PyObject *answer, size_t count, uint8_t *values)
{
	Py_buffer view;
	if (PyObject_GetBuffer(answer, &view, PyBUF_SIMPLE) < 0)
		return -ECANCELED;
	int rc = 0;
	if ((size_t)view.len == count * LFS_ID_SIZE) {
		memcpy(values, view.buf, (size_t)view.len);
	} else {
		PyErr_Format(PyExc_ValueError, "lookup of %zu identities answered %zd bytes", count, view.len);
		rc = -ECANCELED;
	}
	PyBuffer_Release(&view);
	return rc;
}

static int call_lookup(void *context, const uint8_t *identities, size_t count, uint8_t *values)
{
	struct reader *reader = context;
	PyEval_RestoreThread(reader->thread);
	PyObject *answer = PyObject_CallFunction(reader->lookup, "y#", identities, (Py_ssize_t)(count * LFS_ID_SIZE));
	int rc = answer ? take_values(answer, count, values) : -ECANCELED;
	Py_XDECREF(answer);
	reader->thread = PyEval_SaveThread();
	return rc;
}

/* --- methods --- */

static PyObject *module_of(struct reader *reader)
{
	return PyType_GetModule(Py_TYPE((PyObject *)reader));
}

/* Claims the reader for one call. */
static bool enter(struct reader *reader)
{
	if (!reader->ingest || reader->busy) {
		PyErr_SetString(PyExc_RuntimeError, reader->busy ? "LayerReader is in use" : "LayerReader is closed");
		return false;
	}
	reader->busy = true;
	return true;
}

static int reader_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = {"pack_fd", "pack_id", "objects_fd", "lookup", "max_entries", "max_file_size", NULL};
	struct reader *reader = (struct reader *)self;
	struct lfs_ingest_config config = {.lookup = call_lookup, .context = reader, .pack_fd = -1, .objects_fd = -1};
	unsigned long long pack_id = UINT64_MAX, max_entries = 20000000, max_file_size = 1ull << 44;
	PyObject *lookup = NULL;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "|$iKiOKK:LayerReader", names, &config.pack_fd, &pack_id,
					 &config.objects_fd, &lookup, &max_entries, &max_file_size))
		return -1;
	if (config.pack_fd < 0 || config.objects_fd < 0 || pack_id == UINT64_MAX || !lookup) {
		PyErr_SetString(PyExc_TypeError, "LayerReader needs pack_fd, pack_id, objects_fd and lookup");
		return -1;
	}
	if (reader->ingest) {
		PyErr_SetString(PyExc_RuntimeError, "LayerReader was initialised before");
		return -1;
	}
	config.pack_id = pack_id;
	config.max_entries = max_entries;
	config.max_file_size = max_file_size;
	int rc = lfs_ingest_new(&config, &reader->ingest);
	if (rc < 0) {
		lfs_raise(module_of(reader), rc, NULL, LFS_HOST);
		return -1;
	}
	PyObject *before = reader->lookup;
	reader->lookup = Py_NewRef(lookup);
	Py_XDECREF(before);
	return 0;
}

static PyObject *reader_feed(PyObject *self, PyObject *data)
{
	struct reader *reader = (struct reader *)self;
	struct lfs_error error = {""};
	Py_buffer view;

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	if (!enter(reader)) {
		PyBuffer_Release(&view);
		return NULL;
	}
	reader->thread = PyEval_SaveThread();
	int rc = lfs_ingest_feed(reader->ingest, view.buf, (size_t)view.len, &error);
	PyEval_RestoreThread(reader->thread);
	reader->busy = false;
	PyBuffer_Release(&view);
	return rc < 0 ? lfs_raise(module_of(reader), rc, &error, LFS_HOST) : Py_NewRef(Py_None);
}

static PyObject *reader_feed_ranges(PyObject *self, PyObject *data)
{
	struct reader *reader = (struct reader *)self;
	struct lfs_error error = {""};
	Py_buffer view;

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	size_t count = (size_t)view.len / sizeof(struct lfs_file_range);
	if (count * sizeof(struct lfs_file_range) != (size_t)view.len || !enter(reader)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "a range is 24 bytes");
		PyBuffer_Release(&view);
		return NULL;
	}
	reader->thread = PyEval_SaveThread();
	int rc = lfs_ingest_feed_ranges(reader->ingest, view.buf, count, &error);
	PyEval_RestoreThread(reader->thread);
	reader->busy = false;
	PyBuffer_Release(&view);
	return rc < 0 ? lfs_raise(module_of(reader), rc, &error, LFS_HOST) : Py_NewRef(Py_None);
}

static PyObject *reader_take_split(PyObject *self, PyObject *unused)
{
	struct reader *reader = (struct reader *)self;
	if (!enter(reader))
		return NULL;
	struct lfs_bytes bytes = lfs_ingest_split(reader->ingest);
	reader->busy = false;
	return PyBytes_FromStringAndSize(bytes.data, (Py_ssize_t)bytes.size);
}

static PyObject *reader_delta(PyObject *self, PyObject *argument)
{
	struct reader *reader = (struct reader *)self;
	unsigned long long number = PyLong_AsUnsignedLongLong(argument);
	if ((number == (unsigned long long)-1 && PyErr_Occurred()) || !enter(reader))
		return NULL;
	lfs_ingest_delta(reader->ingest, number);
	reader->busy = false;
	Py_RETURN_NONE;
}

static PyObject *reader_close(PyObject *self, PyObject *unused)
{
	struct reader *reader = (struct reader *)self;
	if (!reader->ingest)
		Py_RETURN_NONE;
	if (!enter(reader))
		return NULL;
	struct lfs_ingest *ingest = reader->ingest;
	reader->ingest = NULL;
	Py_BEGIN_ALLOW_THREADS
	lfs_ingest_free(ingest);
	Py_END_ALLOW_THREADS
	reader->busy = false;
	Py_RETURN_NONE;
}

static PyObject *make_result(PyObject *module, const struct lfs_ingest_result *result)
{
	struct lfs_module *state = PyModule_GetState(module);
	PyObject *fields[] = {
		PyBytes_FromStringAndSize((const char *)result->diff_id, LFS_ID_SIZE),
		PyLong_FromUnsignedLongLong(result->tar_size),
		PyBytes_FromStringAndSize((const char *)result->contents,
					  (Py_ssize_t)(result->content_count * sizeof *result->contents)),
		PyLong_FromUnsignedLongLong(result->pack_blocks),
		PyLong_FromUnsignedLongLong(result->tree.content_size),
		PyLong_FromUnsignedLongLong(result->tree.entries),
		PyLong_FromUnsignedLongLong(result->tree.unresolved_links),
	};
	PyObject *sequence = PyStructSequence_New((PyTypeObject *)state->layer_result);
	bool complete = sequence != NULL;
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		complete = complete && fields[i];
		if (sequence)
			PyStructSequence_SetItem(sequence, (Py_ssize_t)i, fields[i]); /* takes the reference */
		else
			Py_XDECREF(fields[i]);
	}
	if (!complete)
		Py_CLEAR(sequence);
	return sequence;
}

static PyObject *reader_finish(PyObject *self, PyObject *path)
{
	struct reader *reader = (struct reader *)self;
	struct lfs_ingest_result result;
	struct lfs_error error = {""};
	PyObject *encoded = NULL;

	if (!PyUnicode_FSConverter(path, &encoded))
		return NULL;
	if (!enter(reader)) {
		Py_DECREF(encoded);
		return NULL;
	}
	const char *tree_path = PyBytes_AsString(encoded);
	reader->thread = PyEval_SaveThread();
	int rc = lfs_ingest_finish(reader->ingest, tree_path, &result, &error);
	PyEval_RestoreThread(reader->thread);
	reader->busy = false;
	Py_DECREF(encoded);
	if (rc < 0)
		return lfs_raise(module_of(reader), rc, &error, LFS_HOST);
	return make_result(module_of(reader), &result);
}

/* --- the types --- */

static int reader_traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(((struct reader *)self)->lookup);
	return 0;
}

static int reader_clear(PyObject *self)
{
	Py_CLEAR(((struct reader *)self)->lookup);
	return 0;
}

static void reader_dealloc(PyObject *self)
{
	struct reader *reader = (struct reader *)self;
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	reader_clear(self);
	lfs_ingest_free(reader->ingest);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
	release(self);
	Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
	{"feed", reader_feed, METH_O, "Take the next bytes of the layer's tar."},
	{"feed_ranges", reader_feed_ranges, METH_O, "Take the next bytes of the tar from files: i64 fd (-1: zeros), u64 offset, u64 length of each range."},
	{"take_split", reader_take_split, METH_NOARGS, "The tar-split bytes made since the last call."},
	{"delta", reader_delta, METH_O, "The next file over 128 KiB is only hashed: `.delta-<number>` in the objects' directory has it."},
	{"close", reader_close, METH_NOARGS, "Stop; remove what is half written. Idempotent, and done when the reader is dropped."},
	{"finish", reader_finish, METH_O, "The archive is complete: write the layer's tree to this path, answer a LayerResult."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
	{Py_tp_doc, "Streams a layer tar into contents, a tree and a tar-split record (docs/format.md)."},
	{Py_tp_init, reader_init},
	{Py_tp_dealloc, reader_dealloc},
	{Py_tp_traverse, reader_traverse},
	{Py_tp_clear, reader_clear},
	{Py_tp_methods, reader_methods},
	{0, NULL},
};

static PyType_Spec reader_spec = {
	.name = "layerfs._native.LayerReader",
	.basicsize = sizeof(struct reader),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.slots = reader_slots,
};

static PyStructSequence_Field result_fields[] = {
	{"diff_id", "32 bytes, SHA-256 of every byte fed"},
	{"tar_size", "bytes fed"},
	{"contents", "new contents, 64 bytes each"},
	{"pack_blocks", "4 KiB blocks written to the pack"},
	{"content_size", "sum of sizes of the regular files in the tree"},
	{"entries", "names in the tree"},
	{"unresolved_links", "hard links into lower layers"},
	{NULL, NULL},
};

static PyStructSequence_Desc result_description = {
	.name = "layerfs._native.LayerResult",
	.doc = "What reading a layer gave.",
	.fields = result_fields,
	.n_in_sequence = 7,
};

int lfs_reader_register(PyObject *module)
{
	struct lfs_module *state = PyModule_GetState(module);
	if (!(state->layer_result = (PyObject *)PyStructSequence_NewType(&result_description)) ||
	    !(state->reader = PyType_FromModuleAndSpec(module, &reader_spec, NULL)))
		return -1;
	if (PyModule_AddType(module, (PyTypeObject *)state->layer_result) < 0)
		return -1;
	return PyModule_AddType(module, (PyTypeObject *)state->reader);
}
