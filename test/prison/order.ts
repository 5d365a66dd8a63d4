/**
 * Says of two values of a row which one is looser: gives the process more power, reach or knowledge. Pure.
 */
import type { Rows } from './rows.ts';

/** Values from tight to loose; values in the same group are equal. */
type Scale = readonly (readonly string[])[];

const refused: Scale[number] = [
  'EPERM',
  'EACCES',
  'ENOSYS',
  'EROFS',
  'ENOENT',
  'ECONNREFUSED',
  'EAFNOSUPPORT',
  'EPROTONOSUPPORT',
  'ESOCKTNOSUPPORT',
  'killed',
  'missing',
];
/** System calls, sockets, devices, directories. */
const calls: Scale = [refused, ['reaches']];
const namespaces: Scale = [['own'], ['pod'], ['host']];
const keyrings: Scale = [[...refused, 'own'], ['pod'], ['host']];
const files: Scale = [['missing', 'denied', 'empty', 'zeroed'], ['yes']];
const scale = (...values: readonly string[]): Scale => values.map((value) => [value]);

type Compare = (ours: string, theirs: string, host: (value: string) => string) => boolean;

/** Whether the first value comes later on the scale. A value that is not on it is looser than any other, unless both are the same. */
const onScale =
  (order: Scale): Compare =>
  (ours, theirs) => {
    const place = (value: string) => {
      const found = order.findIndex((group) => group.includes(value));
      return found < 0 ? order.length : found;
    };
    return ours !== theirs && place(ours) > place(theirs);
  };

const members = (value: string) => value.split(',').filter(Boolean);

/** Sets, of which a member that the other does not have is looser. */
const asSet: Compare = (ours, theirs, host) => {
  const theirMembers = new Set(members(host(theirs)));
  return members(host(ours)).some((each) => !theirMembers.has(each));
};

const isMore: Compare = (ours, theirs, host) => {
  const [a, b] = [ours, theirs].map((value) => host(value).split(' ').map(Number));
  return (a ?? []).some((number, index) => !(number <= (b?.[index] ?? -1)));
};
const isLess: Compare = (ours, theirs, host) => isMore(theirs, ours, host);
const bits =
  (base: number, looser: 'set' | 'unset'): Compare =>
  (ours, theirs) => {
    const [a, b] = [parseInt(ours, base), parseInt(theirs, base)];
    return ((looser === 'set' ? a & ~b : b & ~a) | 0) !== 0 || Number.isNaN(a);
  };
const isOther: Compare = (ours, theirs) => ours !== theirs;
const never: Compare = () => false;

/** Rows, by the beginning of the key; the first that fits counts. */
const orders: readonly (readonly [prefix: string, compare: Compare])[] = [
  ['cap.', asSet],
  ['call', onScale(calls)],
  ['clone', onScale(calls)],
  ['unshare.', onScale(calls)],
  ['socket', onScale(calls)],
  ['mknod.', onScale(calls)],
  ['mkdir.', onScale(calls)],
  ['dev.', onScale(calls)],
  ['abstract-socket', onScale(calls)],
  ['devnum.', isOther],
  ['dev-names', asSet],
  ['read:', onScale(files)],
  ['write:', onScale(files)],
  ['ns.', onScale(namespaces)],
  ['keyring.', onScale(keyrings)],
  ['cgroup.', onScale(scale('none', 'own', 'wider'))],
  ['cgroup-paths', onScale(scale('hidden', 'shown'))],
  ['root-of-pid-1', onScale([['denied', 'own'], ['other']])],
  ['no-new-privs', isLess],
  ['seccomp.mode', isLess],
  ['seccomp.filters', isLess],
  ['speculation.', isOther],
  ['signals.', bits(16, 'set')],
  ['uid-map', onScale(scale('mapped', 'host'))],
  ['gid-map', onScale(scale('mapped', 'host'))],
  ['setgroups', onScale(scale('deny', 'allow'))],
  ['oom-score-adj', isLess],
  ['coredump-filter', bits(16, 'set')],
  ['login-uid', isOther],
  ['label', onScale([['confined'], ['none', 'unconfined']])],
  ['rlimit.', isMore],
  ['uid', isOther],
  ['gid', isOther],
  ['groups', asSet],
  ['parent', onScale(scale('none', 'some'))],
  ['session', onScale(scale('leader', 'other'))],
  ['process-group', onScale(scale('leader', 'other'))],
  ['pid-1', never],
  ['exe', isOther],
  ['cwd', isOther],
  ['umask', bits(8, 'unset')],
  ['environment', asSet],
  ['open-files', asSet],
  ['dumpable', isMore],
  ['keepcaps', isMore],
  ['securebits', bits(10, 'unset')],
  ['timerslack', isOther],
  ['parent-death-signal', never],
  ['subreaper', isMore],
  ['io-flusher', isMore],
  ['memory-deny-write-execute', isLess],
  ['personality', isOther],
  ['nice', isLess],
  ['scheduler', isOther],
  ['io-priority', isOther],
];

