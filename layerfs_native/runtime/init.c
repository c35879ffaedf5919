/* `--init`: PID 1 is ours. It passes signals on to the program, reaps what is left to it, and ends as the program does. It
 * runs from the sealed helper, without an exec, so it needs nothing of the image. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run.h"

/* Whether the program has ended; `code` is then how. */
static bool reap(pid_t program, int *code)
{
	int status;
	bool over = false;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		if (pid == program) {
			*code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			over = true;
		}
	return over;
}

__attribute__((noreturn)) static void serve(pid_t program, const sigset_t *all)
{
	int code = 0;
	lfs_sys_close_range(0, ~0u, false); /* the streams and whatever else are the program's alone */
	prctl(PR_SET_NAME, "layerfs-init", 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* what /proc says of this process is not for the container */
	for (;;) {
		int number = sigwaitinfo(all, NULL);
		if (number == SIGCHLD && reap(program, &code))
			_exit(code);
		if (number > 0 && number != SIGCHLD)
			kill(program, number);
	}
}

/* Returns in the program's process; PID 1 does not return. */
int lfs_init_split(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	sigset_t all, none;
	sigfillset(&all);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &all, NULL); /* blocked ones wait for PID 1, too */
	pid_t program = fork();
	if (program < 0)
		return lfs_failed(failure, LFS_STAGE_EXEC, -errno, "starting the program below its init");
	if (program > 0)
		serve(program, &all);
	setpgid(0, 0);
	if (spec->terminal)
		tcsetpgrp(0, getpid());
	sigprocmask(SIG_SETMASK, &none, NULL);
	return 0;
}
