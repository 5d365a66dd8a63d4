/**
 * Checks `unified` values, which are requested by the name of a cgroup v2 file, and converts them to writes, also for cgroup v1. Pure.
 *
 * Files: Documentation/admin-guide/cgroup-v2.rst and Documentation/admin-guide/cgroup-v1/ of the kernel.
 */
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { isKeyedFile } from '../../sys/cgroup/cgroup-undo.ts';

export type Unified = Readonly<Record<string, string>>;

/**
 * Returns the writes for `unified` values, in their order.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a file that has no setting, or for several lines if the file takes one;
 *   FAILED_PRECONDITION if the node does not have the file's controller, or v1 has no such setting.
 */
export function planUnified(unified: Unified, facts: CgroupFacts): CgroupWrite[] {
  return Object.entries(unified).flatMap(([file, value]) => {
    checkName(file);
    const writes = linesOf(file, value).flatMap((line) =>
      facts.version === 1 ? onV1(file, line) : [{ controller: controllerOf(file), file, value: line }],
    );
    return writes.map((write) => {
      if (write.controller !== 'cgroup' && !facts.controllers.has(write.controller))
        throw failedPrecondition(`set ${file}: the node has no cgroup controller ${write.controller}`);
      return { ...write, note: 'unified value' };
    });
  });
}

/** Merges writes. `unified` values override other writes: they replace writes to the same files, and the rest is appended. */
export function withUnified(writes: readonly CgroupWrite[], all: readonly CgroupWrite[], changed: readonly CgroupWrite[]): CgroupWrite[] {
  const named = Map.groupBy(all, ({ file }) => file);
  const written = new Set(writes.map(({ file }) => file));
  return [...writes.flatMap((write) => named.get(write.file) ?? [write]), ...changed.filter(({ file }) => !written.has(file))];
}

/** Files that trigger an action on processes, memory or the hierarchy instead of storing a value. */
const actionFiles = new Set(['procs', 'threads', 'kill', 'type', 'subtree_control', 'freeze'].map((name) => `cgroup.${name}`)).add('memory.reclaim');

function checkName(file: string): void {
  // A write to a pressure file creates a trigger that exists only as long as the file is open.
  const isAction = actionFiles.has(file) || (file.endsWith('.pressure') && file !== 'cgroup.pressure');
  if (!/^[a-z]\w*(\.[\w-]+)+$/.test(file) || isAction)
    throw invalidArgument(`invalid unified cgroup value ${JSON.stringify(file)}: this file does not store a setting`);
}

const controllerOf = (file: string): string => file.slice(0, file.indexOf('.'));

/** Splits a value into lines, because the kernel takes one line for each write. An empty value is an empty line, which clears a list. */
function linesOf(file: string, value: string): readonly string[] {
  const lines = value.replace(/\n$/, '').split('\n');
  if (lines.length > 1 && !isKeyedFile(file))
    throw invalidArgument(`invalid unified cgroup value ${file}: ${JSON.stringify(value)} has more than one line`);
  return lines.map((line) => (line === '' ? '\n' : line));
}

type FileValue = Pick<CgroupWrite, 'controller' | 'file' | 'value'>;

/** The equivalent files of v1. */
const v1Files: Readonly<Record<string, (value: string) => readonly FileValue[]>> = {
  'pids.max': (value) => [{ controller: 'pids', file: 'pids.max', value }],
  'cpu.idle': (value) => [{ controller: 'cpu', file: 'cpu.idle', value }],
  'cpu.max.burst': (value) => [{ controller: 'cpu', file: 'cpu.cfs_burst_us', value }],
  'memory.low': (value) => [{ controller: 'memory', file: 'memory.soft_limit_in_bytes', value: value === 'max' ? '-1' : value }],
  'rdma.max': (value) => [{ controller: 'rdma', file: 'rdma.max', value }],
  'misc.max': (value) => [{ controller: 'misc', file: 'misc.max', value }],
  'io.max': throttles,
  'io.bfq.weight': bfqWeight,
};

function onV1(file: string, value: string): readonly FileValue[] {
  const convert = v1Files[file];
  if (convert === undefined) throw failedPrecondition(`set ${file}: requires cgroup v2, this node has v1`);
  return convert(value);
}

/** Converts `default 100` or `8:0 100`. */
function bfqWeight(line: string): readonly FileValue[] {
  const weight = /^(?:default )?(\d+)$/.exec(line)?.[1];
  return [
    weight === undefined
      ? { controller: 'blkio', file: 'blkio.bfq.weight_device', value: line }
      : { controller: 'blkio', file: 'blkio.bfq.weight', value: weight },
  ];
}

const throttleFiles: Readonly<Record<string, string>> = {
  rbps: 'blkio.throttle.read_bps_device',
  wbps: 'blkio.throttle.write_bps_device',
  riops: 'blkio.throttle.read_iops_device',
  wiops: 'blkio.throttle.write_iops_device',
};

/** Converts `8:0 rbps=1000 wiops=max`. v1 has one file for each limit. */
function throttles(line: string): readonly FileValue[] {
  const [device = '', ...limits] = line.split(' ');
  return limits.map((limit) => {
    const [, name = '', amount = ''] = /^(\w+)=(\d+|max)$/.exec(limit) ?? [];
    const file = throttleFiles[name];
    if (!/^\d+:\d+$/.test(device) || file === undefined)
      throw invalidArgument(`invalid unified cgroup value io.max: ${JSON.stringify(line)}; want a value such as 8:0 rbps=1000`);
    return { controller: 'blkio', file, value: `${device} ${amount === 'max' ? 0 : amount}` };
  });
}
