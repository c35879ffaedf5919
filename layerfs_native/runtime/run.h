/* layerfs-run: one small program that starts one container and stays as its supervisor.
 *
 *     layerfs-run SPEC_FD CONTROL_FD CALLER_PID        (see monitor.h for its other mode)
 *
 * CALLER_PID 0: detached. The helper becomes nobody's child, and the program goes on when the caller closes its end or dies;
 * what it then writes to its terminal is thrown away.
 *
 * SPEC_FD      a file (memfd) with the spec, read once from its start. Everything is little-endian:
 *                  8 bytes   "LFSRUN1\n"
 *                  records:  u16 tag, u32 length, `length` bytes
 *              to the end of the file. Tags and their payloads are `enum lfs_tag` below. A string is its bytes and one NUL; a
 *              NUL inside, a short record, bytes left over in a record or an unknown tag refuse the spec. layerfs/runtime/wire.py
 *              writes it.
 * CONTROL_FD   a SOCK_SEQPACKET socket. Caller to helper: one byte, a signal number for PID 1 of the container. Helper to
 *              caller, one packet each:
 *                  u8 1 STARTED, u32 pid (on the host)          the program runs (its exec has happened); a pidfd comes with it, then the
 *                                                            master of its terminal, if it has one
 *                  u8 2 FAILED, u32 stage, u32 errno, text      nothing runs
 *                  u8 3 EXITED, u32 code, u32 signal            the last packet
 *              When the caller closes its end, or dies (seen by a pidfd, so that copies of the socket in forked
 *              relatives do not matter), the container is killed.
 *
 * Everything inside the root is reached from a descriptor of it with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), and
 * mounts are made with the descriptor-based calls (Linux 5.12), so no path of the image is ever followed out of it.
 * Functions return 0 (or an owned fd) or -errno; `struct lfs_failure` then says where and why. */
#ifndef LFS_RUN_H
#define LFS_RUN_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "layerfs.h"

#define LFS_RUN_MAGIC "LFSRUN1\n"
#define LFS_SPEC_MAX (16u << 20)

enum lfs_tag {
	LFS_TAG_ROOT = 1,       /* string: the mounted root, an absolute path */
	LFS_TAG_NAMESPACES = 2, /* u32: CLONE_NEW*; mount and pid must be among them, uts where there is a hostname */
	LFS_TAG_OPTIONS = 3,    /* u32: enum lfs_option */
	LFS_TAG_ARGUMENT = 4,   /* string, repeated in order */
	LFS_TAG_ENVIRONMENT = 5, /* string, repeated in order */
	LFS_TAG_IDENTITY = 6,   /* u32 uid, u32 gid, u32 supplementary gids to the end */
	LFS_TAG_WORKDIR = 7,    /* string */
	LFS_TAG_HOSTNAME = 8,   /* string */
	LFS_TAG_STEP = 9,       /* struct lfs_step, repeated in order */
	LFS_TAG_CAPABILITIES = 10, /* u64: the bounding set */
	LFS_TAG_RLIMIT = 11,    /* u32 resource, u64 soft, u64 hard; repeated */
	LFS_TAG_CGROUP = 12,    /* string: a cgroup.procs file to join; repeated */
	LFS_TAG_SECCOMP = 13,   /* u32 flags, then struct sock_filter (8 bytes each) to the end; at most one */
	LFS_TAG_TERMINAL = 14,  /* u16 rows, u16 columns: the streams are a new terminal; rows and columns 0 where unknown */
	LFS_TAG_JOIN = 15,      /* u32 pid, u64 start time: enter this container's namespaces instead of making some; no root, no steps */
	LFS_TAG_MONITOR = 16,   /* u32 flags (enum lfs_monitor_flag), u32 restart policy, u32 its maximum, u64 log size, u32 log files,
	                         * u32 signal and i32 ms that stop the container when the monitor is told to end */
	LFS_TAG_AFTER = 17,     /* string, repeated: what the monitor becomes at the end */
	LFS_TAG_EVENTS = 18,    /* string: the file of events; string: what each of ours has, `"Actor":{...` left open */
	LFS_TAG_HEALTH = 19,    /* u64 ms each: interval, timeout, start period, start interval; u32 retries */
	LFS_TAG_PROBE = 20,     /* string, repeated: the health check's words */
	LFS_TAG_ENTER = 33,     /* u32 CLONE_NEW*, string: the file of a namespace to enter instead of making one; repeated. With CLONE_NEWUSER
	                         * the one that the file's namespace belongs to */
	LFS_TAG_CLOCK = 34,     /* u32 clock, i64 seconds: how far a clock of a time namespace is off; repeated */
	LFS_TAG_UID_MAP = 40,   /* u32 each: first id inside, first id outside, how many; repeated. A user namespace of its own */
	LFS_TAG_GID_MAP = 41,
	LFS_TAG_RUNTIME = 42,   /* string, four times: another OCI runtime's program, the bundle, its state directory, the name there; with id maps a fifth: where its root is shown */
	LFS_TAG_OOM_SCORE = 32, /* i32: added to its score when the kernel looks for somebody to kill */
};

