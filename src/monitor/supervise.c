/*
 * Supervises a container until it exits: copies its output to the log, answers requests on the control socket, and writes the exit record.
 *
 * Only poll(2) blocks: neither a client, nor a full disk, nor a process that keeps the output open delays the exit of the container.
 *
 * A control request is one frame of 16 bytes (operation and three arguments, u32 each, unused ones 0). The reply has 8 (operation u32, errno i32):
 *   1  reopen the log
 *   2  resize the terminal: rows, columns
 *  16  attach: ATTACH_* bits; on success attach.c takes over the socket
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 8, READ_BYTES = PAGE_BYTES, IDLE_AFTER_MS = 1000, RECORD_TRIES = 10, RECORD_BYTES = 256 };
/* The most that a pipe or a terminal can hold when its writer has exited. Anything beyond comes from processes that are not waited for. */
enum { DRAIN_BYTES_MAX = 1 << 20 };
enum control { CONTROL_REOPEN_LOG = 1, CONTROL_RESIZE = 2, CONTROL_ATTACH = 16 };

struct client {
  int fd;
  uint32_t filled;
  unsigned char frame[16];
};

static struct stream streams[2];
static struct client clients[CLIENTS_MAX];
static size_t next_client;
/* Not in struct stream: most containers never touch these pages. */
static unsigned char lines[2][LINE_BYTES_MAX] __attribute__((aligned(PAGE_BYTES)));
static unsigned char read_buffer[READ_BYTES] __attribute__((aligned(PAGE_BYTES)));

