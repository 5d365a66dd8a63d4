/**
 * Values that are asked for by the name of a cgroup v2 file: checked, as writes, and as what cgroup v1 has instead. Pure.
 *
 * Files: Documentation/admin-guide/cgroup-v2.rst and Documentation/admin-guide/cgroup-v1/ of the kernel.
 */
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { isKeyedFile } from '../../sys/cgroup/cgroup-undo.ts';

export type Unified = Readonly<Record<string, string>>;

/**
 * The writes for values by name, in the order of the names given.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a name that is no file with a setting, or a value of several lines where a file has one;
 *   FAILED_PRECONDITION without the file's controller, and for what v1 has not.
 */
export function planUnified(unified: Unified, facts: CgroupFacts): CgroupWrite[] {
  return Object.entries(unified).flatMap(([file, value]) => {
    checkName(file);
    const writes = linesOf(file, value).flatMap((line) =>
      facts.version === 1 ? onV1(file, line) : [{ controller: controllerOf(file), file, value: line }],
    );
    return writes.map((write) => {
      if (write.controller !== 'cgroup' && !facts.controllers.has(write.controller))
        throw failedPrecondition(`setting ${file}: the node has no cgroup controller ${write.controller}`);
      return { ...write, note: 'as requested by name' };
    });
  });
}

/** Values by name are the last word: they take the places of writes to the same files, and the others follow. */
export function withUnified(writes: readonly CgroupWrite[], standing: readonly CgroupWrite[], changed: readonly CgroupWrite[]): CgroupWrite[] {
  const named = Map.groupBy(standing, ({ file }) => file);
  const written = new Set(writes.map(({ file }) => file));
  return [...writes.flatMap((write) => named.get(write.file) ?? [write]), ...changed.filter(({ file }) => !written.has(file))];
}

/** Files that act on processes or memory, or on the tree, instead of holding a value. */
const actingFiles = new Set(['procs', 'threads', 'kill', 'type', 'subtree_control', 'freeze'].map((name) => `cgroup.${name}`)).add('memory.reclaim');

function checkName(file: string): void {
  // A write to a pressure file arms a trigger that lives as long as the writer.
  const isActing = actingFiles.has(file) || (file.endsWith('.pressure') && file !== 'cgroup.pressure');
  if (!/^[a-z]\w*(\.[\w-]+)+$/.test(file) || isActing)
    throw invalidArgument(`unified cgroup value ${JSON.stringify(file)} is no file that holds a setting`);
}

const controllerOf = (file: string): string => file.slice(0, file.indexOf('.'));

/** The kernel takes one line a write. An empty value is an empty line: it empties a list. */
function linesOf(file: string, value: string): readonly string[] {
  const lines = value.replace(/\n$/, '').split('\n');
  if (lines.length > 1 && !isKeyedFile(file)) throw invalidArgument(`unified cgroup value ${file}: ${JSON.stringify(value)} is more than one line`);
  return lines.map((line) => (line === '' ? '\n' : line));
}

type Place = Pick<CgroupWrite, 'controller' | 'file' | 'value'>;

/** Where v1 keeps the same, for what it has. */
const v1Files: Readonly<Record<string, (value: string) => readonly Place[]>> = {
  'pids.max': (value) => [{ controller: 'pids', file: 'pids.max', value }],
  'cpu.idle': (value) => [{ controller: 'cpu', file: 'cpu.idle', value }],
  'cpu.max.burst': (value) => [{ controller: 'cpu', file: 'cpu.cfs_burst_us', value }],
  'memory.low': (value) => [{ controller: 'memory', file: 'memory.soft_limit_in_bytes', value: value === 'max' ? '-1' : value }],
  'rdma.max': (value) => [{ controller: 'rdma', file: 'rdma.max', value }],
  'misc.max': (value) => [{ controller: 'misc', file: 'misc.max', value }],
  'io.max': throttles,
  'io.bfq.weight': bfqWeight,
};

function onV1(file: string, value: string): readonly Place[] {
  const places = v1Files[file];
  if (places === undefined) throw failedPrecondition(`setting ${file}: it needs cgroup v2, this node has v1`);
  return places(value);
}

/** `default 100` or `8:0 100`. */
function bfqWeight(line: string): readonly Place[] {
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

/** `8:0 rbps=1000 wiops=max`, in v1 a file each. */
function throttles(line: string): readonly Place[] {
  const [device = '', ...limits] = line.split(' ');
  return limits.map((limit) => {
    const [, name = '', amount = ''] = /^(\w+)=(\d+|max)$/.exec(limit) ?? [];
    const file = throttleFiles[name];
    if (!/^\d+:\d+$/.test(device) || file === undefined)
      throw invalidArgument(`unified cgroup value io.max: ${JSON.stringify(line)} is not like 8:0 rbps=1000`);
    return { controller: 'blkio', file, value: `${device} ${amount === 'max' ? 0 : amount}` };
  });
}
