/**
 * The boot id: when it changes, everything that was only in memory is lost.
 */
import { readFileSync } from 'node:fs';

/** Returns the boot id, a UUID: proc_sys_kernel(5). */
export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
