/*
 * The monitor: reads a plan, clones the process, runs the plan, reports, and parents what it started.
 *
 * Policy is in the plan. fds at start: 0-2; 3 the plan; 4 where reports go; 5 memory for stamps, or anything else for none; 6 and up the inherited
 * registers.
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
 *     | <- HELD pid               | <---------- HELD -----------  |    then it waits for a byte of the daemon's
 *     |                           | <- FAILED index, errno -----  |    then it exits
 *     |                           | <------- MOVED pid ---------  |    another goes on with the plan, and this one exits
 *     |                           | <----- end of file ---------  |    execve has succeeded, or it has become a reaping pid 1
 *     | <- STARTED pid            |                               |
 *     | <- EXITED status          | <---------- exit -----------  |    `exec` plans only; a container leaves exit.json
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* clone3(2), as of CLONE_ARGS_SIZE_VER2. */
struct clone3_args {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
static const uint64_t clone_into_cgroup = 0x200000000U;

static unsigned char plan_bytes[PLAN_BYTES_MAX + PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

/* Where the memory for stamps is mapped, amid the monitor's own: at any other place it would need two pages of page tables. */
static struct stamp stamp_memory[STAMPS_MAX] __attribute__((aligned(PAGE_BYTES)));
/* Shared with the child and the daemon; NULL when nobody wants to know. */
static struct stamp *stamps;
static size_t stamps_count;

static bool map_stamp_memory(int flags, int fd) {
  return mmap(stamp_memory, sizeof stamp_memory, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != MAP_FAILED;
}

void forget_plan(void) {
  madvise(plan_bytes, sizeof plan_bytes, MADV_DONTNEED);
  if (stamps != NULL) map_stamp_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  stamps = NULL;
}

/* A file of another size is none for this plan, and would not be safe to write to. */
static void map_stamps(const struct plan *plan) {
  struct stat file;
  stamps_count = (size_t)plan->parent_ops + plan->child_ops + 2;
  const bool fits = stamps_count <= STAMPS_MAX && fstat(STAMPS_FD, &file) == 0 && file.st_size == (off_t)(stamps_count * sizeof *stamps);
  if (fits && map_stamp_memory(MAP_SHARED, STAMPS_FD)) stamps = stamp_memory;
  close(STAMPS_FD);
}

static void stamp_time(size_t index) {
  if (stamps != NULL) stamps[index].began_ns = monotonic_ns(false);
}

/* Where the kernel gives huge pages unasked, the first byte of a buffer brings 2 MiB, and giving the buffer back leaves the rest. */
static void refuse_huge_pages(void) {
  extern char __bss_start[], _end[];
  char *const start = __bss_start + -(uintptr_t)__bss_start % PAGE_BYTES;
  madvise(start, (size_t)(_end - start), MADV_NOHUGEPAGE);
}

static void report(int32_t kind, int32_t a, int32_t b, int32_t c) {
  const struct record record = {kind, a, b, c};
  /* A daemon that has died reads nothing; the container goes on. */
  if (write(REPORT_FD, &record, sizeof record) < 0) return;
}

static void fail(enum phase phase, uint32_t index, int error) __attribute__((noreturn));
static void fail(enum phase phase, uint32_t index, int error) {
  if (stamps != NULL) stamp_time(stamps_count - 1);
  report(RECORD_FAILED, (int32_t)phase, (int32_t)index, error);
  _exit(EXIT_FAILED);
}

/* The length, or 0 when there is no plan. One byte more than the bound is read, and then refused. */
static size_t read_plan(void) {
  size_t length = 0;
  while (length < PLAN_BYTES_MAX + 1) {
    const ssize_t count = pread(PLAN_FD, plan_bytes + length, PLAN_BYTES_MAX + 1 - length, (off_t)length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    length += (size_t)count;
  }
  close(PLAN_FD);
  return length;
}

static void load_plan(struct plan *plan) {
  uint32_t index = 0;
  const enum refusal refusal = decode_plan(plan_bytes, read_plan(), plan, &index);
  if (refusal != REFUSED_NOT) {
    report(RECORD_REFUSED, refusal, (int32_t)index, 0);
    _exit(EXIT_FAILED);
  }
  for (size_t i = 0; i < REGISTERS_MAX; i++) registers[i] = i < plan->fds ? FIRST_REGISTER_FD + (int)i : -1;
}

/* Nothing of the monitor reaches the process: neither its signal mask nor ignored signals. */
static void reset_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  sigset_t none;
  for (int signal = 1; signal < _NSIG; signal++) sigaction(signal, &action, NULL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* True when nobody holds the other end any more: a pipe without a reader, a socket without its peer. */
static bool is_abandoned(int fd) {
  struct pollfd end = {.fd = fd};
  return poll(&end, 1, 0) > 0;
}

/*
 * Until the process has started, the end of the daemon is the end of the monitor, and that of the monitor the end of the process: the next daemon
 * finds what an interrupted start began by its cgroup, where it may not be yet. Who became an orphan before it asked for the signal sees it by its fd.
 */
void end_with_parent(int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (is_abandoned(fd)) _exit(EXIT_FAILED);
}

static void run_child(const struct plan *plan, const unsigned char *at, const int *links) __attribute__((noreturn));
static void run_child(const struct plan *plan, const unsigned char *at, const int *links) {
  const int link = links[1];
  uint32_t index = 0;
  reset_signals();
  close(links[0]);
  end_with_parent(link);
  const int error = run_ops(plan, &at, plan->child_ops, link, stamps != NULL ? stamps + plan->parent_ops + 1 : NULL, &index);
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
  /* All other arguments are 0, so their order, which differs between architectures, does not matter. */
  return (pid_t)syscall(SYS_clone, (unsigned long)plan->clone_flags | SIGCHLD, 0L, 0L, 0L, 0L);
}

/* One message of the child, and the fd that came with it. The length, 0 at the end. */
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

/* Waits until the process, which may be another than was cloned, has started. Its terminal, or -1. */
static int await_start(const struct plan *plan, pid_t *child, int link) {
  int terminal = -1;
  for (;;) {
    struct record record = {0};
    const ssize_t length = receive(link, &record, &terminal);
    if (length > 0 && record.kind == RECORD_TERMINAL) continue;
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
      /* Those of both, when it has moved. */
      while (waitpid(-1, NULL, 0) > 0) continue;
      fail(PHASE_CHILD, (uint32_t)record.b, record.c);
    }
    if (length >= 0) break;
    fail(PHASE_CLONE, 0, errno);
  }
  if (terminal < 0 && plan->has_terminal) {
    kill(*child, SIGKILL);
    waitpid(*child, NULL, 0);
    fail(PHASE_SUPERVISE, 1, ENOTTY);
  }
  return terminal;
}

/* Waits for the process and reports its end. Holds nothing open meanwhile: its output pipes end with it. */
static void wait_exec(pid_t child) __attribute__((noreturn));
static void wait_exec(pid_t child) {
  int kept[] = {REPORT_FD};
  int status = 0;
  close_all_but(kept, 1);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  report(RECORD_EXITED, status, (int32_t)child, 0);
  _exit(0);
}

/* Every signal waits for ever, SIGPIPE and SIGTERM too; the child's end comes through the fd. */
static int hold_signals(void) {
  sigset_t all, child;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(void) {
  static struct plan plan;
  /* First of all: a container that the monitor joins must not reach it through /proc. */
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
  const int error = run_ops(&plan, &at, plan.parent_ops, -1, stamps, &index);
  if (error != 0) fail(PHASE_PARENT, index, error);
  stamp_time(plan.parent_ops);
  const int unprepared = supervise_prepare(&plan);
  if (unprepared != 0) fail(PHASE_SUPERVISE, 0, unprepared);
  const int signals = hold_signals();
  if (signals < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0) fail(PHASE_CLONE, 0, errno);

  pid_t child = clone_child(&plan);
  if (child < 0) fail(PHASE_CLONE, 0, errno);
  if (child == 0) run_child(&plan, at, link);
  close(link[1]);
  const int terminal = await_start(&plan, &child, link[0]);
  prctl(PR_SET_PDEATHSIG, 0);
  stamp_time(stamps_count - 1);
  report(RECORD_STARTED, (int32_t)child, 0, 0);
  if (plan.mode == MODE_NONE) _exit(0);
  forget_plan();
  if (plan.mode == MODE_EXEC) wait_exec(child);
  supervise(&plan, child, terminal, signals);
}
