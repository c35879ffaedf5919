/* Threads for what may take long (syncing, large copies), so that those who read requests go on reading. Made when needed, and kept. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>

#include "server.h"

static void *work(void *context)
{
	struct lfs_server *server = context;
	struct lfs_aside *aside = &server->aside;
	lfs_thread_start(server);
	pthread_mutex_lock(&aside->lock);
	for (;;) {
		while (!aside->first && !aside->ending)
			pthread_cond_wait(&aside->wanted, &aside->lock);
		struct lfs_job *job = aside->first;
		if (!job)
			break;
		aside->first = job->next;
		aside->waiting--;
		aside->idle--;
		pthread_mutex_unlock(&aside->lock);
		job->run(job);
		pthread_mutex_lock(&aside->lock);
		aside->idle++;
	}
	pthread_mutex_unlock(&aside->lock);
	return NULL;
}

int lfs_aside(struct lfs_server *server, struct lfs_job *job)
{
	struct lfs_aside *aside = &server->aside;
	struct lfs_job **end = &aside->first;
	int rc = 0;
	job->next = NULL;
	pthread_mutex_lock(&aside->lock);
	if (aside->idle <= aside->waiting && aside->count < LFS_ASIDE_MAX && !aside->ending) {
		rc = -pthread_create(&aside->threads[aside->count], NULL, work, server);
		aside->count += rc == 0;
		aside->idle += rc == 0;
	}
	if (!aside->count || aside->ending) {
		pthread_mutex_unlock(&aside->lock);
		return rc < 0 ? rc : -ESHUTDOWN;
	}
	while (*end)
		end = &(*end)->next;
	*end = job;
	aside->waiting++;
	pthread_cond_signal(&aside->wanted);
	pthread_mutex_unlock(&aside->lock);
	return 0;
}

void lfs_aside_end(struct lfs_server *server)
{
	struct lfs_aside *aside = &server->aside;
	pthread_mutex_lock(&aside->lock);
	aside->ending = true;
	pthread_cond_broadcast(&aside->wanted);
	pthread_mutex_unlock(&aside->lock);
	for (unsigned i = 0; i < aside->count; i++)
		pthread_join(aside->threads[i], NULL);
	aside->count = 0;
}
