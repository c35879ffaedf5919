/* The monitor: `layerfs-run` as the parent of one container that outlives its starter.
 *
 *     layerfs-run monitor SPEC_FD CLIENT_FD DIR_FD LOCK_FD LOCK_FD
 *
 * DIR_FD     the container's directory; what is written where: docs/architecture.md, "The life of a container".
 * LOCK_FD    locks of the starter's that are held until the container has ended for good.
 * CLIENT_FD  one end of a SOCK_SEQPACKET pair: the first client. What it has sent before counts before the program starts.
 *
 * The process forks at once and its parent ends. Clients connect to `monitor/socket`. Packets, first byte the kind:
 *   client to monitor
 *     A u8 flags            attach: enum lfs_attach
 *     I bytes               for the program's stdin
 *     E                     end of this client's stdin
 *     W u16 rows, u16 cols  the terminal's size
 *     S u8 signal, u8 last  signal PID 1; `last`: not restarted when it ends
 *     T u8 signal, i32 ms   stop: the signal, SIGKILL after that time (never when < 0); not restarted
 *     P u32 kind, u32 max   another restart policy
 *     D                     the client has cleaned up after the container
 *   monitor to client
 *     B u32 pid             the program runs; a pidfd comes with it
 *     F u32 stage, u32 errno, text      it could not be started (the first client only)
 *     O bytes, R bytes      stdout, stderr
 *     X u32 code, u32 signal            the end; no restart follows
 * Everything little-endian. A client that reads slowly slows the program down, as a pipe would. */
#ifndef LFS_MONITOR_H
#define LFS_MONITOR_H

#include <time.h>

#include "run.h"

enum {
	LFS_LINE_MAX = 16384,
	LFS_CHUNK = 65536,
	LFS_CLIENTS_MAX = 64,
	LFS_TIME_SIZE = 40,
	LFS_PROBES_KEPT = 5,
	LFS_PROBE_OUTPUT = 4096,
};

/* json.c */
char *lfs_json_escape(char *out, const void *data, size_t size);
void lfs_json_time(char out[LFS_TIME_SIZE], const struct timespec *when);

/* log.c */
struct lfs_lines {
	int error; /* 0 stdout, 1 stderr */
	size_t size;
	char waiting[LFS_LINE_MAX];
};
struct lfs_log {
	int dir, fd; /* fd -1: no log is kept */
	uint64_t size, max_size;
	uint32_t max_files;
	size_t used, tail_size[2];
	char tail[2][112];
	char out[6 * LFS_LINE_MAX + 65536];
};
int lfs_log_open(struct lfs_log *log, int dir);
void lfs_log_write(struct lfs_log *log, struct lfs_lines *lines, const char *data, size_t size);
void lfs_log_end(struct lfs_log *log, struct lfs_lines *lines);
void lfs_log_flush(struct lfs_log *log);

enum lfs_attach {
	LFS_ATTACH_STDIN = 1,
	LFS_ATTACH_STDOUT = 2,
	LFS_ATTACH_STDERR = 4,
	LFS_ATTACH_CLEANS = 8, /* this client cleans up at the end */
};

struct lfs_client {
	int fd; /* -1: free */
	uint32_t flags;
	bool behind; /* the chunk was not taken yet */
	bool told;   /* of the end */
};

enum lfs_phase { LFS_PHASE_STARTING, LFS_PHASE_RUNNING, LFS_PHASE_RESTARTING, LFS_PHASE_EXITED };
enum lfs_restart { LFS_RESTART_NO, LFS_RESTART_ON_FAILURE, LFS_RESTART_ALWAYS, LFS_RESTART_UNLESS_STOPPED };

struct lfs_probe {
	struct timespec began, ended;
	int code;
	size_t size;
	char output[LFS_PROBE_OUTPUT];
};
struct lfs_health {
	pid_t pid;
	int output;
	bool failed_to_start, timed_out, healthy_once;
	uint32_t streak, kept;
	int64_t next, deadline, started; /* ms, monotonic; 0: none */
	const char *status;
	struct lfs_probe now, *past; /* past[kept], oldest first; allocated where there is a health check */
};