/** Returns whether our value is looser than theirs. @param host the machine's own value, which `host` stands for. @throws Error for an unknown row. */
export function isLooser(key: string, ours: string, theirs: string, host: (value: string) => string = (value) => value): boolean {
  const order = orders.find(([prefix]) => key.startsWith(prefix));
  if (order === undefined) throw new Error(`no order is defined for the row ${key}`);
  return order[1](ours, theirs, host);
}

/** Rows whose power another row includes: raw sockets send every ICMP message, not only the echo requests of ping sockets. */
const included: Readonly<Record<string, string>> = { 'socket.inet-ping': 'socket.inet-raw' };

/** Returns whether a process with these rows has the power of a row by another one. */
export function isIncluded(key: string, rows: Rows): boolean {
  return rows.get(included[key] ?? '') === 'reaches';
}

/** Settings of the node that decide what the kernel refuses to unprivileged processes in these rows: with other settings they cannot be compared. */
const settings: readonly (readonly [key: RegExp, sysctl: string])[] = [
  [/^call\.syslog-|^read:\/dev\/kmsg/, 'kernel/dmesg_restrict'],
  [/^call(32)?\.perf_event_open$/, 'kernel/perf_event_paranoid'],
  [/^(call|call32)\.(x32-)?bpf$/, 'kernel/unprivileged_bpf_disabled'],
  [/^read:\/proc\/kallsyms$/, 'kernel/kptr_restrict'],
  [/userfaultfd$/, 'vm/unprivileged_userfaultfd'],
  [/^call(32)?\.io_uring/, 'kernel/io_uring_disabled'],
];
export const sysctls = settings.map(([, sysctl]) => sysctl);

/** Returns the setting of the node that decides about a row, if there is one. */
export function sysctlOf(key: string): string | undefined {
  return settings.find(([pattern]) => pattern.test(key))?.[1];
}

const restrictions = ['ro', 'nosuid', 'nodev', 'noexec'];

/** Returns the flags of the mount that a path is in. */
function mountOf(rows: Rows, path: string): readonly string[] {
  for (let at = path; ; at = at.slice(0, Math.max(1, at.lastIndexOf('/')))) {
    const flags = rows.get(`mount:${at}`);
    if (flags !== undefined) return members(flags);
    if (at === '/') return [];
  }
}

/** Returns the restrictions that their mounts have at a path and ours do not, and the ways in which ours propagate and theirs do not. */
export function looserMount(path: string, ours: Rows, theirs: Rows): readonly string[] {
  const [own, other] = [mountOf(ours, path), mountOf(theirs, path)];
  return [
    ...restrictions.filter((flag) => other.includes(flag) && !own.includes(flag)).map((flag) => `not ${flag}`),
    ...own.filter((flag) => !restrictions.includes(flag) && !other.includes(flag)),
  ];
}
