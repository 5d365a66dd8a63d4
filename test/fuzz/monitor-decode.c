/*
 * Fuzzes the monitor's plan decoder: any bytes are rejected, or are decoded into operations that lie within the bytes. decode_op() must accept every
 * operation of a plan that decode_plan() has accepted.
 */
#include <assert.h>
#include <string.h>

#include "../../src/monitor/monitor.h"

static unsigned char bytes[PLAN_BYTES_MAX] __attribute__((aligned(8)));

/* Reads every byte that the monitor passes to the kernel, so that the sanitizer detects bytes outside the plan. */
static unsigned long touch(const struct op *op, const unsigned char *begin, const unsigned char *end) {
  unsigned long sum = op->code;
  for (uint16_t i = 0; i < op->arg_count; i++) {
    const struct arg *arg = &op->args[i];
    if (arg->length > 0) assert(arg->bytes >= begin && arg->bytes + arg->length <= end);
    for (uint32_t j = 0; j < arg->length; j++) sum += arg->bytes[j];
    if (arg->kind == 'S') assert(strlen((const char *)arg->bytes) + 1 == arg->length);
    if (arg->kind == 'F') assert(arg->reg == -100 || (arg->reg >= 0 && arg->reg < REGISTERS_MAX));
  }
  return sum;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct plan plan;
  uint32_t index;
  if (size > sizeof bytes) return 0;
  memcpy(bytes, data, size);
  if (decode_plan(bytes, size, &plan, &index) != REFUSED_NOT) return 0;
  const unsigned char *at = plan.ops;
  struct op op;
  for (uint64_t i = 0; i < (uint64_t)plan.parent_ops + plan.child_ops + plan.confine_ops; i++) {
    if (i == (uint64_t)plan.parent_ops + plan.child_ops) assert(at == plan.confine);
    assert(decode_op(&at, plan.end, &op) == REFUSED_NOT);
    touch(&op, bytes, bytes + size);
  }
  assert(at == plan.end && plan.end == bytes + size);
  return 0;
}
