/**
 * Reads the seccomp program of a process from the kernel, for tests of what a container really got.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { capabilityNames } from '../../src/engine/plan/capabilities.ts';
import { staticProgram } from './static-program.ts';

const standard = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP', 'SETPCAP'],
  ...['NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
];

/** The sets for which filters are compared. */
export const capabilitySets: Readonly<Record<'none' | 'standard' | 'admin' | 'all', readonly string[]>> = {
  none: [],
  standard,
  admin: [...standard, 'SYS_ADMIN'],
  all: capabilityNames,
};

/** Returns the only seccomp program of a process: struct sock_filter, 8 bytes each. Stops the process for a moment. @throws Error if it has none or several. */
export function dumpFilter(pid: number): Buffer {
  return execFileSync(staticProgram(join(import.meta.dirname, 'seccomp-dump.c')), [String(pid)]);
}
