/*
 * Decodes a plan from bytes, and checks all of it before its first operation runs. The format is documented in src/engine/plan/plan.ts.
 *
 * Makes no system calls and writes only its results, so that it can be fuzzed alone.
 */
#include "monitor.h"

#include <string.h>

static const uint32_t magic = 0x4c505242;
static const uint32_t version = 3;
static const size_t header_bytes = 96;
static const size_t op_head_bytes = 16;
static const int32_t absent = -1;
static const int32_t cwd = -100;
/* CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. Other flags would share resources that the monitor must not share. */
static const uint64_t namespace_flags = 0x7e020080;

#define OP_KINDS(name, number, kinds) kinds,
static const char *const kinds_table[] = {OPERATIONS(OP_KINDS)};
#undef OP_KINDS

const char *op_kinds(uint16_t code) { return kinds_table[code]; }

static uint16_t u16(const unsigned char *at) {
  uint16_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static uint32_t u32(const unsigned char *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static uint64_t u64(const unsigned char *at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static int32_t i32(const unsigned char *at) { return (int32_t)u32(at); }

static size_t padded(size_t length) { return (length + 7) & ~(size_t)7; }

static bool is_register(int32_t reg) { return reg >= 0 && reg < REGISTERS_MAX; }

static bool is_register_or_absent(int32_t reg) { return reg == absent || is_register(reg); }

static void read_header(const unsigned char *at, struct plan *plan) {
  plan->fds = u32(at + 12);
  plan->clone_flags = u64(at + 16);
  plan->clone_cgroup = i32(at + 24);
  plan->parent_ops = u32(at + 28);
  plan->child_ops = u32(at + 32);
  plan->mode = u32(at + 36);
  plan->out = i32(at + 40);
  plan->err = i32(at + 44);
  plan->in = i32(at + 48);
  plan->has_terminal = u32(at + 52);
  plan->log_dir = i32(at + 56);
  plan->exit_dir = i32(at + 60);
  plan->control = i32(at + 64);
  plan->line_bytes_max = u32(at + 68);
  plan->log_name.bytes = u32(at + 72);
  plan->argv.bytes = u32(at + 76);
  plan->env.bytes = u32(at + 80);
  plan->memory_events = i32(at + 84);
  plan->confine_ops = u32(at + 88);
}

static enum refusal check_header(const unsigned char *at, const struct plan *plan) {
  const int32_t regs[] = {plan->clone_cgroup, plan->out, plan->err, plan->in, plan->log_dir, plan->exit_dir, plan->control, plan->memory_events};
  if (u32(at) != magic || u32(at + 4) != version || u32(at + 92) != 0) return REFUSED_HEADER;
  if ((plan->clone_flags & ~namespace_flags) != 0) return REFUSED_HEADER;
  if (plan->fds > REGISTERS_MAX || plan->mode > MODE_CONTAINER || plan->has_terminal > 1) return REFUSED_HEADER;
  for (size_t i = 0; i < sizeof regs / sizeof *regs; i++)
    if (!is_register_or_absent(regs[i])) return REFUSED_REGISTER;
  if (plan->mode == MODE_CONTAINER && plan->exit_dir == absent) return REFUSED_HEADER;
  if (plan->line_bytes_max > LINE_BYTES_MAX) return REFUSED_HEADER;
  if (plan->log_dir != absent && (plan->line_bytes_max == 0 || plan->log_name.bytes < 2)) return REFUSED_HEADER;
  return REFUSED_NOT;
}

/* Decodes a section of NUL-terminated strings at *at and advances *at past it. */
static enum refusal take_strings(const unsigned char **at, const unsigned char *end, struct strings *strings) {
  if (strings->bytes > (size_t)(end - *at) || padded(strings->bytes) > (size_t)(end - *at)) return REFUSED_STRINGS;
  strings->at = (const char *)*at;
  strings->count = 0;
  for (uint32_t i = 0; i < strings->bytes; i++) strings->count += strings->at[i] == '\0';
  if (strings->bytes > 0 && strings->at[strings->bytes - 1] != '\0') return REFUSED_STRINGS;
  *at += padded(strings->bytes);
  return REFUSED_NOT;
}

static enum refusal take_arg(const unsigned char **at, const unsigned char *end, struct arg *arg) {
  if (end - *at < 8) return REFUSED_RECORD;
  const uint32_t kind = u32(*at);
  const uint32_t value = u32(*at + 4);
  *at += 8;
  arg->kind = (char)kind;
  if (kind == 'F') {
    arg->reg = (int32_t)value;
    return arg->reg == cwd || is_register(arg->reg) ? REFUSED_NOT : REFUSED_REGISTER;
  }
  if (kind != 'L' && kind != 'S' && kind != 'B') return REFUSED_ARGUMENT;
  if (value > (size_t)(end - *at) || padded(value) > (size_t)(end - *at)) return REFUSED_RECORD;
  arg->length = value;
  arg->bytes = *at;
  *at += padded(value);
  if (kind == 'L' && value != 8) return REFUSED_ARGUMENT;
  if (kind == 'L') arg->number = u64(arg->bytes);
  /* Exactly one NUL, at the end: the kernel must read the whole text. */
  if (kind == 'S' && (value == 0 || memchr(arg->bytes, '\0', value) != arg->bytes + value - 1)) return REFUSED_ARGUMENT;
  return REFUSED_NOT;
}

static bool fits(char kind, const struct arg *arg) {
  switch (kind) {
    case 'F':
    case 'L':
    case 'S':
    case 'B':
      return arg->kind == kind;
    case 'H':
      return arg->kind == 'B' && arg->length == 8;
    case 'R':
      return arg->kind == 'B' && arg->length == 16;
    case 'C':
      return arg->kind == 'B' && arg->length == 24;
    case 'I':
      return arg->kind == 'B' && arg->length == 64;
    default:
      return false;
  }
}

/* Checks that the arguments match the table of ops.h in number and kind. */
static enum refusal check_kinds(const struct op *op) {
  uint16_t used = 0;
  bool counts_ids = false;
  for (const char *kind = kinds_table[op->code]; *kind != '\0'; kind++) {
    if (*kind == 'G') counts_ids = true;
    if (*kind == 'G' || *kind == 'N' || *kind == 'Z' || (*kind >= '0' && *kind <= '9')) continue;
    if (used >= op->arg_count || !fits(*kind, &op->args[used])) return REFUSED_ARGUMENT;
    if (counts_ids && op->args[used].length % 4 != 0) return REFUSED_ARGUMENT;
    used++;
  }
  return used == op->arg_count ? REFUSED_NOT : REFUSED_ARGUMENT;
}

enum refusal decode_op(const unsigned char **at, const unsigned char *end, struct op *op) {
  const unsigned char *head = *at;
  if ((size_t)(end - head) < op_head_bytes) return REFUSED_RECORD;
  const uint32_t size = u32(head);
  if (size % 8 != 0 || size < op_head_bytes || size > (size_t)(end - head)) return REFUSED_RECORD;
  const unsigned char *op_end = head + size;
  memset(op, 0, sizeof *op);
  op->code = u16(head + 4);
  op->out = (int16_t)u16(head + 6);
  op->tolerated_count = u16(head + 8);
  op->arg_count = u16(head + 10);
  if (op->code >= OP_COUNT) return REFUSED_OPERATION;
  if (!is_register_or_absent(op->out)) return REFUSED_REGISTER;
  if (op->tolerated_count > TOLERATED_MAX || op->arg_count > ARGS_MAX || u32(head + 12) != 0) return REFUSED_RECORD;
  const unsigned char *next = head + op_head_bytes;
  if (padded(2 * (size_t)op->tolerated_count) > (size_t)(op_end - next)) return REFUSED_RECORD;
  memcpy(op->tolerated, next, 2 * (size_t)op->tolerated_count);
  next += padded(2 * (size_t)op->tolerated_count);
  for (uint16_t i = 0; i < op->arg_count; i++) {
    const enum refusal refusal = take_arg(&next, op_end, &op->args[i]);
    if (refusal != REFUSED_NOT) return refusal;
  }
  if (next != op_end) return REFUSED_RECORD;
  *at = op_end;
  return check_kinds(op);
}

static bool is_child_only(uint16_t code) {
  return code == OP_execve || code == OP_reap || code == OP_sendterminal || code == OP_move || code == OP_hold;
}

/* The child's last operation is execve or reap. The monitor itself runs neither. */
static enum refusal check_order(const struct plan *plan, const struct op *op, uint32_t index) {
  const uint64_t last = (uint64_t)plan->parent_ops + plan->child_ops - 1;
  if (index < plan->parent_ops || index > last) return is_child_only(op->code) ? REFUSED_ORDER : REFUSED_NOT;
  if (index == last) return (op->code == OP_execve || op->code == OP_reap) && op->tolerated_count == 0 ? REFUSED_NOT : REFUSED_ORDER;
  return op->code == OP_reap ? REFUSED_ORDER : REFUSED_NOT;
}

static enum refusal check_ops(struct plan *plan, uint32_t *index) {
  const unsigned char *at = plan->ops;
  const uint64_t started = (uint64_t)plan->parent_ops + plan->child_ops, count = started + plan->confine_ops;
  struct op op;
  if (plan->child_ops == 0 || count > PLAN_BYTES_MAX) return REFUSED_ORDER;
  for (*index = 0; *index < count; ++*index) {
    if (*index == started) plan->confine = at;
    enum refusal refusal = decode_op(&at, plan->end, &op);
    if (refusal == REFUSED_NOT) refusal = check_order(plan, &op, *index);
    if (refusal != REFUSED_NOT) return refusal;
  }
  return at == plan->end ? REFUSED_NOT : REFUSED_LENGTH;
}

enum refusal decode_plan(const unsigned char *bytes, size_t length, struct plan *plan, uint32_t *index) {
  *index = 0;
  memset(plan, 0, sizeof *plan);
  if (length < header_bytes || length > PLAN_BYTES_MAX || u32(bytes + 8) != length) return REFUSED_LENGTH;
  read_header(bytes, plan);
  plan->end = bytes + length;
  enum refusal refusal = check_header(bytes, plan);
  if (refusal != REFUSED_NOT) return refusal;
  const unsigned char *at = bytes + header_bytes;
  struct strings *const sections[] = {&plan->log_name, &plan->argv, &plan->env};
  for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
    refusal = take_strings(&at, plan->end, sections[i]);
    if (refusal != REFUSED_NOT) return refusal;
  }
  if (plan->log_name.count > 1 || plan->argv.count + plan->env.count + 2 > STRINGS_MAX) return REFUSED_STRINGS;
  plan->ops = at;
  return check_ops(plan, index);
}
