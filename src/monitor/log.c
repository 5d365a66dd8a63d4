/*
 * Converts a container's output to lines of the CRI log: `<time> <stdout|stderr> <F|P> <content>\n`, kubelet's pkg/kubelet/kuberuntime/logs.
 *
 * Content is never changed. A failed write never blocks the container: lines that cannot be written are dropped and counted.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* FRAME_BYTES is a line without its content: time 30, stream name 6, tag 1, spaces 3, newline 1. */
enum { OUT_BYTES_MAX = 4 * LINE_BYTES_MAX, FRAME_BYTES = 41 };

static struct {
  int dir, fd;
  /* A copy: the plan's memory is released. */
  char name[NAME_MAX + 1];
  uint32_t line_bytes_max;
  /* The last line is incomplete and could not be truncated: the next write begins with a newline. */
  bool is_torn;
  uint64_t dropped_bytes;
  /* Time of the last line. Each line has a later time than the one before, even if the clock steps back. */
  uint64_t last_ns;
  time_t stamped_second;
  char stamp[20];
} log_file = {.dir = -1, .fd = -1, .stamped_second = -1};

static char out[OUT_BYTES_MAX] __attribute__((aligned(PAGE_BYTES)));
static size_t out_used;

/* Never blocks: if the path is a FIFO or a device, opening it fails instead. */
static int open_file(void) {
  return openat(log_file.dir, log_file.name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
}

int log_open(int dir, const char *name, uint32_t line_bytes_max) {
  if (dir < 0) return 0;
  if (strlen(name) > NAME_MAX) return ENAMETOOLONG;
  strcpy(log_file.name, name);
  log_file.dir = dir;
  log_file.line_bytes_max = line_bytes_max;
  log_file.fd = open_file();
  return log_file.fd < 0 ? errno : 0;
}

int log_reopen(void) {
  if (log_file.dir < 0) return 0;
  log_flush();
  const int fd = open_file();
  if (fd < 0) return errno;
  close(log_file.fd);
  log_file.fd = fd;
  log_file.is_torn = false;
  return 0;
}

int log_fd(void) { return log_file.fd; }

uint64_t log_dropped_bytes(void) { return log_file.dropped_bytes; }

void log_idle(void) { madvise(out, sizeof out, MADV_DONTNEED); }

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

uint64_t monotonic_ns(bool may_grow) {
  struct timespec now = {0};
  if (may_grow)
    clock_gettime(CLOCK_MONOTONIC, &now);
  else
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

char *put_number(char *at, uint64_t value, int digits) {
  char reversed[20];
  int count = 0;
  do {
    reversed[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  for (; digits > count; digits--) *at++ = '0';
  while (count > 0) *at++ = reversed[--count];
  return at;
}

/* Formats `2026-01-02T03:04:05.` once per second: it costs more than the rest of a line. */
static void stamp_second(time_t second) {
  struct tm utc;
  if (second == log_file.stamped_second || gmtime_r(&second, &utc) == NULL) return;
  const int fields[] = {utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec};
  static const char after[] = "--T::.";
  char *at = log_file.stamp;
  for (size_t i = 0; i < 6; i++) {
    at = put_number(at, (uint64_t)fields[i], i == 0 ? 4 : 2);
    *at++ = after[i];
  }
  log_file.stamped_second = second;
}

static char *put(char *at, const void *bytes, size_t length) {
  memcpy(at, bytes, length);
  return at + length;
}

/* Appends one line. Its content is `stream->held` bytes of `stream->line` and then `rest`; either may be empty. */
static void put_line(const struct stream *stream, char tag, const unsigned char *rest, size_t rest_length, uint64_t time_ns) {
  if (sizeof out - out_used < FRAME_BYTES + stream->held + rest_length) log_flush();
  log_file.last_ns = time_ns > log_file.last_ns ? time_ns : log_file.last_ns + 1;
  stamp_second((time_t)(log_file.last_ns / 1000000000U));
  char *at = put(out + out_used, log_file.stamp, sizeof log_file.stamp);
  at = put_number(at, log_file.last_ns % 1000000000U, 9);
  at = put(at, "Z ", 2);
  at = put(at, stream->name, 6);
  *at++ = ' ';
  *at++ = tag;
  *at++ = ' ';
  at = put(at, stream->line, stream->held);
  at = put(at, rest, rest_length);
  *at++ = '\n';
  out_used = (size_t)(at - out);
}

/* Takes `length` bytes without a newline. Splits them at the maximum line length, and holds the last piece until its newline arrives. */
static void hold(struct stream *stream, const unsigned char *bytes, size_t length, uint64_t time_ns) {
  while (length > 0) {
    const size_t room = log_file.line_bytes_max - stream->held;
    if (room == 0) {
      put_line(stream, 'P', stream->line, 0, time_ns);
      stream->held = 0;
      continue;
    }
    const size_t taken = length < room ? length : room;
    memcpy(stream->line + stream->held, bytes, taken);
    stream->held += (uint32_t)taken;
    bytes += taken;
    length -= taken;
  }
}

void log_bytes(struct stream *stream, const unsigned char *bytes, size_t length) {
  if (log_file.fd < 0) return;
  const uint64_t time_ns = now_ns();
  while (length > 0) {
    const unsigned char *newline = memchr(bytes, '\n', length);
    size_t line = newline == NULL ? length : (size_t)(newline - bytes);
    const size_t consumed = newline == NULL ? line : line + 1;
    if (newline == NULL || stream->held + line > log_file.line_bytes_max) {
      hold(stream, bytes, line, time_ns);
      line = 0;
    }
    if (newline != NULL) {
      put_line(stream, 'F', newline - line, line, time_ns);
      stream->held = 0;
    }
    bytes += consumed;
    length -= consumed;
  }
}

/*
 * A last line without a newline stays partial, as in containerd: the kubelet shows a full one with a newline, and Kubernetes' conformance test of
 * termination messages from logs compares the exact bytes.
 */
void log_end(struct stream *stream) {
  if (log_file.fd >= 0 && stream->held > 0) put_line(stream, 'P', stream->line, 0, now_ns());
  stream->held = 0;
}

/* Writes as much as possible. Returns the number of bytes written. */
static size_t write_out(const char *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    const ssize_t count = write(log_file.fd, bytes + done, length - done);
    if (count > 0) done += (size_t)count;
    else if (count == 0 || errno != EINTR) break;
  }
  return done;
}

/* Truncates a line that was written in part, so that the file contains only complete lines. Counts what was dropped. */
static void untear(size_t written) {
  const char *last = written == 0 ? NULL : memrchr(out, '\n', written);
  const size_t whole = last == NULL ? 0 : (size_t)(last - out) + 1;
  log_file.dropped_bytes += out_used - whole;
  if (whole == written) return;
  const off_t end = lseek(log_file.fd, 0, SEEK_CUR);
  log_file.is_torn = end < (off_t)(written - whole) || ftruncate(log_file.fd, end - (off_t)(written - whole)) != 0;
}

void log_flush(void) {
  if (out_used == 0) return;
  if (log_file.is_torn && write_out("\n", 1) == 1) log_file.is_torn = false;
  const size_t written = log_file.is_torn ? 0 : write_out(out, out_used);
  if (written < out_used) untear(written);
  out_used = 0;
}
