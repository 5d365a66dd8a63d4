/*
 * Attached clients: each receives a copy of the container's output and may send input.
 *
 * A control request (supervise.c) turns a client into an attached client. From then on it receives frames. A frame is a u32 and a payload. The low 24
 * bits of the u32 are the length of the payload, the high 8 bits its type: 1 stdout; 2 stderr; 3 a u64, the number of bytes of output that are missing
 * here; 4 empty, the end of the output, sent only if all bytes were sent or reported as missing. Bytes from the client are the container's input,
 * without framing. If the client requested it (ATTACH_ENDS_STDIN), its end of file is the end of the container's input.
 *
 * A client never blocks the container for long. Output that it does not read fills its socket, then its buffer here, and is then dropped and counted:
 * the log has every byte, and a reported gap is better than a container that hangs. To deliver bursts completely, the monitor stops reading the
 * container's output while a client has no room. Each client has PATIENCE_US_MAX of such waiting; every PATIENT_BYTES_PER_US bytes that it reads
 * restore 1 us of it.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HELD_BYTES = 2 * PAGE_BYTES, SEND_BUFFER_BYTES = 1 << 19, PATIENCE_US_MAX = 100000, PATIENT_BYTES_PER_US = 16 };
enum frame_stream { FRAME_LOST = 3, FRAME_END = 4 };

struct attached {
  int fd;
  uint32_t requested;
  /* The part of its buffer that is not sent yet. */
  uint32_t from, to;
  int64_t patience_us;
  uint64_t lost_bytes;
  bool has_ended_input;
  /* It has hung up. What it sent before is read when the container's input has room. */
  bool is_gone;
};

static struct attached clients[ATTACHED_MAX];
static size_t client_count;
/* The buffers below may have been used since attach_idle() released them. */
static bool is_used;
/* Not touched until a client is slow. */
static unsigned char held[ATTACHED_MAX][HELD_BYTES] __attribute__((aligned(PAGE_BYTES)));

static struct {
  int fd;
  bool is_terminal;
  uint32_t from, to;
} input = {.fd = -1};
static unsigned char input_bytes[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

static bool has_input(void) { return input.from < input.to; }
static bool is_full(const struct attached *client) { return client->from < client->to; }

void attach_start(int input_fd, bool is_terminal) {
  input.fd = input_fd;
  input.is_terminal = is_terminal;
  for (size_t i = 0; i < ATTACHED_MAX; i++) clients[i].fd = -1;
}

void attach_lose_input(int fd) {
  if (input.fd != fd) return;
  input.fd = -1;
  input.from = input.to = 0;
}

static void end_input(void) {
  const int fd = input.fd;
  /* The input of a terminal cannot end without a hangup. As with containerd and CRI-O, it stays open for the next client. */
  if (fd < 0 || input.is_terminal) return;
  attach_lose_input(fd);
  close(fd);
}

static void drop(struct attached *client) {
  close(client->fd);
  client->fd = -1;
  client_count--;
}

static struct attached *free_slot(void) {
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].fd < 0) return &clients[i];
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].is_gone) {
      drop(&clients[i]);
      return &clients[i];
    }
  return NULL;
}

int attach_client(int fd, uint32_t requested) {
  const int send_bytes = SEND_BUFFER_BYTES;
  if (requested == 0 || requested > ATTACH_ALL) return EINVAL;
  struct attached *client = free_slot();
  if (client == NULL) return EBUSY;
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof send_bytes) < 0)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
  *client = (struct attached){.fd = fd, .requested = requested, .patience_us = PATIENCE_US_MAX};
  client_count++;
  is_used = true;
  return 0;
}

static void earn_patience(struct attached *client, size_t bytes) {
  const int64_t patience_us = client->patience_us + (int64_t)(bytes / PATIENT_BYTES_PER_US);
  client->patience_us = patience_us < PATIENCE_US_MAX ? patience_us : PATIENCE_US_MAX;
}

/* Sends without blocking. Returns the number of bytes sent; drops the client if its socket is broken. */
static size_t send_parts(struct attached *client, struct iovec *parts, size_t count) {
  const struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
  const ssize_t sent = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent > 0) {
    earn_patience(client, (size_t)sent);
    return (size_t)sent;
  }
  if (sent < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS) drop(client);
  return 0;
}

static void hold(struct attached *client, const void *bytes, size_t length) {
  memcpy(held[client - clients] + client->to, bytes, length);
  client->to += (uint32_t)length;
}

static void hold_frame(struct attached *client, uint32_t stream, const void *bytes, size_t length) {
  const uint32_t head = stream << 24 | (uint32_t)length;
  hold(client, &head, sizeof head);
  if (length > 0) hold(client, bytes, length);
}

/* Sends the buffer, then the number of bytes dropped in the meantime. */
static void flush(struct attached *client) {
  while (client->fd >= 0) {
    if (!is_full(client)) {
      client->from = client->to = 0;
      if (client->lost_bytes == 0) return;
      hold_frame(client, FRAME_LOST, &client->lost_bytes, sizeof client->lost_bytes);
      client->lost_bytes = 0;
    }
    struct iovec part = {.iov_base = held[client - clients] + client->from, .iov_len = client->to - client->from};
    const size_t sent = send_parts(client, &part, 1);
    if (sent == 0) return;
    client->from += (uint32_t)sent;
  }
}

