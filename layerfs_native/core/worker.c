#include "worker.h"

#include <signal.h>

void lfs_worker_init(struct lfs_worker *worker)
{
	*worker = (struct lfs_worker){.owner = getpid()};
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->changed, NULL);
}

static void do_job(struct lfs_worker *worker, int (*job)(void *, struct lfs_error *), void *argument)
{
	struct lfs_error error = {""};
	int rc = job(argument, &error);
	if (rc < 0 && !worker->failed) {
		worker->failed = rc;
		worker->error = error;
	}
}

static void *serve(void *argument)
{
	struct lfs_worker *worker = argument;
	pthread_mutex_lock(&worker->lock);
	for (;;) {
		while (!worker->job && !worker->stop)
			pthread_cond_wait(&worker->changed, &worker->lock);
		if (!worker->job)
			break;
		pthread_mutex_unlock(&worker->lock);
		do_job(worker, worker->job, worker->argument); /* the owner touches neither until job is NULL */
		pthread_mutex_lock(&worker->lock);
		worker->job = NULL;
		pthread_cond_broadcast(&worker->changed);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

/* Signals are for the threads of the caller. */
static bool start(struct lfs_worker *worker)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	worker->started = pthread_create(&worker->thread, NULL, serve, worker) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return worker->started;
}

int lfs_worker_wait(struct lfs_worker *worker, struct lfs_error *error)
{
	pthread_mutex_lock(&worker->lock);
	while (worker->job)
		pthread_cond_wait(&worker->changed, &worker->lock);
	pthread_mutex_unlock(&worker->lock);
	if (worker->failed && error)
		*error = worker->error;
	return worker->failed;
}

int lfs_worker_run(struct lfs_worker *worker, int (*job)(void *, struct lfs_error *), void *argument, struct lfs_error *error)
{
	int rc = lfs_worker_wait(worker, error);
	if (rc < 0)
		return rc;
	if (!worker->started && !start(worker)) {
		do_job(worker, job, argument);
		return lfs_worker_wait(worker, error);
	}
	pthread_mutex_lock(&worker->lock);
	worker->argument = argument;
	worker->job = job;
	pthread_cond_broadcast(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
	return 0;
}

void lfs_worker_free(struct lfs_worker *worker)
{
	if (worker->owner != getpid())
		return;
	if (worker->started) {
		pthread_mutex_lock(&worker->lock);
		worker->stop = true;
		pthread_cond_broadcast(&worker->changed);
		pthread_mutex_unlock(&worker->lock);
		pthread_join(worker->thread, NULL);
	}
	pthread_mutex_destroy(&worker->lock);
	pthread_cond_destroy(&worker->changed);
}