enum lfs_monitor_flag {
	LFS_MONITOR_STDIN = 1,      /* the program's stdin is open; /dev/null else */
	LFS_MONITOR_STDIN_ONCE = 2, /* and ends with the client that it came from */
	LFS_MONITOR_NO_LOG = 4,
};

enum lfs_option {
	LFS_OPTION_READ_ONLY = 1,
	LFS_OPTION_NO_NEW_PRIVS = 2,
	LFS_OPTION_INIT = 4, /* PID 1 is ours */
	LFS_OPTION_SHARED_PIDS = 256, /* no PID namespace of its own: the host's, or one that is entered */
};

enum lfs_stage {
	LFS_STAGE_SPEC = 1,
	LFS_STAGE_NAMESPACE = 2,
	LFS_STAGE_CGROUP = 3,
	LFS_STAGE_MOUNT = 4,
	LFS_STAGE_ROOT = 5,
	LFS_STAGE_WORKDIR = 6,
	LFS_STAGE_IDENTITY = 7,
	LFS_STAGE_CAPABILITIES = 8,
	LFS_STAGE_SECCOMP = 9,
	LFS_STAGE_LOOKUP = 10, /* the command was not found, or is not executable */
	LFS_STAGE_EXEC = 11,   /* found, but the kernel would not start it */
	LFS_STAGE_RUNTIME = 12, /* another runtime: the text is what it said */
};

enum lfs_step_kind {
	LFS_STEP_FILESYSTEM = 1, /* a new file system `type` from `source` at `target` with `options` (comma separated) */
	LFS_STEP_BIND = 2,       /* `source` of the host at `target`; `mode`: its propagation, MS_SLAVE or MS_SHARED, 0 for private */
	LFS_STEP_ATTRIBUTES = 3, /* adds `attributes` to the mount at `target` */
	LFS_STEP_READ_ONLY = 4,  /* `target` bound onto itself, read-only */
	LFS_STEP_MASK = 5,       /* an empty read-only directory, or the null device, over `target` */
	LFS_STEP_DEVICE = 6,     /* node `target`: `mode` with type bits, major, minor; `source`: where the host has it, "" for the same place */
	LFS_STEP_LINK = 7,       /* symbolic link `target` with the text `source` */
	LFS_STEP_SYSCTL = 8,     /* writes `source` to the file `target` below /proc/sys */
};

enum lfs_step_flag {
	LFS_STEP_RECURSIVE = 1, /* binds and attributes: with what is mounted below */
	LFS_STEP_OPTIONAL = 2,  /* no target: nothing to do */
	LFS_STEP_STRICT = 4,    /* no component of the target may be a symbolic link */
	LFS_STEP_CONFINED = 8,  /* devices: the node is a mount of its own, so that the rest of /dev can become nodev */
	LFS_STEP_MAPPED = 16,   /* binds: ids as in the user namespace, as if they were stored shifted */
	LFS_STEP_FOREIGN = 32,  /* binds: `source` is in the mount namespace whose file is `type`; no component is a symbolic link */
};

/* On the wire in this order: kind, flags, mode, major, minor as u32, attributes as u64, then four strings. */
struct lfs_step {
	uint32_t kind, flags, mode, major, minor;
	uint64_t attributes; /* MOUNT_ATTR_* */
	const char *type, *source, *target, *options;
};