static void copy(struct attached *client, uint32_t stream, const unsigned char *bytes, size_t length) {
  flush(client);
  if (client->fd < 0) return;
  if (is_full(client)) {
    client->lost_bytes += length;
    return;
  }
  uint32_t head = stream << 24 | (uint32_t)length;
  struct iovec parts[] = {{.iov_base = &head, .iov_len = sizeof head}, {.iov_base = (unsigned char *)(uintptr_t)bytes, .iov_len = length}};
  const size_t sent = send_parts(client, parts, 2);
  if (client->fd < 0 || sent == sizeof head + length) return;
  /* Buffer the rest: a frame must not be cut. */
  hold_frame(client, stream, bytes, length);
  client->from = (uint32_t)sent;
}

void attach_output(uint32_t stream, const unsigned char *bytes, size_t length) {
  const uint32_t bit = stream == 1 ? ATTACH_STDOUT : ATTACH_STDERR;
  if (client_count == 0) return;
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].fd >= 0 && (clients[i].requested & bit) != 0) copy(&clients[i], stream, bytes, length);
}

/* Writes as much input to the container as fits. */
static void feed(void) {
  while (has_input()) {
    const ssize_t count = write(input.fd, input_bytes + input.from, input.to - input.from);
    if (count > 0) {
      input.from += (uint32_t)count;
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    /* No process will read it. */
    if (input.is_terminal) input.from = input.to;
    else end_input();
    return;
  }
}

static void receive(struct attached *client) {
  const ssize_t count = recv(client->fd, input_bytes, sizeof input_bytes, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    client->has_ended_input = true;
    if ((client->requested & ATTACH_ENDS_STDIN) != 0) end_input();
    if (count < 0) drop(client);
    return;
  }
  if ((client->requested & ATTACH_STDIN) == 0 || input.fd < 0) return;
  input.from = 0;
  input.to = (uint32_t)count;
  feed();
}

static void serve(struct attached *client, int events) {
  if ((events & POLLOUT) != 0) flush(client);
  if (client->fd < 0 || (events & (POLLIN | POLLHUP | POLLERR)) == 0) return;
  if (client->has_ended_input) {
    if ((events & (POLLHUP | POLLERR)) != 0) drop(client);
  } else if (has_input()) {
    /* It is read after the container has taken the previous input. */
    client->is_gone = (events & (POLLHUP | POLLERR)) != 0;
  } else {
    receive(client);
  }
}

size_t attach_poll(struct pollfd *polled) {
  const bool is_busy = has_input();
  if (client_count == 0 && !is_busy) return 0;
  polled[0] = (struct pollfd){.fd = is_busy ? input.fd : -1, .events = POLLOUT};
  for (size_t i = 0; i < ATTACHED_MAX; i++) {
    const struct attached *client = &clients[i];
    const int events = is_busy || client->has_ended_input ? 0 : POLLIN;
    polled[1 + i] = (struct pollfd){.fd = is_busy && client->is_gone ? -1 : client->fd, .events = (short)(events | (is_full(client) ? POLLOUT : 0))};
  }
  return ATTACH_POLLED;
}

void attach_serve(const struct pollfd *polled, size_t count) {
  if (count == 0) return;
  if (polled[0].revents != 0 && has_input()) feed();
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (polled[1 + i].revents != 0 && clients[i].fd == polled[1 + i].fd) serve(&clients[i], polled[1 + i].revents);
}

int attach_patience_ms(void) {
  int64_t patience_us = 0;
  if (client_count == 0) return 0;
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].fd >= 0 && is_full(&clients[i]) && clients[i].patience_us > patience_us) patience_us = clients[i].patience_us;
  return (int)((patience_us + 999) / 1000);
}

void attach_waited(uint64_t waited_us) {
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].fd >= 0 && is_full(&clients[i]))
      clients[i].patience_us = (uint64_t)clients[i].patience_us > waited_us ? clients[i].patience_us - (int64_t)waited_us : 0;
}

void attach_settle(void) {
  struct pollfd polled[ATTACHED_MAX];
  for (int wait_ms; (wait_ms = attach_patience_ms()) > 0;) {
    for (size_t i = 0; i < ATTACHED_MAX; i++)
      polled[i] = (struct pollfd){.fd = clients[i].fd >= 0 && is_full(&clients[i]) ? clients[i].fd : -1, .events = POLLOUT};
    const uint64_t before_us = monotonic_us();
    poll(polled, ATTACHED_MAX, wait_ms);
    attach_waited(monotonic_us() - before_us);
    for (size_t i = 0; i < ATTACHED_MAX; i++)
      if (polled[i].revents != 0) flush(&clients[i]);
  }
}

void attach_finish(void) {
  attach_settle();
  for (size_t i = 0; i < ATTACHED_MAX; i++)
    if (clients[i].fd >= 0 && !is_full(&clients[i])) {
      clients[i].from = clients[i].to = 0;
      hold_frame(&clients[i], FRAME_END, NULL, 0);
      flush(&clients[i]);
    }
  attach_settle();
}

void attach_idle(void) {
  if (!is_used || client_count > 0 || has_input()) return;
  madvise(input_bytes, sizeof input_bytes, MADV_DONTNEED);
  madvise(held, sizeof held, MADV_DONTNEED);
  is_used = false;
}

uint64_t monotonic_us(void) {
  return monotonic_ns(true) / 1000U;
}
