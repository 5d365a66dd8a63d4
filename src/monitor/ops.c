/*
 * Runs the operations of a plan. Most are one system call; the others have a function here.
 *
 * If an operation fails with a tolerated errno, its output register stays absent. An operation that uses an absent register is skipped.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define OP_NUMBER(name, number, kinds) number,
static const long numbers[] = {OPERATIONS(OP_NUMBER)};
#undef OP_NUMBER

/* A seccomp filter may forbid clock_gettime(2), so no time is stamped after it is loaded. */
static bool is_filtered;

/* An execve(2) of the PATH search failed with EACCES. A later ENOENT or ENOTDIR must not hide it: execvp(3). */
static bool was_denied;

static int fd_of(const struct arg *arg) { return arg->reg < 0 ? arg->reg : registers[arg->reg]; }

static bool uses_absent(const struct op *op) {
  for (uint16_t i = 0; i < op->arg_count; i++)
    if (op->args[i].kind == 'F' && fd_of(&op->args[i]) == -1) return true;
  return false;
}

static bool tolerates(const struct op *op, int error) {
  for (uint16_t i = 0; i < op->tolerated_count; i++)
    if (op->tolerated[i] == error) return true;
  return false;
}

static long value_of(const struct arg *arg) {
  if (arg->kind == 'F') return fd_of(arg);
  return arg->kind == 'L' ? (long)arg->number : (long)arg->bytes;
}

/*
 * A path that is resolved inside a root while another process renames a directory can fail with EAGAIN, and must be tried again: openat2(2).
 * The bound ends the race with a container that does nothing else.
 */
enum { OPEN_TRIES_MAX = 128 };

/* Makes the system call with the arguments that the table of ops.h defines. */
static long call(const struct op *op) {
  long values[6] = {0};
  size_t used = 0, i = 0;
  for (const char *kind = op_kinds(op->code); *kind != '\0'; kind++, i++) {
    if (*kind >= '0' && *kind <= '9') values[i] = *kind - '0';
    else if (*kind == 'N') values[i] = (long)op->args[used - 1].length;
    else if (*kind == 'G') values[i] = (long)(op->args[used].length / 4);
    else if (*kind != 'Z') values[i] = value_of(&op->args[used++]);
  }
  long result;
  int tries = 0;
  do result = syscall(numbers[op->code], values[0], values[1], values[2], values[3], values[4], values[5]);
  while (result < 0 && errno == EAGAIN && op->code == OP_openat2 && ++tries < OPEN_TRIES_MAX);
  if (op->code == OP_close && op->args[0].reg >= 0) registers[op->args[0].reg] = -1;
  if (op->code == OP_write && result >= 0 && (uint32_t)result != op->args[1].length) {
    errno = EIO;
    return -1;
  }
  return result;
}

/* Detaches the process from the monitor: it outlives the monitor and keeps none of its fds. Called before a filter that may forbid these calls. */
static void leave_monitor(int link) {
  static bool has_left;
  const struct record record = {RECORD_READY, 0, 0, 0};
  /* Before the link is closed: without this record, its end means that the process was killed. */
  if (link >= 0 && !has_left) has_left = write(link, &record, sizeof record) > 0;
  prctl(PR_SET_PDEATHSIG, 0);
  syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
}

static long seccomp(const struct op *op, int link) {
  const struct arg *filter = &op->args[1];
  const size_t count = filter->length / sizeof(struct sock_filter);
  if (count == 0 || count > 65535 || filter->length % sizeof(struct sock_filter) != 0) {
    errno = EINVAL;
    return -1;
  }
  const struct sock_fprog program = {.len = (unsigned short)count, .filter = (struct sock_filter *)(uintptr_t)filter->bytes};
  leave_monitor(link);
  is_filtered = true;
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned int)op->args[0].number, &program);
}

/* Fills *at with pointers to the strings of a section and a null pointer. Returns the address after the null pointer. */
static char **fill_pointers(char **at, const struct strings *strings) {
  const char *text = strings->at;
  for (uint32_t i = 0; i < strings->count; i++) {
    *at++ = (char *)(uintptr_t)text;
    text += strlen(text) + 1;
  }
  *at++ = NULL;
  return at;
}

static long execute(const struct plan *plan, const struct op *op, int link) {
  static char *pointers[STRINGS_MAX] __attribute__((aligned(PAGE_BYTES)));
  char **env = fill_pointers(pointers, &plan->argv);
  fill_pointers(env, &plan->env);
  leave_monitor(link);
  execve((const char *)op->args[0].bytes, pointers, env);
  if (errno == EACCES) was_denied = true;
  if (was_denied && (errno == ENOENT || errno == ENOTDIR) && op->tolerated_count == 0) errno = EACCES;
  return -1;
}

/* Sends an fd over a Unix socket: a terminal's master to the monitor, or any fd to the peer of a socket of the plan. Source: unix(7). */
static long send_fd(int socket, int fd) {
  struct record record = {.kind = RECORD_TERMINAL};
  union {
    struct cmsghdr head;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec data = {.iov_base = &record, .iov_len = sizeof record};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &fd, sizeof fd);
  return sendmsg(socket, &message, MSG_NOSIGNAL);
}

