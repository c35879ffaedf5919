/* Linux calls that Python 3.11 lacks. */
#define _GNU_SOURCE /* syncfs */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "module.h"
#include "mount_calls.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

/* --- mounts --- */

struct option { /* one fsconfig call; strings are borrowed from Python objects that outlive it */
	const char *key, *value;
	int fd; /* with value NULL: a descriptor, or -1 for a flag */
};

/* Appends the kernel's messages about a file system context, which read one a call, to text. */
static void append_log(int context, char *text, size_t size)
{
	char line[512];
	ssize_t got;
	while ((got = read(context, line, sizeof line - 1)) > 0) {
		line[got] = '\0';
		char *message = line[1] == ' ' ? line + 2 : line; /* "e text": error, warning, info */
		message[strcspn(message, "\n")] = '\0';
		size_t used = strlen(text);
		snprintf(text + used, size - used, "; %s", message);
	}
}

static int configure(int context, const struct option *option)
{
	int command = option->value ? CONFIG_STRING : option->fd >= 0 ? CONFIG_FD : CONFIG_FLAG;
	int fd = command == CONFIG_FD ? option->fd : 0;
	return (int)syscall(SYS_fsconfig, context, command, option->key, option->value, fd);
}

static int fail_mount(int context, const char *step, char *text, size_t size)
{
	int number = errno;
	snprintf(text, size, "%s: %s", step, strerror(number));
	if (context >= 0)
		append_log(context, text, size);
	return -number;
}

/* target NULL: returns an owned fd of the mount, which is attached nowhere and goes with the fd. */
static int mount_new(const char *fstype, const struct option *options, size_t count, const char *target, int attributes,
		     char *text, size_t size)
{
	char step[128];
	LFS_AUTO_FD context = (int)syscall(SYS_fsopen, fstype, OPEN_CLOEXEC);
	if (context < 0) {
		snprintf(step, sizeof step, "file system type %.64s", fstype);
		return fail_mount(-1, step, text, size);
	}
	for (size_t i = 0; i < count; i++)
		if (configure(context, &options[i]) < 0) {
			snprintf(step, sizeof step, "%.32s option %.64s", fstype, options[i].key);
			return fail_mount(context, step, text, size);
		}
	snprintf(step, sizeof step, "%.64s mount", fstype);
	if (syscall(SYS_fsconfig, context, CONFIG_CREATE, NULL, NULL, 0) < 0)
		return fail_mount(context, step, text, size);
	LFS_AUTO_FD mount = (int)syscall(SYS_fsmount, context, MOUNT_CLOEXEC, attributes);
	if (mount < 0)
		return fail_mount(context, step, text, size);
	if (!target)
		return lfs_steal_fd(&mount);
	if (syscall(SYS_move_mount, mount, "", AT_FDCWD, target, MOVE_EMPTY_PATH) < 0)
		return fail_mount(context, step, text, size);
	return 0;
}

/* The strings of `options`, a list of (key, value) with value None, str or a descriptor. Keeps encoded values in `keep`. */
static int parse_option(PyObject *item, struct option *option, PyObject *keep)
{
	PyObject *key, *value, *bytes = NULL;
	if (!PyTuple_Check(item)) {
		PyErr_SetString(PyExc_TypeError, "an option is a pair of name and value");
		return -1;
	}
	if (!PyArg_ParseTuple(item, "UO;an option is a pair of name and value", &key, &value))
		return -1;
	option->fd = -1;
	if (!PyUnicode_FSConverter(key, &bytes))
		return -1;
	option->key = PyBytes_AsString(bytes);
	int rc = PyList_Append(keep, bytes);
	Py_CLEAR(bytes);
	if (rc < 0 || value == Py_None)
		return rc;
	if (PyLong_Check(value)) {
		option->fd = (int)PyLong_AsLong(value);
		if (PyErr_Occurred())
			return -1;
		if (option->fd < 0) {
			PyErr_SetString(PyExc_ValueError, "an option's file descriptor is negative");
			return -1;
		}
		return 0;
	}
	if (!PyUnicode_FSConverter(value, &bytes))
		return -1;
	option->value = PyBytes_AsString(bytes);
	rc = PyList_Append(keep, bytes);
	Py_DECREF(bytes);
	return rc;
}

