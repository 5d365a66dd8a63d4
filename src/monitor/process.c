/*
 * The state of the running process: its registers, the memory of its plan and stamps, its open fds, and the death of its parent.
 *
 * The process is the monitor, its child, or the child that has become the reaper, so main.c and ops.c both use these functions.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int registers[REGISTERS_MAX];

static unsigned char plan_bytes[PLAN_BYTES_MAX + PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

/* The stamps are mapped over this part of the monitor's own memory: elsewhere they would need two more pages of page tables. */
static struct stamp stamp_memory[STAMPS_MAX] __attribute__((aligned(PAGE_BYTES)));
/* Shared with the child and the daemon. NULL: the run is not recorded. */
static struct stamp *stamps;
static size_t stamps_count;

int register_fd(int32_t reg) { return reg < 0 ? -1 : registers[reg]; }

const unsigned char *read_plan(size_t *length) {
  *length = 0;
  while (*length < PLAN_BYTES_MAX + 1) {
    const ssize_t count = pread(PLAN_FD, plan_bytes + *length, PLAN_BYTES_MAX + 1 - *length, (off_t)*length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    *length += (size_t)count;
  }
  close(PLAN_FD);
  return plan_bytes;
}

static bool map_stamp_memory(int flags, int fd) {
  return mmap(stamp_memory, sizeof stamp_memory, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != MAP_FAILED;
}

void map_stamps(const struct plan *plan) {
  struct stat file;
  stamps_count = (size_t)plan->parent_ops + plan->child_ops + 2;
  const bool fits = stamps_count <= STAMPS_MAX && fstat(STAMPS_FD, &file) == 0 && file.st_size == (off_t)(stamps_count * sizeof *stamps);
  if (fits && map_stamp_memory(MAP_SHARED, STAMPS_FD)) stamps = stamp_memory;
  close(STAMPS_FD);
}

struct stamp *stamps_from(size_t index) { return stamps != NULL ? stamps + index : NULL; }

void stamp_time(size_t index) {
  if (stamps != NULL) stamps[index].began_ns = monotonic_ns(false);
}

void stamp_end(void) { stamp_time(stamps_count - 1); }

void forget_plan(void) {
  madvise(plan_bytes, sizeof plan_bytes, MADV_DONTNEED);
  if (stamps != NULL) map_stamp_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  stamps = NULL;
}

/* Returns true if the other end of fd is closed: a pipe without a reader, a socket without its peer. */
static bool is_abandoned(int fd) {
  struct pollfd end = {.fd = fd};
  return poll(&end, 1, 0) > 0;
}

void end_with_parent(int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  /* The parent may have died before prctl(2). */
  if (is_abandoned(fd)) _exit(EXIT_FAILED);
}

void close_all_but(int *fds, size_t count) {
  for (size_t i = 1; i < count; i++)
    for (size_t j = i; j > 0 && fds[j - 1] > fds[j]; j--) {
      const int larger = fds[j - 1];
      fds[j - 1] = fds[j];
      fds[j] = larger;
    }
  unsigned int from = 3;
  for (size_t i = 0; i < count; i++) {
    if (fds[i] < (int)from) continue;
    if ((unsigned int)fds[i] > from) syscall(SYS_close_range, from, (unsigned int)fds[i] - 1, 0);
    from = (unsigned int)fds[i] + 1;
  }
  syscall(SYS_close_range, from, ~0U, 0);
}