/* Becomes the reaper, pid 1 of a pid namespace: waits for orphaned processes until SIGTERM. Does not return. */
static long reap(int link) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  prctl(PR_SET_NAME, "berth-reaper");
  leave_monitor(link);
  /* Also closes the link: to the monitor, end of file means that the process has started. */
  close_all_but(NULL, 0);
  forget_plan();
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    if (sigwaitinfo(&signals, NULL) == SIGTERM) _exit(0);
  }
}

/*
 * Continues the plan in a new child of the monitor and exits. The child gets new namespaces, owned by the user namespace that this process joined.
 * A process cannot enter a new pid namespace itself, and the monitor must not join the user namespace. `args` is struct clone3_args of main.c.
 */
static long move(const struct op *op, int link) {
  const uint64_t args[8] = {op->args[0].number | CLONE_PARENT};
  const long pid = syscall(SYS_clone3, args, sizeof args);
  if (pid < 0) return -1;
  if (pid == 0) {
    end_with_parent(link);
    return 0;
  }
  const struct record record = {RECORD_MOVED, (int32_t)pid, 0, 0};
  _exit(write(link, &record, sizeof record) < 0 ? EXIT_FAILED : 0);
}

/* Reports that the plan waits, then waits for one byte. End of file is an error. */
static long hold(int link, int from) {
  const struct record record = {RECORD_HELD, 0, 0, 0};
  char byte;
  if (write(link, &record, sizeof record) < 0) return -1;
  ssize_t count;
  do count = read(from, &byte, 1);
  while (count < 0 && errno == EINTR);
  if (count == 0) errno = EPIPE;
  return count == 1 ? 0 : -1;
}

/* Compares the file system of an fd with a magic number. A wrong one is EXDEV. */
static long check_fs(const struct op *op, bool expected) {
  struct statfs found;
  if (fstatfs(fd_of(&op->args[0]), &found) != 0) return -1;
  if (((uint64_t)found.f_type == op->args[1].number) == expected) return 0;
  errno = EXDEV;
  return -1;
}

/* Compares an fd with the number of a character device. Another file is ENODEV. */
static long expect_device(const struct op *op) {
  struct stat found;
  if (fstat(fd_of(&op->args[0]), &found) != 0) return -1;
  if (S_ISCHR(found.st_mode) && found.st_rdev == op->args[1].number) return 0;
  errno = ENODEV;
  return -1;
}

/* Only the path of a directory below the root starts with a slash: getcwd(2). Another one is EXDEV. */
static long expect_inside(void) {
  static char path[PATH_MAX] __attribute__((aligned(PAGE_BYTES)));
  if (syscall(SYS_getcwd, path, sizeof path) < 0) return -1;
  if (path[0] == '/') return 0;
  errno = EXDEV;
  return -1;
}

static long perform(const struct plan *plan, const struct op *op, int link) {
  switch (op->code) {
    case OP_move:
      return move(op, link);
    case OP_seccomp:
      return seccomp(op, link);
    case OP_execve:
      return execute(plan, op, link);
    case OP_reap:
      return reap(link);
    case OP_sendterminal:
      return send_fd(link, fd_of(&op->args[0]));
    case OP_hold:
      return hold(link, fd_of(&op->args[0]));
    case OP_sendfd:
      return send_fd(fd_of(&op->args[0]), fd_of(&op->args[1]));
    case OP_expect_fs:
      return check_fs(op, true);
    case OP_refuse_fs:
      return check_fs(op, false);
    case OP_expect_device:
      return expect_device(op);
    case OP_expect_inside:
      return expect_inside();
    default:
      return call(op);
  }
}

static int run_op(const struct plan *plan, const struct op *op, int link, int64_t *outcome) {
  const bool skipped = uses_absent(op);
  if (op->out >= 0) registers[op->out] = -1;
  *outcome = skipped ? STAMP_SKIPPED : 0;
  if (skipped) return 0;
  const long result = perform(plan, op, link);
  if (result < 0) {
    const int error = errno;
    const bool tolerated = tolerates(op, error);
    *outcome = tolerated ? -error : 0;
    return tolerated ? 0 : error;
  }
  *outcome = STAMP_DONE;
  if (op->out >= 0) registers[op->out] = (int)result;
  return 0;
}

int run_ops(const struct plan *plan, const unsigned char **at, uint32_t count, int link, struct stamp *stamps, uint32_t *index) {
  struct stamp unused;
  struct op op;
  for (*index = 0; *index < count; ++*index) {
    /* The plan was checked before its first operation. Check again: an operation may have overwritten it. */
    if (decode_op(at, plan->end, &op) != REFUSED_NOT) return EFAULT;
    struct stamp *stamp = stamps != NULL ? &stamps[*index] : &unused;
    if (stamps != NULL && !is_filtered) stamp->began_ns = monotonic_ns(link >= 0);
    const int error = run_op(plan, &op, link, &stamp->outcome);
    if (error != 0) return error;
  }
  return 0;
}