static PyObject *mount_new_method(PyObject *module, PyObject *arguments)
{
	const char *fstype;
	PyObject *sequence, *target, *encoded = NULL, *options = NULL, *keep = NULL, *result = NULL;
	struct option *list = NULL;
	int attributes, rc;
	char text[2048];

	if (!PyArg_ParseTuple(arguments, "sOOi:mount_new", &fstype, &sequence, &target, &attributes))
		return NULL;
	if (target != Py_None && !PyUnicode_FSConverter(target, &encoded))
		goto done;
	if (!(options = PySequence_Tuple(sequence)) || !(keep = PyList_New(0)))
		goto done;
	Py_ssize_t count = PyTuple_Size(options);
	if (!(list = PyMem_Calloc((size_t)count + 1, sizeof *list))) {
		PyErr_NoMemory();
		goto done;
	}
	for (Py_ssize_t i = 0; i < count; i++)
		if (parse_option(PyTuple_GetItem(options, i), &list[i], keep) < 0)
			goto done;
	const char *where = encoded ? PyBytes_AsString(encoded) : NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = mount_new(fstype, list, (size_t)count, where, attributes, text, sizeof text);
	Py_END_ALLOW_THREADS
	if (rc < 0)
		lfs_raise_named(module, "MountError", -rc, text, encoded ? target : NULL);
	else
		result = encoded ? Py_NewRef(Py_None) : PyLong_FromLong(rc);
done:
	PyMem_Free(list);
	Py_XDECREF(keep);
	Py_XDECREF(options);
	Py_XDECREF(encoded);
	return result;
}

static PyObject *raise_mount(PyObject *module, int number, const char *what, PyObject *target)
{
	char text[256];
	snprintf(text, sizeof text, "%s: %s", what, strerror(number));
	return lfs_raise_named(module, "MountError", number, text, target);
}

static const char *optional_text(PyObject *bytes)
{
	return bytes ? PyBytes_AsString(bytes) : NULL;
}

/* For "O&": None is NULL, else as PyUnicode_FSConverter. */
static int optional_path(PyObject *value, void *out)
{
	if (value == Py_None) {
		*(PyObject **)out = NULL;
		return 1;
	}
	return PyUnicode_FSConverter(value, out);
}

static PyObject *mount_method(PyObject *module, PyObject *arguments)
{
	PyObject *source = NULL, *target, *data = NULL, *encoded = NULL, *result = NULL;
	const char *fstype;
	unsigned long flags;
	int rc;

	if (!PyArg_ParseTuple(arguments, "O&UzkO&:mount", optional_path, &source, &target, &fstype, &flags, optional_path,
			      &data))
		goto done;
	if (!PyUnicode_FSConverter(target, &encoded))
		goto done;
	const char *from = optional_text(source), *where = PyBytes_AsString(encoded), *with = optional_text(data);
	Py_BEGIN_ALLOW_THREADS
	rc = mount(from, where, fstype, flags, with) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	result = rc ? raise_mount(module, rc, "mount", target) : Py_NewRef(Py_None);
done:
	Py_XDECREF(source);
	Py_XDECREF(encoded);
	Py_XDECREF(data);
	return result;
}

static PyObject *umount_method(PyObject *module, PyObject *arguments)
{
	PyObject *target, *encoded = NULL;
	int flags, rc;

	if (!PyArg_ParseTuple(arguments, "Ui:umount", &target, &flags) || !PyUnicode_FSConverter(target, &encoded))
		return NULL;
	const char *where = PyBytes_AsString(encoded);
	Py_BEGIN_ALLOW_THREADS
	rc = umount2(where, flags) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	Py_DECREF(encoded);
	return rc ? raise_mount(module, rc, "unmount", target) : Py_NewRef(Py_None);
}

/* --- files --- */

struct how { /* struct open_how of linux/openat2.h */
	uint64_t flags, mode, resolve;
};

/* -EAGAIN means that a rename elsewhere raced with the resolution: try again a few times. */
static int openat2(int dir_fd, const char *path, const struct how *how)
{
	for (int tries = 0;; tries++) {
		int fd = (int)syscall(SYS_openat2, dir_fd, path, how, sizeof *how);
		if (fd >= 0 || errno != EAGAIN || tries == 32)
			return fd < 0 ? -errno : fd;
	}
}

