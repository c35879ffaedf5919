/* Loaded into a server: it lets others go first whenever it has let a lock go or waited for something, so that what must not happen in between does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
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

static _Atomic char *held; /* two bytes of a file: mapped before the server is somewhere else */

__attribute__((constructor)) static void map_held(void)
{
	int fd = open(getenv("LAYERFS_HELD"), O_RDWR | O_CLOEXEC);
	held = mmap(NULL, 2, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
}

/* It takes as long as the first byte says, and says by the second one that it has begun. */
int fdatasync(int fd)
{
	held[1] = held[0];
	while (held[0])
		usleep(10000);
	return (int)syscall(SYS_fdatasync, fd);
}
