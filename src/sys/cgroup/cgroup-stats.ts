/**
 * Reads the counters of cgroups: a few files each, with three system calls per file. Reads never wait: the files are in memory.
 */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { isErrno } from '../call/ffi.ts';
import {
  type CgroupCounters,
  cpuUsageV2,
  type MemoryCounters,
  type Pressures,
  parseMemoryV1,
  parseMemoryV2,
  parsePressure,
  parseSwapV1,
  parseSwapV2,
  type SwapCounters,
} from './cgroup-counters.ts';
import { type CgroupFacts, controllerDirectory, unifiedDirectory } from './cgroup-facts.ts';
import { checkPath } from './cgroup-files.ts';

export type CgroupReader = {
  /** Returns the counters of a cgroup, including descendants; null if it is gone. */
  readonly counters: (path: string) => CgroupCounters | null;
  /** Returns a file of a controller without the trailing newline; null if it does not exist. @param controller `unified` for files that belong to no controller. */
  readonly text: (path: string, controller: string, file: string) => string | null;
};

/** The longest counter file, io.stat with many devices, is shorter. The rest of a longer file is not read. */
const fileBytesMax = 64 * 1024;

export function createCgroupReader(facts: CgroupFacts): CgroupReader {
  const buffer = Buffer.allocUnsafe(fileBytesMax);
  const hasPressure = existsSync('/proc/pressure/cpu');
  const text = (path: string, controller: string, file: string) => {
    const directory = directoryOf(facts, path, controller);
    return directory === null ? null : readText(`${directory}/${file}`, buffer);
  };
  const counters = (path: string): CgroupCounters | null => {
    checkPath(path);
    const read = (controller: string, file: string) => text(path, controller, file);
    const cpuUsageNs = readCpu(facts, read);
    const { memory, swap } = readMemory(facts, read);
    if (cpuUsageNs === null && memory === null) return null;
    const tasks = read('pids', 'pids.current');
    return { cpuUsageNs, memory, swap, tasks: tasks === null ? null : Number(tasks), pressure: hasPressure ? readPressures(read) : noPressures };
  };
  const checkedText = (path: string, controller: string, file: string) => {
    checkPath(path);
    return text(path, controller, file);
  };
  return { counters, text: checkedText };
}

type Read = (controller: string, file: string) => string | null;

function readCpu({ version }: CgroupFacts, read: Read): bigint | null {
  if (version === 2) return cpuUsageV2(read('cpu', 'cpu.stat'));
  const usage = read('cpuacct', 'cpuacct.usage');
  return usage === null ? null : BigInt(usage);
}

function readMemory({ version, hasSwapAccounting }: CgroupFacts, read: Read): { memory: MemoryCounters | null; swap: SwapCounters | null } {
  const of = (file: string) => read('memory', `memory.${file}`);
  if (version === 2) {
    const memory = parseMemoryV2(of('current'), of('stat'), of('max'));
    return { memory, swap: hasSwapAccounting ? parseSwapV2(of('swap.current'), of('swap.max')) : null };
  }
  const memory = parseMemoryV1(of('usage_in_bytes'), of('stat'), of('limit_in_bytes'));
  return { memory, swap: hasSwapAccounting ? parseSwapV1(of('memsw.usage_in_bytes'), of('memsw.limit_in_bytes'), memory) : null };
}

const noPressures: Pressures = { cpu: null, memory: null, io: null };

/** The kernel accounts pressure in the cgroup2 hierarchy, even if that has no controllers. */
function readPressures(read: Read): Pressures {
  const of = (what: string) => parsePressure(read('unified', `${what}.pressure`));
  return { cpu: of('cpu'), memory: of('memory'), io: of('io') };
}

function directoryOf(facts: CgroupFacts, path: string, controller: string): string | null {
  return controller === 'unified' ? unifiedDirectory(facts, path) : controllerDirectory(facts, path, controller);
}

/** Returns null for ENODEV (the cgroup was removed between open and read) and EOPNOTSUPP (pressure accounting is disabled). */
function readText(file: string, buffer: Buffer): string | null {
  let fd: number | undefined;
  try {
    fd = openSync(file, 'r');
    // The kernel generates the whole text at once, so one read(2) returns all of it.
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    return buffer.toString('latin1', 0, length).trimEnd();
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP')) return null;
    throw error;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
