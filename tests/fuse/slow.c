/* Loaded into a server: it lets others go first whenever it has let a lock go or waited for something, so that what must not happen in between does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

int pthread_mutex_unlock(pthread_mutex_t *lock)
{
	int (*unlock)(pthread_mutex_t *) = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
	int rc = unlock(lock);
	usleep(100);
	return rc;
}

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock)
{
	int (*wait)(pthread_cond_t *, pthread_mutex_t *) = (int (*)(pthread_cond_t *, pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_cond_wait");
	int rc = wait(condition, lock);
	pthread_mutex_unlock(lock);
	usleep(5000);
	pthread_mutex_lock(lock);
	return rc;
}

/* The first one takes long. */
int fdatasync(int fd)
{
	static atomic_flag begun = ATOMIC_FLAG_INIT;
	if (!atomic_flag_test_and_set(&begun))
		sleep(2);
	return (int)syscall(SYS_fdatasync, fd);
}
