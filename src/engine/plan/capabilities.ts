/**
 * Resolves the five capability sets of a container's process from the request and the daemon's own capabilities.
 *
 * Pure. Never grants a capability that the daemon does not hold. capset(2) and prctl(2) are operations of the plan.
 */
import { invalidArgument } from '../../lib/errors.ts';

/** Names by number: include/uapi/linux/capability.h, capabilities(7). The position is the number. */
export const capabilityNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP', 'LINUX_IMMUTABLE'],
  ...['NET_BIND_SERVICE', 'NET_BROADCAST', 'NET_ADMIN', 'NET_RAW', 'IPC_LOCK', 'IPC_OWNER', 'SYS_MODULE', 'SYS_RAWIO', 'SYS_CHROOT', 'SYS_PTRACE'],
  ...['SYS_PACCT', 'SYS_ADMIN', 'SYS_BOOT', 'SYS_NICE', 'SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'MKNOD', 'LEASE', 'AUDIT_WRITE'],
  ...['AUDIT_CONTROL', 'SETFCAP', 'MAC_OVERRIDE', 'MAC_ADMIN', 'SYSLOG', 'WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ', 'PERFMON', 'BPF'],
  'CHECKPOINT_RESTORE',
] as const;

const numberByName: ReadonlyMap<string, number> = new Map(capabilityNames.map((name, number) => [name, number]));

/** The default set, the same as Docker's and containerd's, which images are built for. */
const defaultNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'MKNOD', 'NET_RAW', 'SETGID', 'SETUID', 'SETFCAP', 'SETPCAP'],
  ...['NET_BIND_SERVICE', 'SYS_CHROOT', 'KILL', 'AUDIT_WRITE'],
];

/** Names as in the request: any case, with or without `CAP_`; `ALL` means all. */
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
  /** Only the ambient ones: otherwise a file's inheritable bits would give a non-root user the whole set (CVE-2022-24769). */
  readonly inheritable: bigint;
  readonly ambient: bigint;
};

/**
 * Returns the capability sets of a container's process. Starts from the default set, from all for `add: ALL`, or from none for `drop: ALL`, which
 * wins. Then adds the named capabilities, then drops the named ones. A privileged container gets all, whatever is added or dropped. Ambient
 * capabilities are in all five sets.
 *
 * @param held the daemon's capabilities, to which all sets are limited, also for named ones, as in runc 1.5 (libcontainer/capabilities): a pod that asks
 *   for all of a list runs on a node with an older kernel, or with a daemon in a container. See unavailableCapabilities(). Dropping an unknown one has no
 *   effect.
 * @throws {BerthError} INVALID_ARGUMENT for adding an unknown name.
 */
export function resolveCapabilities(request: CapabilityRequest, held: bigint): CapabilitySets {
  const all = maskOf(capabilityNames) & held;
  const add = parseNames(request.add, 'add');
  const drop = parseNames(request.drop, 'drop');
  const ambient = parseNames(request.addAmbient, 'add ambient');
  const dropped = request.isPrivileged ? 0n : drop.mask;
  const raised = ((ambient.hasAll ? all : 0n) | ambient.mask) & held & ~dropped;
  const base = drop.hasAll ? 0n : add.hasAll ? all : maskOf(defaultNames) & held;
  const set = request.isPrivileged ? all : ((base | (add.mask & held)) & ~dropped) | raised;
  return { bounding: set, permitted: set, effective: set, inheritable: raised, ambient: raised };
}

/** Returns the names of requested capabilities that the daemon cannot give. */
export function unavailableCapabilities({ add, drop, addAmbient, isPrivileged }: CapabilityRequest, held: bigint): string[] {
  const dropped = isPrivileged ? 0n : parseNames(drop, 'drop').mask;
  const requested = (parseNames(add, 'add').mask | parseNames(addAmbient, 'add ambient').mask) & ~dropped;
  return capabilityNumbers(requested & ~held).map((number) => capabilityNames[number] as string);
}

/** Returns the numbers in a set, in ascending order. */
function capabilityNumbers(set: bigint): number[] {
  const numbers: number[] = [];
  for (let number = 0; set >> BigInt(number) !== 0n; number++) if ((set >> BigInt(number)) & 1n) numbers.push(number);
  return numbers;
}

/**
 * Returns the number of a capability. The name may be in any case, with or without `CAP_`.
 *
 * @returns undefined for a name that is not in capability.h of Linux 6.18.
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
    else if (verb !== 'drop') throw invalidArgument(`${verb} capability ${JSON.stringify(name.slice(0, 64))}: unknown capability`);
  }
  return { hasAll, mask };
}

function maskOf(names: readonly string[]): bigint {
  return names.reduce((mask, name) => mask | (1n << BigInt(numberByName.get(name) ?? 0)), 0n);
}
