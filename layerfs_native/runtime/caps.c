/* Capabilities: bounding = permitted = effective for root, only bounding for others; never inheritable or ambient. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

int lfs_capabilities_bound(uint64_t wanted, struct lfs_failure *failure)
{
	for (int number = 0; number < 64; number++) {
		int held = prctl(PR_CAPBSET_READ, number, 0, 0, 0);
		if (held < 0)
			break; /* past the kernel's last one */
		if (held && !(wanted >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return lfs_failed(failure, LFS_STAGE_CAPABILITIES, -errno, "dropping capability %d", number);
	}
	return 0;
}

/* What the caller lacks itself cannot be given. */
int lfs_capabilities_set(const struct lfs_spec *spec, struct lfs_failure *failure)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { 0 };
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return lfs_failed(failure, LFS_STAGE_CAPABILITIES, -errno, "clearing the ambient capabilities");
	if (syscall(SYS_capget, &header, sets) < 0)
		return lfs_failed(failure, LFS_STAGE_CAPABILITIES, -errno, "reading the capabilities");
	for (int half = 0; half < 2; half++) {
		uint32_t wanted = spec->uid == 0 ? (uint32_t)(spec->capabilities >> (32 * half)) : 0;
		sets[half].permitted &= wanted;
		sets[half].effective = sets[half].permitted;
		sets[half].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, sets) < 0)
		return lfs_failed(failure, LFS_STAGE_CAPABILITIES, -errno, "setting the capabilities");
	return 0;
}
