/* Installs the filter that came with the spec. Without no_new_privs it needs CAP_SYS_ADMIN, so the caller of this does
 * it before capabilities are dropped; with it, as the last thing before exec. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

int lfs_seccomp_install(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	if (!spec->filter_count)
		return 0;
	struct sock_filter *filter = calloc(spec->filter_count, sizeof *filter); /* the spec's bytes are not aligned */
	if (!filter)
		return lfs_failed(failure, LFS_STAGE_SECCOMP, -ENOMEM, "installing the seccomp filter");
	memcpy(filter, spec->filter, spec->filter_count * sizeof *filter);
	struct sock_fprog program = { .len = (unsigned short)spec->filter_count, .filter = filter };
	int rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, spec->filter_flags, &program) < 0 ? -errno : 0;
	free(filter);
	return rc < 0 ? lfs_failed(failure, LFS_STAGE_SECCOMP, rc, "installing the seccomp filter") : 0;
}
