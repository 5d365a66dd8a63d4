/**
 * The name of the kernel's present life: what was in its memory alone is lost when this changes.
 */
import { readFileSync } from 'node:fs';

/** A UUID, as proc_sys_kernel(5) has it. */
export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