static PyObject *openat2_method(PyObject *module, PyObject *arguments)
{
	int dir_fd, fd;
	unsigned int mode;
	unsigned long long flags, resolve;
	const char *path;

	if (!PyArg_ParseTuple(arguments, "iyKIK:openat2", &dir_fd, &path, &flags, &mode, &resolve))
		return NULL;
	struct how how = {flags | O_CLOEXEC, mode, resolve};
	do {
		Py_BEGIN_ALLOW_THREADS
		fd = openat2(dir_fd, path, &how);
		Py_END_ALLOW_THREADS
	} while (fd == -EINTR && PyErr_CheckSignals() == 0);
	if (fd >= 0)
		return PyLong_FromLong(fd);
	if (PyErr_Occurred())
		return NULL;
	errno = -fd;
	return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
}

static PyObject *renameat2_method(PyObject *module, PyObject *arguments)
{
	int old_dir, new_dir, rc;
	unsigned int flags;
	const char *old, *new;

	if (!PyArg_ParseTuple(arguments, "iyiyI:renameat2", &old_dir, &old, &new_dir, &new, &flags))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = syscall(SYS_renameat2, old_dir, old, new_dir, new, flags) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	if (!rc)
		Py_RETURN_NONE;
	PyObject *from = PyUnicode_DecodeFSDefault(old), *to = PyUnicode_DecodeFSDefault(new);
	errno = rc;
	if (from && to)
		PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, from, to);
	Py_XDECREF(from);
	Py_XDECREF(to);
	return NULL;
}

static PyObject *syncfs_method(PyObject *module, PyObject *arguments)
{
	int fd, rc;
	if (!PyArg_ParseTuple(arguments, "i:syncfs", &fd))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = syncfs(fd) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	errno = rc;
	return rc ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
}

/* Asks for nothing that a server, here or on the network, would have to be asked for: it may be one that does not answer. */
static PyObject *device_of_method(PyObject *module, PyObject *arguments)
{
	PyObject *path;
	if (!PyArg_ParseTuple(arguments, "O&:device_of", PyUnicode_FSConverter, &path))
		return NULL;
	struct statx found;
	int rc;
	Py_BEGIN_ALLOW_THREADS
	rc = statx(AT_FDCWD, PyBytes_AsString(path), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &found) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	errno = rc;
	PyObject *device = rc ? PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path)
			      : PyLong_FromUnsignedLongLong(makedev(found.stx_dev_major, found.stx_dev_minor));
	Py_DECREF(path);
	return device;
}

/* --- namespaces of the calling thread --- */

static PyObject *unshare_method(PyObject *module, PyObject *arguments)
{
	int flags, rc;
	if (!PyArg_ParseTuple(arguments, "i:unshare", &flags))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = unshare(flags) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	errno = rc;
	return rc ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
}

static PyObject *setns_method(PyObject *module, PyObject *arguments)
{
	int fd, kind, rc;
	if (!PyArg_ParseTuple(arguments, "ii:setns", &fd, &kind))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = setns(fd, kind) < 0 ? errno : 0;
	Py_END_ALLOW_THREADS
	errno = rc;
	return rc ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
}

PyMethodDef lfs_linux_methods[] = {
	{"mount_new", mount_new_method, METH_VARARGS, "Mount through fsopen; MountError carries the kernel's own message."},
	{"mount", mount_method, METH_VARARGS, "mount(2)"},
	{"umount", umount_method, METH_VARARGS, "umount2(2)"},
	{"openat2", openat2_method, METH_VARARGS, "openat2(2), always close-on-exec"},
	{"renameat2", renameat2_method, METH_VARARGS, "renameat2(2)"},
	{"syncfs", syncfs_method, METH_VARARGS, "syncfs(2)"},
	{"device_of", device_of_method, METH_VARARGS, "The number of the device a path is on, which is not asked anything."},
	{"unshare", unshare_method, METH_VARARGS, "unshare(2), of the calling thread"},
	{"setns", setns_method, METH_VARARGS, "setns(2), of the calling thread"},
	{NULL, NULL, 0, NULL},
};
