/*
 * Types and functions shared by the files of the monitor.
 *
 * The monitor makes no decisions: it executes a plan, then waits for the process. It allocates no memory; all bounds are defined here.
 */
#ifndef BERTH_MONITOR_H
#define BERTH_MONITOR_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ops.h"

enum {
  /* The largest page size of any machine. Released buffers consist of whole pages, because madvise(2) releases the rest of the last page too. */
  PAGE_BYTES = 65536,
  PLAN_BYTES_MAX = 4 << 20,
  REGISTERS_MAX = 512,
  TOLERATED_MAX = 8,
  ARGS_MAX = 6,
  /* Entries of argv and env together, with their two null pointers. */
  STRINGS_MAX = 65536,
  LINE_BYTES_MAX = 65536,
  /* The monitor's own fds: 0-2, then these, then the inherited registers. */
  PLAN_FD = 3,
  REPORT_FD = 4,
  STAMPS_FD = 5,
  FIRST_REGISTER_FD = 6,
};

/* Why a plan was refused. The texts are in src/engine/monitor/monitor.ts. */
enum refusal {
  REFUSED_NOT = 0,
  REFUSED_LENGTH = 1,
  REFUSED_HEADER = 2,
  REFUSED_STRINGS = 3,
  REFUSED_RECORD = 4,
  REFUSED_OPERATION = 5,
  REFUSED_REGISTER = 6,
  REFUSED_ARGUMENT = 7,
  REFUSED_ORDER = 8,
};

enum mode { MODE_NONE = 0, MODE_EXEC = 1, MODE_CONTAINER = 2 };

struct strings {
  const char *at;
  uint32_t bytes;
  uint32_t count;
};

struct plan {
  const unsigned char *end;
  const unsigned char *ops;
  const unsigned char *confine;
  uint32_t fds, parent_ops, child_ops, confine_ops;
  uint64_t clone_flags;
  int32_t clone_cgroup;
  uint32_t mode;
  int32_t out, err, in;
  uint32_t has_terminal;
  int32_t log_dir, exit_dir, control, memory_events;
  uint32_t line_bytes_max;
  struct strings log_name, argv, env;
};

/* An argument. `reg` is set for kind F, `number` for L, `length` and `bytes` for S and B. */
struct arg {
  char kind;
  int32_t reg;
  uint64_t number;
  uint32_t length;
  const unsigned char *bytes;
};

struct op {
  uint16_t code;
  int16_t out;
  uint16_t tolerated_count, arg_count;
  uint16_t tolerated[TOLERATED_MAX];
  struct arg args[ARGS_MAX];
};

/* decode.c: decodes and checks a plan; `bytes` must be aligned to 8. On refusal, *index is the operation. */
enum refusal decode_plan(const unsigned char *bytes, size_t length, struct plan *plan, uint32_t *index);
/* Decodes the operation at *at and advances *at past it. */
enum refusal decode_op(const unsigned char **at, const unsigned char *end, struct op *op);
/* Returns the kinds of an operation's arguments, as in ops.h. */
const char *op_kinds(uint16_t code);

/* A report, from the monitor to the daemon (REPORT_FD) or from the child to the monitor. The exchange is drawn in main.c. */
struct record {
  int32_t kind, a, b, c;
};
enum record_kind { RECORD_STARTED = 1, RECORD_FAILED = 2, RECORD_EXITED = 3, RECORD_REFUSED = 4, RECORD_TERMINAL = 5, RECORD_MOVED = 7, RECORD_HELD = 8, RECORD_READY = 9 };
enum phase { PHASE_PARENT = 1, PHASE_CLONE = 2, PHASE_CHILD = 3, PHASE_SUPERVISE = 4 };

/*
 * How an operation ran, in memory that the daemon reads. `began_ns`: its start by CLOCK_MONOTONIC; 0 if it did not start, or if a seccomp filter may
 * forbid reading the clock. `outcome`: 0 until it has finished, then STAMP_DONE, STAMP_SKIPPED, or the negative of the tolerated errno.
 * There is one for each of the parent's operations, one for the clone, one for each of the child's operations, and one for the end.
 */
struct stamp {
  uint64_t began_ns;
  int64_t outcome;
};
enum { STAMP_DONE = 1, STAMP_SKIPPED = 2, STAMPS_MAX = PAGE_BYTES / sizeof(struct stamp) };