struct lfs_limit {
	uint32_t resource;
	uint64_t soft, hard;
};

struct lfs_range {
	uint32_t inside, outside, size;
};

struct lfs_entered {
	uint32_t type;
	const char *path;
};

struct lfs_clock {
	uint32_t clock;
	int64_t seconds;
};

struct lfs_spec {
	uint8_t *bytes; /* the whole file; strings below point into it */
	const char *root, *workdir, *hostname;
	uint32_t namespaces, options, uid, gid;
	uint64_t capabilities;
	char **arguments, **environment; /* ends with NULL */
	const char **cgroups;
	uint32_t *groups;
	struct lfs_step *steps;
	struct lfs_limit *limits;
	const uint8_t *filter;
	uint32_t filter_flags;
	int32_t oom_score;
	struct lfs_entered *entered;
	struct lfs_clock *clocks;
	struct lfs_range *uid_map, *gid_map;
	size_t entered_count, clock_count, uid_map_count, gid_map_count;
	bool terminal;
	uint16_t rows, columns;
	uint32_t join_pid; /* 0: a container of its own */
	uint64_t join_start;
	uint32_t monitor_flags, restart, restart_max, log_files, end_signal;
	int32_t end_ms;
	uint64_t log_size;
	const char *events, *event_attributes;
	char **after, **probe, **runtime; /* end with NULL */
	uint64_t probe_interval, probe_timeout, probe_start_period, probe_start_interval;
	uint32_t probe_retries;
	size_t after_count, probe_count, runtime_count;
	size_t argument_count, environment_count, cgroup_count, group_count, step_count, limit_count, filter_count;
};

struct lfs_failure {
	uint32_t stage;
	int error;
	char text[400];
};
int lfs_failed(struct lfs_failure *failure, enum lfs_stage stage, int negative_errno, const char *format, ...)
	__attribute__((format(printf, 4, 5))); /* fills it, returns negative_errno */

/* spec.c */
int lfs_spec_read(int fd, struct lfs_spec *spec, struct lfs_failure *failure);
void lfs_spec_free(struct lfs_spec *spec);

/* system.c: calls that older C libraries do not have */
int lfs_sys_clone(uint64_t flags, int *pidfd);
int lfs_sys_open_in(int root, const char *path, uint64_t flags, bool strict); /* openat2 inside root; owned fd or -errno */
int lfs_sys_open_tree(int dir, const char *path, bool recursive);
int lfs_sys_new_mount(const char *type, const char *source, const char *options, uint64_t attributes);
int lfs_sys_attach(int mount, int target);
int lfs_sys_set_mount(int dir, const char *path, bool recursive, uint64_t attributes, uint64_t propagation);
int lfs_sys_clear_mount(int mount, uint64_t attributes);
int lfs_sys_map_mount(int mount, int users); /* one that nobody has seen yet */
int lfs_sys_pivot_here(void);
void lfs_sys_reset_signals(void); /* all default, none blocked */
int lfs_sys_watch_signals(int flags); /* an owned signalfd of all but crashes, which are blocked from then on; or -errno */
/* poll(2), which refuses more entries than RLIMIT_NOFILE, also unused ones: without those at the end. */
int lfs_sys_poll(struct pollfd *events, size_t count, int timeout);
void lfs_sys_close_range(unsigned first, unsigned last, bool on_exec_only);

/* target.c: where a mount goes; made when it is missing, never outside root. Owned O_PATH fd or -errno */
int lfs_target_open(int root, const char *path, bool directory, bool strict);