struct lfs_monitor {
	struct lfs_spec spec;
	int dir, state_dir, listener, signals;
	int spare; /* a descriptor that is given up for a moment when there is no other one for a client */
	int locks[2];
	/* the program */
	enum lfs_phase phase;
	pid_t pid;
	int pidfd, report, console;
	int input, output[2]; /* our ends: stdin, stdout and stderr; with a terminal its master is input and output[0] */
	uint16_t rows, columns;
	struct timespec started, finished;
	uint64_t start_ticks;
	int64_t started_at; /* ms, monotonic */
	uint32_t code, signal_number, restarts;
	bool was_started, stopped, stopped_by_user;
	struct lfs_failure failure;
	int64_t kill_at, restart_at, delay;
	uint64_t oom_kills; /* that were told */
	/* streams */
	struct lfs_log log;
	struct lfs_lines lines[2];
	char chunk[1 + LFS_CHUNK];
	size_t chunk_size;
	char typed[1 + LFS_CHUNK];
	size_t typed_size, typed_done;
	bool input_ended;
	struct lfs_client clients[LFS_CLIENTS_MAX];
	struct lfs_health health;
};

/* monitor.c */
int lfs_monitor_main(int count, char **words);
int64_t lfs_now_ms(void);

/* program.c: the life of the program */
int lfs_program_start(struct lfs_monitor *self);
void lfs_program_report(struct lfs_monitor *self);
void lfs_program_ended(struct lfs_monitor *self, int status);
void lfs_program_signal(struct lfs_monitor *self, int number);
void lfs_program_stop(struct lfs_monitor *self, int number, int32_t milliseconds);
void lfs_program_resize(struct lfs_monitor *self, uint16_t rows, uint16_t columns);

/* oci.c */
pid_t lfs_oci_spawn(const struct lfs_spec *spec, const struct lfs_launch *launch, int *pidfd, struct lfs_failure *failure);
void lfs_oci_forget(const struct lfs_spec *spec);

/* streams.c */
void lfs_streams_read(struct lfs_monitor *self, int which);
bool lfs_streams_deliver(struct lfs_monitor *self); /* whether everybody has the chunk */
void lfs_streams_type(struct lfs_monitor *self);
void lfs_streams_drain(struct lfs_monitor *self);
void lfs_streams_close(struct lfs_monitor *self);
void lfs_streams_end_input(struct lfs_monitor *self);

/* clients.c */
void lfs_clients_accept(struct lfs_monitor *self);
void lfs_clients_add(struct lfs_monitor *self, int fd);
void lfs_clients_read(struct lfs_monitor *self, struct lfs_client *client);
void lfs_clients_drop(struct lfs_monitor *self, struct lfs_client *client);
void lfs_clients_tell_waiting(struct lfs_monitor *self); /* EXIT to those that only wait for it */
void lfs_clients_tell(struct lfs_monitor *self, char kind, const uint32_t *numbers, int count, int pidfd);
void lfs_clients_failed(struct lfs_monitor *self);
bool lfs_clients_finish(struct lfs_monitor *self); /* EXIT to all; whether one of them has cleaned up */

/* status.c */
int lfs_status_write(struct lfs_monitor *self);
void lfs_file_replace(int dir, const char *name, const char *text, size_t size);
void lfs_event(struct lfs_monitor *self, const char *action, const char *key, const char *value);

/* health.c */
void lfs_health_begin(struct lfs_monitor *self);
void lfs_health_end(struct lfs_monitor *self);
void lfs_health_tick(struct lfs_monitor *self, int64_t now);
int64_t lfs_health_next(const struct lfs_monitor *self);
void lfs_health_read(struct lfs_monitor *self);
void lfs_health_reaped(struct lfs_monitor *self, int status);

#endif
