/* sha256, xxh64, hash_fd. */
#include <errno.h>

#include "module.h"

#define WITHOUT_GIL 16384 /* bytes from which giving up the lock costs less than it gains */

static PyObject *sha256_method(PyObject *module, PyObject *data)
{
	Py_buffer view;
	struct lfs_sha256 hash;
	uint8_t out[LFS_ID_SIZE];

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	PyThreadState *thread = view.len >= WITHOUT_GIL ? PyEval_SaveThread() : NULL;
	lfs_sha256_init(&hash);
	lfs_sha256_update(&hash, view.buf, (size_t)view.len);
	lfs_sha256_final(&hash, out);
	if (thread)
		PyEval_RestoreThread(thread);
	PyBuffer_Release(&view);
	return PyBytes_FromStringAndSize((const char *)out, sizeof out);
}

static PyObject *xxh64_method(PyObject *module, PyObject *data)
{
	Py_buffer view;
	struct lfs_xxh64 hash;

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	PyThreadState *thread = view.len >= WITHOUT_GIL ? PyEval_SaveThread() : NULL;
	lfs_xxh64_init(&hash);
	lfs_xxh64_update(&hash, view.buf, (size_t)view.len);
	uint64_t value = lfs_xxh64_final(&hash);
	if (thread)
		PyEval_RestoreThread(thread);
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLongLong(value);
}

static PyObject *hash_fd_method(PyObject *module, PyObject *arguments)
{
	int fd, sparse, rc;
	uint8_t identity[LFS_ID_SIZE];
	uint64_t xxh64 = 0;
	struct lfs_error error = {""};

	if (!PyArg_ParseTuple(arguments, "ip:hash_fd", &fd, &sparse))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_hash_fd(fd, sparse, identity, &xxh64);
	Py_END_ALLOW_THREADS
	if (rc == -EINVAL)
		lfs_fail(&error, rc, "not a regular file");
	else if (rc == -ESTALE)
		lfs_fail(&error, rc, "the file became shorter while it was read");
	if (rc < 0)
		return lfs_raise(module, rc, &error, LFS_HOST);
	return Py_BuildValue("y#K", identity, (Py_ssize_t)sizeof identity, (unsigned long long)xxh64);
}

static PyObject *crc32c_method(PyObject *module, PyObject *data)
{
	Py_buffer view;
	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	uint32_t crc = lfs_crc32c(0xFFFFFFFFu, view.buf, (size_t)view.len);
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLong(crc);
}

static PyObject *portable_method(PyObject *module, PyObject *on)
{
	int value = PyObject_IsTrue(on);
	if (value < 0)
		return NULL;
	bool sha = lfs_sha256_portable(value), crc = lfs_crc32c_portable(value);
	return Py_BuildValue("NN", PyBool_FromLong(sha), PyBool_FromLong(crc));
}

PyMethodDef lfs_hash_methods[] = {
	{"sha256", sha256_method, METH_O, "SHA-256 of a buffer, 32 bytes."},
	{"xxh64", xxh64_method, METH_O, "XXH64 (seed 0) of a buffer."},
	{"hash_fd", hash_fd_method, METH_VARARGS, "(identity, xxh64) of an open regular file."},
	{"_crc32c", crc32c_method, METH_O, "For tests: CRC-32C from 0xFFFFFFFF, not inverted at the end."},
	{"_portable_hashes", portable_method, METH_O,
	 "For tests: turn the CPU's instructions off or on; answers which are used (sha256, crc32c)."},
	{NULL, NULL, 0, NULL},
};
