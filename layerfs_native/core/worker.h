/* A thread that does one job at a time for its owner. */
#ifndef LFS_WORKER_H
#define LFS_WORKER_H

#include <pthread.h>

#include "layerfs.h"

struct lfs_worker {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, stop;
	pid_t owner; /* a child after fork() has no such thread */
	int (*job)(void *argument, struct lfs_error *error); /* NULL: idle */
	void *argument;
	int failed; /* of the first job that failed; later ones are not done */
	struct lfs_error error;
};

void lfs_worker_init(struct lfs_worker *worker);
/* Waits for the job before, then starts this one. -errno: an earlier job failed, and this one is not done. Without a
 * thread (none could be made) the job is done at once. */
int lfs_worker_run(struct lfs_worker *worker, int (*job)(void *, struct lfs_error *), void *argument, struct lfs_error *error);
int lfs_worker_wait(struct lfs_worker *worker, struct lfs_error *error);
void lfs_worker_free(struct lfs_worker *worker); /* waits */

#endif
