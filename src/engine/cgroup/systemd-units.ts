/**
 * Maps cgroups to systemd units: paths of slices, names of scopes, and cgroup values as unit properties. Pure.
 *
 * Rules: systemd.slice(5), systemd.unit(5), systemd.resource-control(5). Names of properties: org.freedesktop.systemd1(5).
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { BusProperty } from '../../sys/systemd/sd-bus.ts';
import { cpuPeriodDefaultUs } from './cgroup-change.ts';

/** Prefixes of scopes. Tools that parse cgroup paths expect the id after it, as with `cri-containerd`. `crio` is for cAdvisor, which needs it. */
const scopePrefixes = ['cri-berth', 'crio'] as const;
export type ScopePrefix = (typeof scopePrefixes)[number];
/** UNIT_NAME_MAX (256, including the final NUL) without the NUL, in bytes. */
const unitNameBytesMax = 255;

/**
 * Returns the slice of a pod's cgroup parent. Only the last component counts, because the name of a slice contains its path.
 *
 * @param parent as the kubelet sends it; '' means `defaultSlice`.
 * @throws {BerthError} INVALID_ARGUMENT if it is not a slice.
 */
export function parentSlice(parent: string, defaultSlice: string): string {
  const slice = (parent === '' ? defaultSlice : parent).split('/').findLast((component) => component !== '') ?? '';
  if (!slice.endsWith('.slice')) {
    throw invalidArgument(
      `cgroup parent ${parent} is not a systemd slice, but the cgroup driver is systemd: set the kubelet's cgroupDriver to systemd`,
    );
  }
  const isName = slice === '-.slice' || /^[\w:.\\]+(-[\w:.\\]+)*\.slice$/.test(slice);
  if (!isName || Buffer.byteLength(slice) > unitNameBytesMax) throw invalidArgument(`invalid cgroup parent ${parent}: invalid slice name ${slice}`);
  return slice;
}

/** Returns the path of a slice: `/a.slice/a-b.slice` for `a-b.slice`, because each dash is a level; '' for the root `-.slice`. */
export function slicePath(slice: string): string {
  if (slice === '-.slice') return '';
  const parts = slice.slice(0, -'.slice'.length).split('-');
  return parts.map((_, i) => `/${parts.slice(0, i + 1).join('-')}.slice`).join('');
}

/** Returns the name of a container's scope. */
export const scopeName = (id: string, prefix: ScopePrefix): string => `${prefix}-${id}.scope`;

/** Returns all possible names of a container's scope. */
export const scopeNames = (id: string): string[] => scopePrefixes.map((prefix) => scopeName(id, prefix));

/** Returns scope and slice of a cgroup path that was created with parentSlice() and scopeName(); null for a cgroup of another driver. */
export function unitOf(path: string): { readonly scope: string; readonly slice: string } | null {
  const [scope = '', slice] = path.split('/').reverse();
  const hasPrefix = scopePrefixes.some((prefix) => scope.startsWith(`${prefix}-`));
  // The cgroupfs driver may use the same name, but not in a slice.
  const isInSlice = slice === undefined || slice === '' || slice.endsWith('.slice');
  if (!hasPrefix || !scope.endsWith('.scope') || !isInSlice) return null;
  return { scope, slice: slice || '-.slice' };
}

/** Returns the properties of a container's scope other than its limits and initial processes. */
export function scopeProperties(slice: string, description: string): BusProperty[] {
  const text = (name: string, value: string): BusProperty => ({ name, value: { type: 's', value } });
  const flag = (name: string, value: boolean): BusProperty => ({ name, value: { type: 'b', value } });
  return [
    text('Description', description),
    text('Slice', slice),
    // systemd must not touch the cgroups inside the container, and enables all controllers for the scope.
    flag('Delegate', true),
    // The kubelet's graceful shutdown ends containers, not systemd's shutdown order.
    flag('DefaultDependencies', false),
    // Removes a failed scope, so that its name can be reused.
    text('CollectMode', 'inactive-or-failed'),
    ...['CPUAccounting', 'MemoryAccounting', 'IOAccounting', 'TasksAccounting'].map((name) => flag(name, true)),
  ];
}

/** A CPUWeight of 0 sets cpu.idle since systemd 252. Older versions reject it. */
const idleSinceVersion = 252;

/** 2^64 - 1: unlimited; for CPUWeight: not set. */
const infinity = 0xffff_ffff_ffff_ffffn;
/** systemd stores a quota in whole percent of a cpu. */
const percentUs = 10_000n;

