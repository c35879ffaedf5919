/* A program that is begun by a thread of its own: who asks for it goes on while the kernel replaces the process, instead of waiting for that
 * (vfork) with the interpreter's lock in hand. The same thread waits for the program's end, so that no zombie is left. It knows no Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "module.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#define STACK (256u << 10) /* of address space; thread-local data of other libraries count, too */
#define FDS_MAX 16
#define CAPSULE "layerfs._native.spawn"

struct child {
	pthread_mutex_t lock;
	pthread_cond_t known;
	int users; /* the thread, and who asked */
	int fds[FDS_MAX], count; /* of the thread */
	char *program, **environment;
	bool is_known;
	int error, pid, pidfd; /* once that is known */
};

typedef int (*close_from_fn)(posix_spawn_file_actions_t *, int);

/* Of C libraries from 2.34 on; without it a program would inherit what the caller left open to be inherited. */
static close_from_fn close_from(void)
{
	return (close_from_fn)dlsym(RTLD_DEFAULT, "posix_spawn_file_actions_addclosefrom_np");
}

/* --- in the thread --- */

static int add_files(const struct child *child, posix_spawn_file_actions_t *files)
{
	int rc = 0;
	for (int i = 0; !rc && i < child->count; i++)
		rc = posix_spawn_file_actions_adddup2(files, child->fds[i], i);
	return rc ? rc : close_from()(files, child->count);
}

/* In a session of its own, with no signal blocked or ignored. */
static int set_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
	return posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

static int start(const struct child *child, pid_t *pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	char *arguments[] = {child->program, NULL};
	int rc = posix_spawn_file_actions_init(&files);
	if (rc)
		return rc;
	if (!(rc = posix_spawnattr_init(&attributes))) {
		rc = add_files(child, &files);
		rc = rc ? rc : set_attributes(&attributes);
		rc = rc ? rc : posix_spawn(pid, child->program, &files, &attributes, arguments, child->environment);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&files);
	return rc;
}

static void leave(struct child *child)
{
	pthread_mutex_lock(&child->lock);
	bool last = !--child->users;
	pthread_mutex_unlock(&child->lock);
	if (!last)
		return;
	if (child->pidfd >= 0)
		close(child->pidfd);
	for (char **each = child->environment; each && *each; each++)
		free(*each);
	free(child->environment);
	free(child->program);
	pthread_mutex_destroy(&child->lock);
	pthread_cond_destroy(&child->known);
	free(child);
}

static void close_files(struct child *child)
{
	while (child->count)
		close(child->fds[--child->count]);
}

static void *run(void *context)
{
	struct child *child = context;
	pid_t pid = 0;
	int rc = start(child, &pid), pidfd = rc ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
	close_files(child);
	pthread_mutex_lock(&child->lock);
	child->error = rc;
	child->pid = pid;
	child->pidfd = pidfd;
	child->is_known = true;
	pthread_cond_broadcast(&child->known);
	pthread_mutex_unlock(&child->lock);
	while (!rc && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	leave(child);
	return NULL;
}

/* --- in the interpreter's --- */

static int begin(struct child *child)
{
	pthread_attr_t detached;
	pthread_t thread;
	sigset_t all, before;
	int rc = pthread_attr_init(&detached);
	if (rc)
		return rc;
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&detached, STACK);
	sigfillset(&all);
	child->users++;
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for others */
	rc = pthread_create(&thread, &detached, run, child);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&detached);
	child->users -= rc != 0;
	return rc;
}

static char **copy_strings(PyObject *tuple)
{
	Py_ssize_t count = PyTuple_Size(tuple);
	char **out = calloc((size_t)count + 1, sizeof *out);
	for (Py_ssize_t i = 0; out && i < count; i++) {
		const char *text = PyBytes_AsString(PyTuple_GetItem(tuple, i));
		if (!text || !(out[i] = strdup(text)))
			break;
	}
	if (out && !PyErr_Occurred() && (!count || out[count - 1]))
		return out;
	if (!PyErr_Occurred())
		PyErr_NoMemory();
	for (char **each = out; each && *each; each++)
		free(*each);
	free(out);
	return NULL;
}

/* Own copies, above those that the program gets: the caller may close his at once. */
static bool copy_files(struct child *child, PyObject *tuple)
{
	Py_ssize_t count = PyTuple_Size(tuple);
	if (count > FDS_MAX) {
		PyErr_SetString(PyExc_ValueError, "too many descriptors");
		return false;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		int fd = (int)PyLong_AsLong(PyTuple_GetItem(tuple, i));
		if (PyErr_Occurred())
			return false;
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, FDS_MAX);
		if (copy < 0)
			return PyErr_SetFromErrno(PyExc_OSError), false;
		child->fds[child->count++] = copy;
	}
	return true;
}

static void capsule_free(PyObject *capsule)
{
	leave(PyCapsule_GetPointer(capsule, CAPSULE));
}

static PyObject *spawn_method(PyObject *module, PyObject *arguments)
{
	const char *program;
	PyObject *environment, *fds;
	if (!PyArg_ParseTuple(arguments, "yO!O!:spawn", &program, &PyTuple_Type, &environment, &PyTuple_Type, &fds))
		return NULL;
	if (!close_from())
		return errno = ENOSYS, PyErr_SetFromErrno(PyExc_OSError);
	struct child *child = calloc(1, sizeof *child);
	if (!child)
		return PyErr_NoMemory();
	child->users = 1;
	child->pidfd = -1;
	pthread_mutex_init(&child->lock, NULL);
	pthread_cond_init(&child->known, NULL);
	PyObject *capsule = PyCapsule_New(child, CAPSULE, capsule_free);
	if (!capsule) {
		leave(child);
		return NULL;
	}
	if (!(child->program = strdup(program)))
		PyErr_NoMemory();
	else if ((child->environment = copy_strings(environment)) && copy_files(child, fds)) {
		int rc = begin(child);
		if (!rc)
			return capsule;
		errno = rc;
		PyErr_SetFromErrno(PyExc_OSError);
	}
	close_files(child);
	Py_DECREF(capsule);
	return NULL;
}

static PyObject *spawned_method(PyObject *module, PyObject *capsule)
{
	struct child *child = PyCapsule_GetPointer(capsule, CAPSULE);
	if (!child)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&child->lock);
	while (!child->is_known)
		pthread_cond_wait(&child->known, &child->lock);
	pthread_mutex_unlock(&child->lock);
	Py_END_ALLOW_THREADS
	errno = child->error;
	return errno ? PyErr_SetFromErrno(PyExc_OSError) : Py_BuildValue("ii", child->pid, child->pidfd);
}

PyMethodDef lfs_spawn_methods[] = {
	{"spawn", spawn_method, METH_VARARGS,
	 "Begins a program, beside the caller, with these environment and descriptors 0, 1, 2 and so on, and no others; it is waited for as well. "
	 "ENOSYS: not with this C library."},
	{"spawned", spawned_method, METH_O, "Its pid and a descriptor of the process (-1: it has ended), which are there as long as the argument is."},
	{NULL, NULL, 0, NULL},
};