/* process.c: the fds of the registers; -1: absent. */
extern int registers[REGISTERS_MAX];
/* Returns the fd of a register, or -1 if the plan names no register (-1) or it is absent. */
int register_fd(int32_t reg);
/* Reads the plan from PLAN_FD and closes it. *length is 0 if there is none, and more than PLAN_BYTES_MAX if it is too long. Aligned to 8. */
const unsigned char *read_plan(size_t *length);
/* Maps the stamps from STAMPS_FD and closes it. Ignores a file whose size does not fit the plan: it would not be safe to write to. */
void map_stamps(const struct plan *plan);
/* Returns the stamps from `index` on, or NULL if the run is not recorded. */
struct stamp *stamps_from(size_t index);
/* Stamps the start of operation `index`, if the run is recorded. */
void stamp_time(size_t index);
/* Stamps the end of the plan, if the run is recorded. */
void stamp_end(void);
/* Releases the memory of the plan and its stamps. */
void forget_plan(void);
/*
 * Makes this process die with its parent; fd is a pipe or socket whose other end the parent has open. Used until the container's process has started:
 * if the daemon dies, so does the monitor, and with it the process. The next daemon finds leftovers by cgroup, and the process may not be in it yet.
 */
void end_with_parent(int fd);
/* Closes all fds except 0-2 and the `count` given, which it sorts. Ignores -1. */
void close_all_but(int *fds, size_t count);

/*
 * ops.c: runs `count` operations from *at. Returns 0, or the errno of the failed operation, whose index is *index.
 * `link`: the child's socket to the monitor; -1 in the monitor. `stamps`: one for each operation, or NULL.
 */
int run_ops(const struct plan *plan, const unsigned char **at, uint32_t count, int link, struct stamp *stamps, uint32_t *index);

/* log.c */
struct stream {
  int fd;
  const char *name;
  /* The beginning of an incomplete line: `held` bytes of at most LINE_BYTES_MAX. */
  uint32_t held;
  unsigned char *line;
};
/* Opens the log. Returns 0 or an errno. dir -1: output is discarded. */
int log_open(int dir, const char *name, uint32_t line_bytes_max);
/* Reopens the file. Returns 0, or an errno if the old file stays open. */
int log_reopen(void);
int log_fd(void);
void log_bytes(struct stream *stream, const unsigned char *bytes, size_t length);
/* Writes an incomplete line at the end of the stream. */
void log_end(struct stream *stream);
void log_flush(void);
/* Releases the memory of the buffer. */
void log_idle(void);
uint64_t log_dropped_bytes(void);
/* Writes `value` with at least `digits` digits. Returns the address after it. */
char *put_number(char *at, uint64_t value, int digits);
uint64_t now_ns(void);
/*
 * Returns CLOCK_MONOTONIC. `may_grow`: through the vDSO, which is ten times as fast, but its first use costs two pages of page tables; the monitor of a
 * container that logs nothing avoids them.
 */
uint64_t monotonic_ns(bool may_grow);

/* attach.c: what a client requests, as bits. */
enum { ATTACH_STDIN = 1, ATTACH_STDOUT = 2, ATTACH_STDERR = 4, ATTACH_ENDS_STDIN = 8, ATTACH_ALL = 15 };
enum { ATTACHED_MAX = 16, ATTACH_POLLED = 1 + ATTACHED_MAX };
/* `input_fd`: the container's input, non-blocking; -1: none. */
void attach_start(int input_fd, bool is_terminal);
/* Takes over `fd`, a connected socket. Returns 0, or an errno if the caller keeps the socket. */
int attach_client(int fd, uint32_t requested);
/* If `fd` is the container's input, stops using it. */
void attach_lose_input(int fd);
/* Copies output to the clients that requested it. Stream 1 is stdout, 2 stderr. */
void attach_output(uint32_t stream, const unsigned char *bytes, size_t length);
/* Fills in what to poll for. Returns the number of entries, at most ATTACH_POLLED. The caller passes them to attach_serve() after poll(2). */
size_t attach_poll(struct pollfd *polled);
void attach_serve(const struct pollfd *polled, size_t count);
/* Returns how long to leave output unread because a client has no room for it; 0: read it now. */
int attach_patience_ms(void);
/* Deducts the time during which output was left unread. */
void attach_waited(uint64_t waited_us);
/* Waits until all clients have room or no patience left. */
void attach_settle(void);
/* Sends the end of the output to the clients that have received all of it. */
void attach_finish(void);
/* Releases memory that is not in use. */
void attach_idle(void);
uint64_t monotonic_us(void);

/* supervise.c: supervises a container until it has exited and its record is written. Does not return. */
void supervise(const struct plan *plan, pid_t child, int terminal, int signals) __attribute__((noreturn));
/* Opens the log and reserves the record, before anything is cloned. Returns 0 or an errno. */
int supervise_prepare(const struct plan *plan);

/* The monitor's exit codes other than 0. */
enum { EXIT_FAILED = 1, EXIT_MISUSED = 2, EXIT_NO_RECORD = 3 };

#endif
