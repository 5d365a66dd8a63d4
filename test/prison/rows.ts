/**
 * Turns the output of the probe into rows that another machine can compare: without ids, inodes and errors that depend on the kernel. Pure.
 */
import { constants } from 'node:os';

/** Values by key. */
export type Rows = ReadonlyMap<string, string>;

/** Parses the probe's output; later lines of a key replace earlier ones, as a later mount covers an earlier one. @throws Error if it is incomplete. */
export function parseRows(output: string): Map<string, string> {
  const rows = new Map<string, string>();
  for (const line of output.split(/\r?\n/)) {
    const at = line.indexOf(' ');
    if (at > 0) rows.set(line.slice(0, at), line.slice(at + 1).trim());
  }
  if (!rows.delete('end')) throw new Error(`the probe did not finish: ${output.slice(-500)}`);
  return rows;
}

const errnoNames = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));
const isCall = (key: string) => /^(call|call32|clone|clone3|unshare|socket|socketcall|mknod|mkdir|dev)\./.test(key) || key === 'abstract-socket';

/** Errors that say the kernel or its policy does not do this at all; every other result has reached the code of the call. */
const refusals: readonly string[] = ['EPERM', 'EACCES', 'ENOSYS', 'EROFS', 'ENOENT', 'ECONNREFUSED'];
const missing: readonly string[] = ['EAFNOSUPPORT', 'EPROTONOSUPPORT', 'ESOCKTNOSUPPORT'];

/** Names the result of a call: the error that refused it, or `reaches`. @param value a negative errno, or -1000 minus a signal. */
function nameOfResult(key: string, value: string): string {
  const number = Number(value);
  if (!Number.isInteger(number)) return value;
  if (number <= -1000) return number === -1031 ? 'killed' : 'reaches';
  const name = errnoNames.get(-number) ?? '';
  // A device without a driver: the policy for devices let it pass.
  return refusals.includes(name) || (key.startsWith('socket') && missing.includes(name)) ? name : 'reaches';
}

/** What the rows of a container are compared with to tell what it shares. */
export type Surroundings = { readonly host: Rows; readonly neighbour: Rows };

const capabilityNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP', 'LINUX_IMMUTABLE', 'NET_BIND_SERVICE'],
  ...[
    'NET_BROADCAST',
    'NET_ADMIN',
    'NET_RAW',
    'IPC_LOCK',
    'IPC_OWNER',
    'SYS_MODULE',
    'SYS_RAWIO',
    'SYS_CHROOT',
    'SYS_PTRACE',
    'SYS_PACCT',
    'SYS_ADMIN',
  ],
  ...[
    'SYS_BOOT',
    'SYS_NICE',
    'SYS_RESOURCE',
    'SYS_TIME',
    'SYS_TTY_CONFIG',
    'MKNOD',
    'LEASE',
    'AUDIT_WRITE',
    'AUDIT_CONTROL',
    'SETFCAP',
    'MAC_OVERRIDE',
  ],
  ...['MAC_ADMIN', 'SYSLOG', 'WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ', 'PERFMON', 'BPF', 'CHECKPOINT_RESTORE'],
];

/** Returns the names of a mask's capabilities. @param mask as in /proc/self/status. */
export function capabilities(mask: string): string {
  const bits = BigInt(`0x${mask}`);
  return capabilityNames.filter((_, bit) => (bits >> BigInt(bit)) & 1n).join(',');
}

/** Names of environment variables, devices, groups: a set. */
const sorted = (value: string) => value.split(',').filter(Boolean).sort().join(',');

/** @param isHook of a process with the runtime's own surroundings. @returns the rows of the table. */
export function normalise(rows: Rows, { host, neighbour }: Surroundings, isHook = false): Map<string, string> {
  const normal = new Map([...rows].map(([key, value]) => [key, normalValue(key, value, host, neighbour)]));
  return isHook ? withoutRuntime(normal, rows, host) : normal;
}

/** Hooks see the mounts and cgroups of the host, and what the runtime lets them see of itself: only whether it does. */
function withoutRuntime(normal: Rows, rows: Rows, host: Rows): Map<string, string> {
  const kept = [...normal].filter(([key]) => !/^mount:|^cwd$/.test(key));
  return new Map(
    kept.map(([key, value]) => {
      if (/^(write:)?cgroup[.-]/.test(key) && rows.get(key) === host.get(key)) return [key, 'host'];
      return [key, /^(environment|open-files)$/.test(key) && value !== '' ? 'some' : value];
    }),
  );
}

function normalValue(key: string, value: string, host: Rows, neighbour: Rows): string {
  if (key.startsWith('cap.')) return value === host.get('cap.bounding') ? 'host' : capabilities(value);
  if (key.startsWith('ns.')) return sharing(key, value, host, neighbour);
  if (key.startsWith('keyring.')) return Number(value) < 0 ? nameOfResult('call', value) : sharing(key, value, host, neighbour);
  if (isCall(key)) return nameOfResult(key, value);
  if (key === 'dev-names') return deviceNames(value, host.get(key) ?? '');
  if (key === 'label') return labelOf(value);
  if (key === 'uid-map' || key === 'gid-map') return value === '0,0,4294967295,' ? 'host' : 'mapped';
  if (key === 'exe') return value.replace(/^.*\//, '');
  if (['environment', 'groups', 'open-files'].includes(key)) return sorted(value);
  if (/^(speculation\..*|rlimit\..*|login-uid|timerslack|scheduler|io-priority)$/.test(key)) return value === host.get(key) ? 'host' : value;
  return value.replace(/,$/, '');
}

function sharing(key: string, value: string, host: Rows, neighbour: Rows): string {
  if (value === host.get(key)) return 'host';
  return value === neighbour.get(key) ? 'pod' : 'own';
}

/** With all devices of the host their names say nothing: they are one word. */
function deviceNames(value: string, host: string): string {
  const usual = ['null', 'zero', 'full', 'random', 'urandom', 'tty', 'console', 'ptmx'];
  const names = sorted(value).split(',');
  const known = host.split(',').filter((name) => !usual.includes(name));
  const hasHosts = names.filter((name) => known.includes(name)).length > 3;
  return (hasHosts ? [...names.filter((name) => usual.includes(name)), 'host'] : names).join(',');
}

function labelOf(value: string): string {
  if (value === 'unreadable' || value === '') return 'none';
  return value.startsWith('unconfined') ? 'unconfined' : 'confined';
}
