/*
 * The monitor: reads a plan, runs the parent's operations, clones the child that runs the others, reports to the daemon, and waits for the process.
 *
 * All policy is in the plan. fds at start: 0-2 standard streams; 3 plan; 4 report pipe; 5 memory for stamps, or any other file if the run is not
 * recorded; 6 and up inherited registers.
 *
 *   daemon                     monitor                          child
 *     | -- plan, registers -->    |                               |
 *     |                      check the plan                       |
 *     | <- REFUSED reason, index  |                               |
 *     |                      parent operations                    |
 *     | <- FAILED phase, index, errno                             |
 *     |                           | ---------- clone ---------->  |
 *     |                           |                       child operations
 *     |                           | <------ TERMINAL + fd ------  |
 *     | <- HELD pid               | <---------- HELD -----------  |    then waits for one byte from the daemon
 *     |                           | <- FAILED index, errno -----  |    then exits
 *     |                           | <------- MOVED pid ---------  |    then exits; a new child continues the plan
 *     |                           | <-------- READY ------------  |    execve or the seccomp filter comes next
 *     |                           | <----- end of file ---------  |    execve succeeded, or the child became the reaper; without READY: it was killed
 *     | <- STARTED pid            |                               |
 *     | <- EXITED status          | <---------- exit -----------  |    `exec` plans only; for a container, exit.json is written
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* struct clone_args of clone3(2), CLONE_ARGS_SIZE_VER2. */
struct clone3_args {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
static const uint64_t clone_into_cgroup = 0x200000000U;

/* With transparent huge pages set to `always`, the first byte of a buffer allocates 2 MiB, and freeing the buffer keeps the rest. */
static void refuse_huge_pages(void) {
  extern char __bss_start[], _end[];
  char *const start = __bss_start + -(uintptr_t)__bss_start % PAGE_BYTES;
  madvise(start, (size_t)(_end - start), MADV_NOHUGEPAGE);
}

static void report(int32_t kind, int32_t a, int32_t b, int32_t c) {
  const struct record record = {kind, a, b, c};
  /* The write fails if the daemon has died; the container must continue. */
  if (write(REPORT_FD, &record, sizeof record) < 0) return;
}

static void fail(enum phase phase, uint32_t index, int error) __attribute__((noreturn));
static void fail(enum phase phase, uint32_t index, int error) {
  stamp_end();
  report(RECORD_FAILED, (int32_t)phase, (int32_t)index, error);
  _exit(EXIT_FAILED);
}

static void load_plan(struct plan *plan) {
  uint32_t index = 0;
  size_t length;
  const unsigned char *bytes = read_plan(&length);
  const enum refusal refusal = decode_plan(bytes, length, plan, &index);
  if (refusal != REFUSED_NOT) {
    report(RECORD_REFUSED, refusal, (int32_t)index, 0);
    _exit(EXIT_FAILED);
  }
  for (size_t i = 0; i < REGISTERS_MAX; i++) registers[i] = i < plan->fds ? FIRST_REGISTER_FD + (int)i : -1;
}

/* The process must not inherit the monitor's signal mask or ignored signals. */
static void reset_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  sigset_t none;
  for (int signal = 1; signal < _NSIG; signal++) sigaction(signal, &action, NULL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static void run_child(const struct plan *plan, const unsigned char *at, const int *links) __attribute__((noreturn));
static void run_child(const struct plan *plan, const unsigned char *at, const int *links) {
  const int link = links[1];
  uint32_t index = 0;
  reset_signals();
  close(links[0]);
  end_with_parent(link);
  const int error = run_ops(plan, &at, plan->child_ops, link, stamps_from((size_t)plan->parent_ops + 1), &index);
  const struct record record = {RECORD_FAILED, PHASE_CHILD, (int32_t)index, error};
  if (write(link, &record, sizeof record) < 0) _exit(126);
  _exit(127);
}

static pid_t clone_child(const struct plan *plan) {
  struct clone3_args args = {.flags = plan->clone_flags, .exit_signal = SIGCHLD};
  if (plan->clone_cgroup >= 0) {
    args.flags |= clone_into_cgroup;
    args.cgroup = (uint64_t)registers[plan->clone_cgroup];
  }
  const pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  if (pid >= 0 || errno != ENOSYS || plan->clone_cgroup >= 0) return pid;
  /* The order of the other arguments differs between architectures, but all are 0. */
  return (pid_t)syscall(SYS_clone, (unsigned long)plan->clone_flags | SIGCHLD, 0L, 0L, 0L, 0L);
}

/* Receives one message of the child, and the fd that may be attached to it. Returns its length, 0 at end of file. */
static ssize_t receive(int link, struct record *record, int *fd) {
  union {
    struct cmsghdr head;
    char space[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec data = {.iov_base = record, .iov_len = sizeof *record};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t length;
  do length = recvmsg(link, &message, MSG_CMSG_CLOEXEC);
  while (length < 0 && errno == EINTR);
  const struct cmsghdr *head = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
  if (head != NULL && head->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(head), sizeof *fd);
  return length;
}

/* Waits until the process has started. It may not be the one that was cloned (RECORD_MOVED). Returns its terminal, or -1. */
static int await_start(const struct plan *plan, pid_t *child, int link) {
  int terminal = -1;
  bool is_ready = false;
  for (;;) {
    struct record record = {0};
    const ssize_t length = receive(link, &record, &terminal);
    if (length > 0 && record.kind == RECORD_TERMINAL) continue;
    if (length > 0 && record.kind == RECORD_READY) {
      is_ready = true;
      continue;
    }
    if (length > 0 && record.kind == RECORD_HELD) {
      report(RECORD_HELD, *child, 0, 0);
      continue;
    }
    if (length > 0 && record.kind == RECORD_MOVED) {
      waitpid(*child, NULL, 0);
      *child = record.a;
      continue;
    }
    if (length > 0 && record.kind == RECORD_FAILED) {
      /* After RECORD_MOVED there may be two children. */
      while (waitpid(-1, NULL, 0) > 0) continue;
      fail(PHASE_CHILD, (uint32_t)record.b, record.c);
    }
    if (length < 0) fail(PHASE_CLONE, 0, errno);
    if (is_ready) break;
    waitpid(*child, NULL, 0);
    fail(PHASE_SUPERVISE, 3, ESRCH);
  }
  if (terminal < 0 && plan->has_terminal) {
    kill(*child, SIGKILL);
    waitpid(*child, NULL, 0);
    fail(PHASE_SUPERVISE, 1, ENOTTY);
  }
  return terminal;
}

/* Gives up what the monitor does not need once the process has started: the plan says what. */
static void confine(const struct plan *plan, pid_t child) {
  const unsigned char *at = plan->confine;
  uint32_t index = 0;
  const int error = run_ops(plan, &at, plan->confine_ops, -1, NULL, &index);
  if (error == 0) return;
  /* A process of another user can no longer be killed by a monitor that has given up its capabilities; the daemon kills it by its cgroup. */
  if (kill(child, SIGKILL) == 0) waitpid(child, NULL, 0);
  fail(PHASE_SUPERVISE, 2, error);
}

/* Waits for the process and reports its exit status. Keeps no other fd open, so that the output pipes reach end of file with the process. */
static void wait_exec(pid_t child) __attribute__((noreturn));
static void wait_exec(pid_t child) {
  int kept[] = {REPORT_FD};
  int status = 0;
  close_all_but(kept, 1);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  report(RECORD_EXITED, status, (int32_t)child, 0);
  _exit(0);
}

/* Blocks all signals, SIGPIPE and SIGTERM included. Returns a signalfd for SIGCHLD. */
static int block_signals(void) {
  sigset_t all, child;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(void) {
  static struct plan plan;
  /* Must be first: a container whose namespaces the monitor joins must not reach it through /proc. */
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_NAME, "berth-monitor");
  refuse_huge_pages();
  if (fcntl(PLAN_FD, F_GETFD) < 0 || fcntl(REPORT_FD, F_GETFD) < 0 || chdir("/") < 0) return EXIT_MISUSED;
  end_with_parent(REPORT_FD);
  syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
  load_plan(&plan);
  map_stamps(&plan);

  const unsigned char *at = plan.ops;
  uint32_t index = 0;
  int link[2];
  const int error = run_ops(&plan, &at, plan.parent_ops, -1, stamps_from(0), &index);
  if (error != 0) fail(PHASE_PARENT, index, error);
  stamp_time(plan.parent_ops);
  const int unprepared = supervise_prepare(&plan);
  if (unprepared != 0) fail(PHASE_SUPERVISE, 0, unprepared);
  const int signals = block_signals();
  if (signals < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0) fail(PHASE_CLONE, 0, errno);

  pid_t child = clone_child(&plan);
  if (child < 0) fail(PHASE_CLONE, 0, errno);
  if (child == 0) run_child(&plan, at, link);
  close(link[1]);
  const int terminal = await_start(&plan, &child, link[0]);
  prctl(PR_SET_PDEATHSIG, 0);
  confine(&plan, child);
  stamp_end();
  report(RECORD_STARTED, (int32_t)child, 0, 0);
  if (plan.mode == MODE_NONE) _exit(0);
  forget_plan();
  if (plan.mode == MODE_EXEC) wait_exec(child);
  supervise(&plan, child, terminal, signals);
}
