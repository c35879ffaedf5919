/* The kernel's calls that make mounts (fsopen(2) and what follows it), of which older C libraries lack the numbers, and which linux/mount.h
 * declares, that does not go with sys/mount.h. The numbers are the same on all architectures. */
#pragma once

#include <sys/syscall.h>

#ifndef SYS_move_mount
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif

enum { CONFIG_FLAG = 0, CONFIG_STRING = 1, CONFIG_FD = 5, CONFIG_CREATE = 6 };
enum { OPEN_CLOEXEC = 1, MOUNT_CLOEXEC = 1, MOVE_EMPTY_PATH = 0x04, MOVE_TO_LINKED = 0x10 };