/* mounts.c, devices.c */
struct lfs_scene {
	int root;      /* O_PATH fd of the container's root mount */
	int null;      /* O_PATH fd of our own 1:3 node, or -1 */
	int empty_dir; /* the read-only tmpfs that masks directories, or -1 */
	int *shared;   /* for each step: a bind that was taken while the mounts still were the host's peers, or is another container's; or -1 */
	bool ready;    /* those are as they are to be */
};
struct lfs_trees { /* mounts that were taken by the host's root, for a container that is not */
	int root;
	int *binds; /* for each step: a bind, or -1 */
};
int lfs_scene_open(struct lfs_scene *scene, const struct lfs_spec *spec, const struct lfs_trees *trees, struct lfs_failure *failure);
int lfs_bind_take(const struct lfs_step *step, int users); /* owned mount or -errno; `users`: for LFS_STEP_MAPPED */
int lfs_steps_perform(struct lfs_scene *scene, const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_scene_enter(struct lfs_scene *scene, bool read_only, struct lfs_failure *failure); /* pivot_root */
int lfs_device_make(struct lfs_scene *scene, const struct lfs_step *step);
int lfs_link_make(struct lfs_scene *scene, const struct lfs_step *step);
int lfs_null_clone(const struct lfs_scene *scene); /* a detached mount of a verified null device */

/* enter.c */
int lfs_namespaces_enter(const struct lfs_spec *spec, bool pids, struct lfs_failure *failure);
int lfs_clocks_set(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_foreign_tree(const char *namespace, const char *path); /* a copy of a mount there; owned or -errno */

/* namespaces.c */
int lfs_cgroups_enter(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_cgroup_namespace_make(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_keyring_new(struct lfs_failure *failure);
int lfs_names_set(const struct lfs_spec *spec, struct lfs_failure *failure); /* hostname, loopback, keyring */

/* identity.c, caps.c, seccomp.c */
int lfs_oom_score_set(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_limits_set(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_identity_become(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_capabilities_bound(uint64_t wanted, struct lfs_failure *failure);
int lfs_capabilities_set(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_seccomp_install(const struct lfs_spec *spec, struct lfs_failure *failure);

/* workdir.c */
int lfs_workdir_make(int root, const char *path, struct lfs_failure *failure);
int lfs_workdir_enter(const char *path, struct lfs_failure *failure);

/* command.c: does not return when all is well */
int lfs_command_exec(const struct lfs_spec *spec, struct lfs_failure *failure);

/* container.c: the life of the child up to its exec; reports a failure as a packet on `report` and exits */
struct lfs_launch {
	int report;
	int console;    /* where a terminal's master goes */
	int streams[3]; /* become 0, 1, 2; -1: what is there is kept */
	int target;     /* join: pidfd of the container's PID 1 */
	const struct lfs_trees *trees; /* or NULL */
};
__attribute__((noreturn)) void lfs_container_main(const struct lfs_spec *spec, const struct lfs_launch *launch);

/* userns.c */
pid_t lfs_container_spawn(const struct lfs_spec *spec, const struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure);
int lfs_userns_open(const struct lfs_spec *spec, struct lfs_failure *failure); /* with its maps: the network's owner, or a new one */
bool lfs_userns_own(const struct lfs_spec *spec); /* whether the container gets a user namespace of its own */
bool lfs_userns_foreign(pid_t pid);
int lfs_userns_settle(struct lfs_failure *failure);
uint32_t lfs_userns_outside(const struct lfs_range *map, size_t count, uint32_t id); /* the same without a map */
int lfs_namespaces_main(int spec_fd);

/* terminal.c, init.c, join.c */
int lfs_terminal_open(const struct lfs_spec *spec, int sock, bool console, struct lfs_failure *failure);
int lfs_terminal_receive(int sock);
int lfs_terminal_send(int sock, int fd);
int lfs_init_split(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_join_pids(const struct lfs_spec *spec, struct lfs_failure *failure);
int lfs_join_rest(const struct lfs_spec *spec, int target, struct lfs_failure *failure);
uint64_t lfs_start_ticks(pid_t pid);

/* supervise.c */
enum { LFS_PACKET_STARTED = 1, LFS_PACKET_FAILED = 2, LFS_PACKET_EXITED = 3 };
size_t lfs_packet_failed(const struct lfs_failure *failure, uint8_t *out, size_t size);
struct lfs_supervisor {
	pid_t pid;
	int pidfd, report, console, control, caller, signals;
	int terminal; /* detached: the master, read once the caller is gone */
	bool failed, detached;
};
int lfs_supervise(struct lfs_supervisor *self); /* the exit code of the helper */

#endif
