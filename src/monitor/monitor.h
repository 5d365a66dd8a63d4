/*
 * What the files of the monitor share: the decoded plan, the records it reports, and the log.
 *
 * The monitor decides nothing: it executes a plan, then parents the process. It allocates nothing; every bound is here.
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
  /* The largest page of any machine. Memory that is given back is whole pages: madvise(2) takes the rest of the last one too. */
  PAGE_BYTES = 65536,
  PLAN_BYTES_MAX = 4 << 20,
  REGISTERS_MAX = 512,
  TOLERATED_MAX = 8,
  ARGS_MAX = 6,
  /* argv and env together, with their two null pointers. */
  STRINGS_MAX = 65536,
  LINE_BYTES_MAX = 65536,
  /* The monitor's own fds: 0-2, then these, then the inherited registers. */
  PLAN_FD = 3,
  REPORT_FD = 4,
  STAMPS_FD = 5,
  FIRST_REGISTER_FD = 6,
};

/* Why a plan is refused; src/engine/monitor/monitor.ts has the words. */
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
  uint32_t fds, parent_ops, child_ops;
  uint64_t clone_flags;
  int32_t clone_cgroup;
  uint32_t mode;
  int32_t out, err, in;
  uint32_t has_terminal;
  int32_t log_dir, exit_dir, control, memory_events;
  uint32_t line_bytes_max;
  struct strings log_name, argv, env;
};

/* An argument: `number` of L, register of F, length of S and B, whose bytes are at `bytes`. */
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

/* decode.c. `bytes` must be aligned to 8. */
enum refusal decode_plan(const unsigned char *bytes, size_t length, struct plan *plan, uint32_t *index);
/* Advances *at past one operation. */
enum refusal decode_op(const unsigned char **at, const unsigned char *end, struct op *op);
/* The kinds of an operation's arguments, as in ops.h. */
const char *op_kinds(uint16_t code);

/* A report: to the daemon through REPORT_FD, and from the child to the monitor. The exchange is drawn in main.c. */
struct record {
  int32_t kind, a, b, c;
};
enum record_kind { RECORD_STARTED = 1, RECORD_FAILED = 2, RECORD_EXITED = 3, RECORD_REFUSED = 4, RECORD_TERMINAL = 5, RECORD_MOVED = 7, RECORD_HELD = 8 };
enum phase { PHASE_PARENT = 1, PHASE_CLONE = 2, PHASE_CHILD = 3, PHASE_SUPERVISE = 4 };

/*
 * What is told of an operation, in memory that the daemon reads: when it began, by CLOCK_MONOTONIC (0: not at all, or nobody may ask any more), and
 * what came of it: 0 until it is over, STAMP_DONE, STAMP_SKIPPED, or the errno that it tolerated, negative.
 * One for each of the parent's, one for the clone, one for each of the child's, one for the end.
 */
struct stamp {
  uint64_t began_ns;
  int64_t outcome;
};
enum { STAMP_DONE = 1, STAMP_SKIPPED = 2, STAMPS_MAX = PAGE_BYTES / sizeof(struct stamp) };

/* ops.c */
extern int registers[REGISTERS_MAX];
/*
 * Runs `count` operations from *at. 0, or the errno of the one at *index. `link`: the child's socket to the monitor; -1 in the monitor.
 * `stamps`: one for each, or NULL.
 */
int run_ops(const struct plan *plan, const unsigned char **at, uint32_t count, int link, struct stamp *stamps, uint32_t *index);

/* main.c: gives the memory of the plan and its stamps back. */
void forget_plan(void);
/* main.c: the caller ends when its parent does, or has already: nobody holds the other end of fd then. */
void end_with_parent(int fd);

/* log.c */
struct stream {
  int fd;
  const char *name;
  /* The beginning of a line whose end has not come: `held` bytes of at most LINE_BYTES_MAX. */
  uint32_t held;
  unsigned char *line;
};
/* 0 or errno. dir -1: output is thrown away. */
int log_open(int dir, const char *name, uint32_t line_bytes_max);
/* Opens the file anew. 0, or errno and the old file stays. */
int log_reopen(void);
int log_fd(void);
void log_bytes(struct stream *stream, const unsigned char *bytes, size_t length);
/* Writes out a line that has not ended. */
void log_end(struct stream *stream);
void log_flush(void);
/* Gives the buffer's memory back. */
void log_idle(void);
uint64_t log_dropped_bytes(void);
/* Writes `value` with at least `digits` digits; the place after it. */
char *put_number(char *at, uint64_t value, int digits);
uint64_t now_ns(void);
/* The vDSO is ten times as fast, but its first use costs two pages of page tables, which the monitor of a container that logs nothing can do without. */
uint64_t monotonic_ns(bool may_grow);

/* attach.c. What a client wants, as bits. */
enum { ATTACH_STDIN = 1, ATTACH_STDOUT = 2, ATTACH_STDERR = 4, ATTACH_ENDS_STDIN = 8, ATTACH_ALL = 15 };
enum { ATTACHED_MAX = 16, ATTACH_POLLED = 1 + ATTACHED_MAX };
/* `input_fd`: of the container's input, non-blocking; -1 for none. */
void attach_start(int input_fd, bool is_terminal);
/* Takes over `fd`, a connected socket, unless it fails. 0 or errno. */
int attach_client(int fd, uint32_t wants);
/* When this fd was the container's input, there is none any more. */
void attach_lose_input(int fd);
/* Copies output to those who want it; stream 1 is stdout, 2 stderr. */
void attach_output(uint32_t stream, const unsigned char *bytes, size_t length);
/* Fills in what to poll for: how many of at most ATTACH_POLLED. attach_serve() gets the same back. */
size_t attach_poll(struct pollfd *polled);
void attach_serve(const struct pollfd *polled, size_t count);
/* How long output must not be read yet, because a client has no room for it. */
int attach_patience_ms(void);
/* So long it was not read. */
void attach_waited(uint64_t waited_us);
/* Waits for clients as long as they are worth it. */
void attach_settle(void);
/* Tells the end of the output to those who have all of it. */
void attach_finish(void);
/* Gives memory back. */
void attach_idle(void);
uint64_t monotonic_us(void);

/* supervise.c: parents a container until it ends and its record is written. Does not return. */
void supervise(const struct plan *plan, pid_t child, int terminal, int signals) __attribute__((noreturn));
/* What the process cannot do without, opened before anything is cloned. 0 or errno. */
int supervise_prepare(const struct plan *plan);
/* Closes every fd but these and 0-2. `count` of them, -1 among them is ignored; sorts them. */
void close_all_but(int *fds, size_t count);

/* The monitor's exit codes beyond 0. */
enum { EXIT_FAILED = 1, EXIT_MISUSED = 2, EXIT_NO_RECORD = 3 };

#endif
