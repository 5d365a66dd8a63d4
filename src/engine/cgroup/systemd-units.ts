/**
 * What systemd calls a container's cgroup: slices to paths, names of scopes, and cgroup values as properties of a unit. Pure.
 *
 * Rules: systemd.slice(5), systemd.unit(5), systemd.resource-control(5); names of properties: org.freedesktop.systemd1(5).
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { BusProperty } from '../../sys/systemd/sd-bus.ts';
import { cpuPeriodDefaultUs } from './cgroup-change.ts';

/** Of scopes: what reads cgroup paths finds the id behind it, as behind `cri-containerd`. `crio` is for cAdvisor, which takes no other. */
const scopePrefixes = ['cri-berth', 'crio'] as const;
export type ScopePrefix = (typeof scopePrefixes)[number];
/** Bytes of a unit's name: UNIT_NAME_MAX, with its final NUL 256. */
const unitNameBytesMax = 255;

/**
 * The slice that a pod's cgroup parent names: only its last component counts, for the name of a slice says where it is.
 *
 * @param parent as the kubelet sends it; '' stands for `defaultSlice`.
 * @throws {BerthError} INVALID_ARGUMENT for what is no slice.
 */
export function parentSlice(parent: string, defaultSlice: string): string {
  const slice = (parent === '' ? defaultSlice : parent).split('/').findLast((component) => component !== '') ?? '';
  if (!slice.endsWith('.slice')) {
    throw invalidArgument(`cgroup parent ${parent} is no systemd slice, but the cgroup driver is systemd: set the kubelet's cgroupDriver to systemd`);
  }
  const isName = slice === '-.slice' || /^[\w:.\\]+(-[\w:.\\]+)*\.slice$/.test(slice);
  if (!isName || Buffer.byteLength(slice) > unitNameBytesMax)
    throw invalidArgument(`cgroup parent ${parent}: ${slice} is no name of a systemd slice`);
  return slice;
}

/** `/a.slice/a-b.slice` for `a-b.slice`: each dash is a level. '' for the root, `-.slice`. */
export function slicePath(slice: string): string {
  if (slice === '-.slice') return '';
  const parts = slice.slice(0, -'.slice'.length).split('-');
  return parts.map((_, i) => `/${parts.slice(0, i + 1).join('-')}.slice`).join('');
}

export const scopeName = (id: string, prefix: ScopePrefix): string => `${prefix}-${id}.scope`;

/** All names that the scope of this id may have. */
export const scopeNames = (id: string): string[] => scopePrefixes.map((prefix) => scopeName(id, prefix));

/** The unit and the slice of a cgroup path that parentSlice() and scopeName() made; null for a cgroup of another driver. */
export function unitOf(path: string): { readonly scope: string; readonly slice: string } | null {
  const [scope = '', slice] = path.split('/').reverse();
  const hasPrefix = scopePrefixes.some((prefix) => scope.startsWith(`${prefix}-`));
  // Without systemd, too, a cgroup may be called so, but in no slice.
  const isInSlice = slice === undefined || slice === '' || slice.endsWith('.slice');
  if (!hasPrefix || !scope.endsWith('.scope') || !isInSlice) return null;
  return { scope, slice: slice || '-.slice' };
}

/** What a container's scope is made with, beside its limits and the processes that begin it. */
export function scopeProperties(slice: string, description: string): BusProperty[] {
  const text = (name: string, value: string): BusProperty => ({ name, value: { type: 's', value } });
  const flag = (name: string, value: boolean): BusProperty => ({ name, value: { type: 'b', value } });
  return [
    text('Description', description),
    text('Slice', slice),
    // The cgroups below are the container's, and all controllers are enabled for the scope.
    flag('Delegate', true),
    // Containers end with the kubelet's graceful shutdown, not in the order of units.
    flag('DefaultDependencies', false),
    // A scope that failed does not stay as a name that is taken.
    text('CollectMode', 'inactive-or-failed'),
    ...['CPUAccounting', 'MemoryAccounting', 'IOAccounting', 'TasksAccounting'].map((name) => flag(name, true)),
  ];
}

/** Since systemd 252 a CPUWeight of 0 sets cpu.idle; those before refuse it. */
const idleSinceVersion = 252;

/** 2^64 - 1: no limit, and for CPUWeight not set. */
const infinity = 0xffff_ffff_ffff_ffffn;
/** systemd keeps a quota as whole per cent of a cpu. */
const percentUs = 10_000n;

/** Files of values that are one number of a unit, `max` for none. Without a write all of them are unlimited, not what the node's defaults say. */
const numbers: Readonly<Record<string, { readonly property: string; readonly unset: bigint }>> = {
  'cpu.weight': { property: 'CPUWeight', unset: infinity },
  'memory.min': { property: 'MemoryMin', unset: 0n },
  'memory.low': { property: 'MemoryLow', unset: 0n },
  'memory.high': { property: 'MemoryHigh', unset: infinity },
  'memory.max': { property: 'MemoryMax', unset: infinity },
  'memory.swap.max': { property: 'MemorySwapMax', unset: infinity },
  'pids.max': { property: 'TasksMax', unset: infinity },
};

/**
 * Limits of a cgroup v2 as properties of its unit, so that systemd, whenever it applies all units anew, writes these and not its defaults.
 * What no property can say (memory.oom.group, huge pages, io.max) is left out: the caller writes all values to the files themselves as well.
 *
 * @param writes all values of the cgroup; of several for a file the last one counts.
 * @param version of systemd.
 */
export function unitProperties(writes: readonly CgroupWrite[], version: number): BusProperty[] {
  const values = new Map(writes.map(({ file, value }) => [file, value]));
  if (values.get('cpu.idle') === '1' && version >= idleSinceVersion) values.set('cpu.weight', '0');
  const limits = Object.entries(numbers).map(([file, { property, unset }]) => number(property, limitOf(values.get(file), unset)));
  return [...limits, ...cpuQuota(values.get('cpu.max')), ...cpusets(values), ...ioWeight(values.get('io.weight'))];
}

const number = (name: string, value: bigint): BusProperty => ({ name, value: { type: 't', value } });

function limitOf(value: string | undefined, unset: bigint): bigint {
  if (value === undefined) return unset;
  const [, digits, unit = ''] = /^(\d+)([KMGT]?)$/i.exec(value.trim()) ?? [];
  return digits === undefined ? infinity : BigInt(digits) << (10n * BigInt(1 + 'KMGT'.indexOf(unit.toUpperCase() || ' ')));
}

/** Rounded up: until the exact value is written again, the container gets rather more than less. */
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

/** `0-2,9` as bytes, the lowest numbers in the first. `0-7:1/4`: one of each four. cpuset(7). */
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