/**
 * Files whose value is one number or `max`, and their unit properties. systemd refuses a property below `min`, and the kernel takes 0: then the property is
 * `min`, and the exact value is written to the file. Source: the setters in src/core/dbus-cgroup.c. Without a write the property is set to unlimited, not to the
 * node's default.
 */
const numbers: Readonly<Record<string, { readonly property: string; readonly unset: bigint; readonly min?: bigint }>> = {
  'cpu.weight': { property: 'CPUWeight', unset: infinity },
  'memory.min': { property: 'MemoryMin', unset: 0n },
  'memory.low': { property: 'MemoryLow', unset: 0n },
  'memory.high': { property: 'MemoryHigh', unset: infinity, min: 1n },
  'memory.max': { property: 'MemoryMax', unset: infinity, min: 1n },
  'memory.swap.max': { property: 'MemorySwapMax', unset: infinity },
  'pids.max': { property: 'TasksMax', unset: infinity, min: 1n },
};

/**
 * Returns the limits of a cgroup v2 as properties of its unit, so that systemd writes these instead of its defaults when it reapplies all units.
 * Values without a property (memory.oom.group, huge pages, io.max) are omitted: the caller also writes all values to the files.
 *
 * @param writes all values of the cgroup. The last one for each file counts.
 * @param version the version of systemd.
 */
export function unitProperties(writes: readonly CgroupWrite[], version: number): BusProperty[] {
  const values = new Map(writes.map(({ file, value }) => [file, value]));
  if (values.get('cpu.idle') === '1' && version >= idleSinceVersion) values.set('cpu.weight', '0');
  const limits = Object.entries(numbers).map(([file, { property, unset, min = 0n }]) =>
    number(property, larger(limitOf(values.get(file), unset), min)),
  );
  return [...limits, ...cpuQuota(values.get('cpu.max')), ...cpusets(values), ...ioWeight(values.get('io.weight'))];
}

const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b);
const number = (name: string, value: bigint): BusProperty => ({ name, value: { type: 't', value } });

function limitOf(value: string | undefined, unset: bigint): bigint {
  if (value === undefined) return unset;
  const [, digits, unit = ''] = /^(\d+)([KMGT]?)$/i.exec(value.trim()) ?? [];
  return digits === undefined ? infinity : BigInt(digits) << (10n * BigInt(1 + 'KMGT'.indexOf(unit.toUpperCase() || ' ')));
}

/** Rounds the quota up: until the exact value is written again, the container gets more, not less. */
function cpuQuota(value: string | undefined): BusProperty[] {
  const [quota = 'max', period = cpuPeriodDefaultUs] = value?.trim().split(' ') ?? [];
  if (quota === 'max') return [number('CPUQuotaPerSecUSec', infinity)];
  const perSecondUs = (BigInt(quota) * 1_000_000n) / BigInt(period);
  const wholePercents = ((perSecondUs + percentUs - 1n) / percentUs) * percentUs;
  return [number('CPUQuotaPerSecUSec', wholePercents), number('CPUQuotaPeriodUSec', BigInt(period))];
}

function cpusets(values: ReadonlyMap<string, string>): BusProperty[] {
  const files = [
    ['cpuset.cpus', 'AllowedCPUs'],
    ['cpuset.mems', 'AllowedMemoryNodes'],
  ] as const;
  return files.flatMap(([file, name]) => {
    const list = values.get(file);
    return list === undefined ? [] : [{ name, value: { type: 'ay', value: bitmask(list) } } as const];
  });
}

/** Converts `0-2,9` to bytes, lowest numbers first. `0-7:1/4` is one of every four: cpuset(7). */
function bitmask(list: string): Uint8Array {
  const members = list.split(',').flatMap((range) => {
    const [, first, last = first, used = 1, group = 1] = /^(\d+)(?:-(\d+)(?::(\d+)\/(\d+))?)?$/.exec(range.trim()) ?? [];
    const count = first === undefined ? 0 : Number(last) - Number(first) + 1;
    return Array.from({ length: count }, (_, i) => i).flatMap((i) => (i % Number(group) < Number(used) ? [Number(first) + i] : []));
  });
  const bytes = new Uint8Array(Math.ceil((Math.max(-1, ...members) + 1) / 8));
  for (const member of members) bytes[member >> 3] = (bytes[member >> 3] ?? 0) | (1 << (member & 7));
  return bytes;
}

function ioWeight(value: string | undefined): BusProperty[] {
  const weight = /^(?:default )?(\d+)$/.exec(value ?? '')?.[1];
  return weight === undefined ? [] : [number('IOWeight', BigInt(weight))];
}