/* Reserves the disk space of the exit record before the process starts, so that its exit code is not lost if the process fills the disk. */
static void reserve_record(int dir) {
  static const char blank[RECORD_BYTES];
  const int fd = openat(dir, "exit.json.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  if (write(fd, blank, sizeof blank) < 0) errno = 0; /* The disk is full: finish() retries. */
  close(fd);
}

int supervise_prepare(const struct plan *plan) {
  if (plan->mode != MODE_CONTAINER) return 0;
  if (register_fd(plan->exit_dir) < 0) return EBADF;
  const int error = log_open(register_fd(plan->log_dir), plan->log_name.at, plan->line_bytes_max);
  if (error == 0) reserve_record(register_fd(plan->exit_dir));
  return error;
}

static void unblock(int fd) {
  if (fd >= 0) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void end_stream(struct stream *stream) {
  log_end(stream);
  attach_lose_input(stream->fd);
  close(stream->fd);
  stream->fd = -1;
}

/* Reads once. Returns the number of bytes, 0 if nothing is available or the stream has ended. */
static size_t pump(struct stream *stream) {
  const ssize_t count = read(stream->fd, read_buffer, sizeof read_buffer);
  if (count > 0) {
    log_bytes(stream, read_buffer, (size_t)count);
    attach_output(1 + (uint32_t)(stream - streams), read_buffer, (size_t)count);
    return (size_t)count;
  }
  /* EIO: the terminal was hung up. */
  if (count == 0 || (errno != EAGAIN && errno != EINTR)) end_stream(stream);
  return 0;
}

static void drain(struct stream *stream) {
  size_t drained = 0;
  while (stream->fd >= 0 && drained < DRAIN_BYTES_MAX) {
    attach_settle();
    const size_t count = pump(stream);
    if (count == 0) break;
    drained += count;
  }
  if (stream->fd >= 0) end_stream(stream);
}

static uint32_t word(const unsigned char *frame, size_t index) {
  uint32_t value;
  memcpy(&value, frame + 4 * index, sizeof value);
  return value;
}

static int resize(int terminal, uint32_t rows, uint32_t columns) {
  if (terminal < 0) return ENOTTY;
  if (rows > UINT16_MAX || columns > UINT16_MAX) return EINVAL;
  const struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
  return ioctl(terminal, TIOCSWINSZ, &size) < 0 ? errno : 0;
}

static int answer(int fd, const unsigned char *frame, int terminal) {
  switch (word(frame, 0)) {
    case CONTROL_REOPEN_LOG:
      return word(frame, 1) | word(frame, 2) | word(frame, 3) ? EINVAL : log_reopen();
    case CONTROL_RESIZE:
      return word(frame, 3) ? EINVAL : resize(terminal, word(frame, 1), word(frame, 2));
    case CONTROL_ATTACH:
      return word(frame, 2) | word(frame, 3) ? EINVAL : attach_client(fd, word(frame, 1));
    default:
      return EOPNOTSUPP;
  }
}

static void drop_client(struct client *client) {
  close(client->fd);
  client->fd = -1;
}

static void serve_client(struct client *client, int terminal) {
  const ssize_t count = recv(client->fd, client->frame + client->filled, sizeof client->frame - client->filled, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    drop_client(client);
    return;
  }
  client->filled += (uint32_t)count;
  if (client->filled < sizeof client->frame) return;
  client->filled = 0;
  const int32_t reply[2] = {(int32_t)word(client->frame, 0), answer(client->fd, client->frame, terminal)};
  const bool is_sent = send(client->fd, reply, sizeof reply, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof reply;
  if (reply[0] == CONTROL_ATTACH && reply[1] == 0) client->fd = -1;
  /* The client does not read its replies. */
  else if (!is_sent) drop_client(client);
}

/* If all slots are in use, the oldest client is dropped: idle clients must not lock out the daemon. */
static void accept_client(int control) {
  const int fd = accept4(control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  struct client *client = &clients[next_client];
  next_client = (next_client + 1) % CLIENTS_MAX;
  if (client->fd >= 0) close(client->fd);
  client->fd = fd;
  client->filled = 0;
}

static char *put_text(char *at, const char *text) {
  const size_t length = strlen(text);
  memcpy(at, text, length);
  return at + length;
}

/*
 * `fd` is memory.events of the container's cgroup. `kills` is the number of its processes that the OOM killer has killed; -1: unknown.
 * A service manager may remove the cgroup as soon as the last process has exited. The file is therefore read whenever the kernel signals a
 * change (at most every 10 ms), and first of all after the exit. The last value read counts.
 */
static struct {
  int fd;
  int64_t kills;
} oom = {.fd = -1, .kills = -1};

static void count_oom_kills(void) {
  char text[512];
  if (oom.fd < 0) return;
  const ssize_t length = pread(oom.fd, text, sizeof text - 1, 0);
  if (length < 0) {
    /* The cgroup was removed: poll(2) would always report the file as ready. */
    close(oom.fd);
    oom.fd = -1;
    return;
  }
  text[length] = '\0';
  const char *digit = strstr(text, "\noom_kill ");
  if (digit == NULL) return;
  oom.kills = 0;
  for (digit += sizeof "\noom_kill " - 1; *digit >= '0' && *digit <= '9'; digit++) oom.kills = 10 * oom.kills + (*digit - '0');
}

static size_t exit_record(char *record, pid_t pid, int status, uint64_t finished_ns) {
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  const struct {
    const char *name;
    uint64_t value;
  } fields[] = {
      {"{\"version\":1,\"pid\":", (uint64_t)pid},
      {",\"status\":", (uint64_t)status},
      {",\"exitCode\":", (uint64_t)(signal ? 128 + signal : WEXITSTATUS(status))},
      {",\"signal\":", (uint64_t)signal},
      {",\"droppedLogBytes\":", log_dropped_bytes()},
      {",\"finishedAtNs\":\"", finished_ns},
  };
  char *at = record;
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) at = put_number(put_text(at, fields[i].name), fields[i].value, 1);
  at = put_text(at, "\"");
  if (oom.kills >= 0) at = put_number(put_text(at, ",\"oomKills\":"), (uint64_t)oom.kills, 1);
  return (size_t)(put_text(at, "}\n") - record);
}

static bool write_record(int dir, const char *record, size_t length) {
  const int fd = openat(dir, "exit.json.tmp", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  const bool is_written = write(fd, record, length) == (ssize_t)length && ftruncate(fd, (off_t)length) == 0;
  return close(fd) == 0 && is_written && renameat(dir, "exit.json.tmp", dir, "exit.json") == 0;
}

/* Completes the log before it writes the record: a reader that sees the exit can read the whole log. */
static void finish(int exit_dir, pid_t child, int status) __attribute__((noreturn));
static void finish(int exit_dir, pid_t child, int status) {
  char record[RECORD_BYTES];
  const struct timespec pause = {.tv_nsec = 200000000};
  const uint64_t finished_ns = now_ns();
  for (size_t i = 0; i < 2; i++) drain(&streams[i]);
  attach_finish();
  log_flush();
  const size_t length = exit_record(record, child, status, finished_ns);
  for (int tries = 0; tries < RECORD_TRIES; tries++) {
    if (write_record(exit_dir, record, length)) _exit(0);
    /* The directory was removed, so nobody will read the record. */
    if (errno == ENOENT) break;
    nanosleep(&pause, NULL);
  }
  _exit(EXIT_NO_RECORD);
}

/* Exits if the container has exited. */
static void reap_child(int signals, int exit_dir, pid_t child) {
  struct signalfd_siginfo info;
  int status;
  count_oom_kills();
  while (read(signals, &info, sizeof info) > 0) continue;
  if (waitpid(child, &status, WNOHANG) == child) finish(exit_dir, child, status);
}

static void start_streams(const struct plan *plan, int terminal) {
  streams[0] = (struct stream){.fd = terminal >= 0 ? terminal : register_fd(plan->out), .name = "stdout", .line = lines[0]};
  streams[1] = (struct stream){.fd = register_fd(plan->err), .name = "stderr", .line = lines[1]};
  for (size_t i = 0; i < 2; i++) unblock(streams[i].fd);
  for (size_t i = 0; i < CLIENTS_MAX; i++) clients[i].fd = -1;
}

void supervise(const struct plan *plan, pid_t child, int terminal, int signals) {
  enum { SIGNALS, CONTROL, STREAMS, CLIENTS = STREAMS + 2, MEMORY = CLIENTS + CLIENTS_MAX, ATTACHED, POLLED = ATTACHED + ATTACH_POLLED };
  const int exit_dir = register_fd(plan->exit_dir);
  const int control = register_fd(plan->control);
  oom.fd = register_fd(plan->memory_events);
  count_oom_kills();
  /* Reads of a master fail while no process has the terminal open, and a container may close and reopen it. Keep it open. */
  const int kept_terminal = terminal < 0 ? -1 : ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  const int input = terminal >= 0 ? terminal : register_fd(plan->in);
  start_streams(plan, terminal);
  unblock(control);
  unblock(input);
  attach_start(input, terminal >= 0);
  int kept[] = {signals, control, streams[0].fd, streams[1].fd, input, register_fd(plan->log_dir), log_fd(), exit_dir, oom.fd, kept_terminal};
  close_all_but(kept, sizeof kept / sizeof *kept);
  bool is_idle = false;
  for (;;) {
    struct pollfd polled[POLLED] = {[SIGNALS] = {.fd = signals}, [CONTROL] = {.fd = control}};
    const int patience_ms = attach_patience_ms();
    for (size_t i = 0; i < 2; i++) polled[STREAMS + i].fd = patience_ms > 0 ? -1 : streams[i].fd;
    for (size_t i = 0; i < CLIENTS_MAX; i++) polled[CLIENTS + i].fd = clients[i].fd;
    for (size_t i = 0; i < ATTACHED; i++) polled[i].events = POLLIN;
    polled[MEMORY] = (struct pollfd){.fd = oom.fd, .events = POLLPRI};
    const size_t attached = attach_poll(polled + ATTACHED);
    const uint64_t before_us = patience_ms > 0 ? monotonic_us() : 0;
    const int ready = poll(polled, ATTACHED + attached, patience_ms > 0 ? patience_ms : is_idle ? -1 : IDLE_AFTER_MS);
    if (patience_ms > 0) attach_waited(monotonic_us() - before_us);
    is_idle = ready == 0 && patience_ms == 0;
    if (is_idle) {
      attach_idle();
      madvise(read_buffer, sizeof read_buffer, MADV_DONTNEED);
      log_idle();
    }
    if (ready <= 0) continue;
    if (polled[MEMORY].revents != 0) count_oom_kills();
    for (size_t i = 0; i < 2; i++)
      if (polled[STREAMS + i].revents != 0) pump(&streams[i]);
    log_flush();
    for (size_t i = 0; i < CLIENTS_MAX; i++)
      if (polled[CLIENTS + i].revents != 0) serve_client(&clients[i], streams[0].fd == terminal ? terminal : -1);
    attach_serve(polled + ATTACHED, attached);
    if (polled[CONTROL].revents != 0) accept_client(control);
    if (polled[SIGNALS].revents != 0) reap_child(signals, exit_dir, child);
  }
}
