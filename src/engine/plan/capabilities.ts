/**
 * Which capabilities a container's process gets: names, numbers, and the five sets from the request and the daemon's own.
 *
 * Pure. Never gives what the daemon does not hold; capset(2) and prctl(2) are operations of the plan.
 */
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';

/** Names by number: include/uapi/linux/capability.h, capabilities(7). The position is the number. */
export const capabilityNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP', 'LINUX_IMMUTABLE'],
  ...['NET_BIND_SERVICE', 'NET_BROADCAST', 'NET_ADMIN', 'NET_RAW', 'IPC_LOCK', 'IPC_OWNER', 'SYS_MODULE', 'SYS_RAWIO', 'SYS_CHROOT', 'SYS_PTRACE'],
  ...['SYS_PACCT', 'SYS_ADMIN', 'SYS_BOOT', 'SYS_NICE', 'SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'MKNOD', 'LEASE', 'AUDIT_WRITE'],
  ...['AUDIT_CONTROL', 'SETFCAP', 'MAC_OVERRIDE', 'MAC_ADMIN', 'SYSLOG', 'WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ', 'PERFMON', 'BPF'],
  'CHECKPOINT_RESTORE',
] as const;

const numberByName: ReadonlyMap<string, number> = new Map(capabilityNames.map((name, number) => [name, number]));

/** What a container gets unless it asks otherwise: the set that users of Docker and containerd build their images for. */
const defaultNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP', 'SETPCAP'],
  ...['NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
];

/** Names as the request has them: any case, with or without `CAP_`; `ALL` stands for all. */
export type CapabilityRequest = {
  readonly add: readonly string[];
  readonly drop: readonly string[];
  readonly addAmbient: readonly string[];
  readonly isPrivileged: boolean;
};

/** Bit n = capability number n. */
export type CapabilitySets = {
  readonly bounding: bigint;
  readonly permitted: bigint;
  readonly effective: bigint;
  /** Only what is ambient too: a file's inheritable bits would otherwise give a non-root user the whole set (CVE-2022-24769). */
  readonly inheritable: bigint;
  readonly ambient: bigint;
};

/**
 * The sets of a container's process. Start from the default, from all for `add: ALL`, from none for `drop: ALL` (the latter wins);
 * then single adds, then single drops. Privileged: all, whatever is added or dropped. Ambient ones come into all five sets.
 *
 * @param held what the daemon holds. The default set, `ALL` and privileged take what is there; only a single name can fail for it.
 * @throws {BerthError} INVALID_ARGUMENT for a name that no kernel knows, FAILED_PRECONDITION for one that the daemon lacks.
 */
export function resolveCapabilities(request: CapabilityRequest, held: bigint): CapabilitySets {
  const all = maskOf(capabilityNames) & held;
  const add = parseNames(request.add, 'adding');
  const drop = parseNames(request.drop, 'dropping');
  const ambient = parseNames(request.addAmbient, 'adding ambient');
  const dropped = request.isPrivileged ? 0n : drop.mask;
  refuseLacking(add.mask & ~dropped, held);
  refuseLacking(ambient.mask & ~dropped, held);
  const raised = ((ambient.hasAll ? all : 0n) | ambient.mask) & ~dropped;
  const base = drop.hasAll ? 0n : add.hasAll ? all : maskOf(defaultNames) & held;
  const set = request.isPrivileged ? all : ((base | add.mask) & ~dropped) | raised;
  return { bounding: set, permitted: set, effective: set, inheritable: raised, ambient: raised };
}

/** The numbers in a set, in order. */
function capabilityNumbers(set: bigint): number[] {
  const numbers: number[] = [];
  for (let number = 0; set >> BigInt(number) !== 0n; number++) if ((set >> BigInt(number)) & 1n) numbers.push(number);
  return numbers;
}

/**
 * The number of a name in any case, with or without `CAP_`.
 *
 * @returns undefined for a name that capability.h of Linux 6.18 does not have.
 */
export function capabilityNumber(name: string): number | undefined {
  return numberByName.get(name.toUpperCase().replace(/^CAP_/, ''));
}

function parseNames(names: readonly string[], verb: string): { hasAll: boolean; mask: bigint } {
  let mask = 0n;
  let hasAll = false;
  for (const name of names) {
    const number = capabilityNumber(name);
    if (number !== undefined) mask |= 1n << BigInt(number);
    else if (/^(CAP_)?ALL$/i.test(name)) hasAll = true;
    else throw invalidArgument(`${verb} capability ${JSON.stringify(name.slice(0, 64))}: there is none of this name`);
  }
  return { hasAll, mask };
}

function refuseLacking(asked: bigint, held: bigint): void {
  const lacking = capabilityNumbers(asked & ~held).map((number) => capabilityNames[number]);
  if (lacking.length === 0) return;
  throw failedPrecondition(`adding capability ${lacking.join(', ')}: the daemon itself does not hold it on this node`);
}

function maskOf(names: readonly string[]): bigint {
  return names.reduce((mask, name) => mask | (1n << BigInt(numberByName.get(name) ?? 0)), 0n);
}
