/* The Python extension layerfs._native: module, state, and errors. */
#include <errno.h>
#include <string.h>

#include "module.h"

#define LFS_ABI 1

PyObject *lfs_raise_named(PyObject *module, const char *name, int number, const char *text, PyObject *path)
{
	struct lfs_module *state = PyModule_GetState(module);
	PyObject *type = NULL, *message = NULL, *arguments = NULL, *keywords = NULL, *error = NULL, *code = NULL;

	if (!state->errors && !(state->errors = PyImport_ImportModule("layerfs.errors")))
		return NULL;
	if (!(type = PyObject_GetAttrString(state->errors, name)) ||
	    !(message = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace")) ||
	    !(arguments = PyTuple_Pack(1, message)) || !(keywords = PyDict_New()) ||
	    (path && PyDict_SetItemString(keywords, "path", path) < 0) ||
	    !(error = PyObject_Call(type, arguments, keywords)) || !(code = PyLong_FromLong(number)) ||
	    PyObject_SetAttrString(error, "errno", code) < 0)
		goto done;
	PyErr_SetObject(type, error);
done:
	Py_XDECREF(type);
	Py_XDECREF(message);
	Py_XDECREF(arguments);
	Py_XDECREF(keywords);
	Py_XDECREF(error);
	Py_XDECREF(code);
	return NULL;
}

static PyObject *raise_os_error(int number, const char *text)
{
	PyObject *message = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace");
	PyObject *error = message ? PyObject_CallFunction(PyExc_OSError, "iO", number, message) : NULL;
	if (error)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(message);
	Py_XDECREF(error);
	return NULL;
}

PyObject *lfs_raise(PyObject *module, int negative_errno, const struct lfs_error *error, enum lfs_side side)
{
	int number = -negative_errno;
	const char *text = error && error->text[0] ? error->text : strerror(number);

	if (PyErr_Occurred())
		return NULL;
	switch (number) {
	case ENOMEM:
		return PyErr_NoMemory();
	case EBADMSG:
		return lfs_raise_named(module, "InvalidArchive", number, text, NULL);
	case ENOSPC:
	case EDQUOT:
		return lfs_raise_named(module, "NoSpace", number, text, NULL);
	case EINVAL:
		return lfs_raise_named(module, "InvalidInput", number, text, NULL);
	case EUCLEAN:
		return lfs_raise_named(module, "Corrupt", number, text, NULL);
	case EIO:
		if (side == LFS_TREE)
			return lfs_raise_named(module, "Corrupt", number, text, NULL);
		return raise_os_error(number, text);
	default:
		return raise_os_error(number, text);
	}
}

static int module_exec(PyObject *module)
{
	if (PyModule_AddIntConstant(module, "ABI", LFS_ABI) < 0 || PyModule_AddFunctions(module, lfs_hash_methods) < 0 ||
	    PyModule_AddFunctions(module, lfs_linux_methods) < 0 || PyModule_AddFunctions(module, lfs_spawn_methods) < 0 ||
	    PyModule_AddFunctions(module, lfs_tree_methods) < 0)
		return -1;
	return lfs_trees_register(module) < 0 || lfs_reader_register(module) < 0 ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct lfs_module *state = PyModule_GetState(module);
	Py_VISIT(state->errors);
	Py_VISIT(state->layer_result);
	Py_VISIT(state->merge_result);
	Py_VISIT(state->reader);
	Py_VISIT(state->fold);
	return 0;
}

static int module_clear(PyObject *module)
{
	struct lfs_module *state = PyModule_GetState(module);
	Py_CLEAR(state->errors);
	Py_CLEAR(state->layer_result);
	Py_CLEAR(state->merge_result);
	Py_CLEAR(state->reader);
	Py_CLEAR(state->fold);
	return 0;
}

static PyModuleDef_Slot module_slots[] = {
	{Py_mod_exec, module_exec},
	{0, NULL},
};

static PyModuleDef module_definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "layerfs._native",
	.m_doc = "The compiled part of layerfs; layerfs.native is its only importer.",
	.m_size = sizeof(struct lfs_module),
	.m_slots = module_slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&module_definition);
}
