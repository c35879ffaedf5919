/* layerfs._server: the native engine's server inside a Python process. A module of its own, loaded by who wants that. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

int lfs_serve_here(int orders);

static PyObject *serve(PyObject *module, PyObject *argument)
{
	long orders = PyLong_AsLong(argument);
	int rc;
	if (orders == -1 && PyErr_Occurred())
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = lfs_serve_here((int)orders);
	Py_END_ALLOW_THREADS
	return PyLong_FromLong(rc);
}

static PyMethodDef methods[] = {
	{"serve", serve, METH_O,
	 "serve(orders, /)\n--\n\nServe one mount, as the orders on this descriptor say, until it is unmounted. Changes the calling thread, which\n"
	 "must end afterwards, and nothing else of the process. Returns 0 or a negative errno; `report` in the orders hears more."},
	{NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "layerfs._server",
	.m_doc = "The native engine's server inside this process.",
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__server(void)
{
	return PyModuleDef_Init(&definition);
}
