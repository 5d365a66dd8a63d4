/**
 * Cgroup drivers: berth creates the cgroups of containers by itself (cgroupfs), or together with systemd, which must know all cgroups in its slices.
 *
 * With systemd a container is a transient scope. A scope needs a process, but a container's cgroup exists from its creation, so that invalid limits
 * are rejected early and the process starts inside. So berth creates the directory of the future scope, with its values and device policy. When the
 * process runs, berth asks systemd to create a scope with that process. systemd uses the existing directory, and writes the scope's properties, which
 * contain the same values. berth then writes the values again, because systemd rounds some and has no property for others. It also does so after
 * systemd has applied all units again (daemon-reload). When its last process exits, the scope ends and its directory is removed: if the monitor has
 * not read the number of OOM kills by then, the kernel log still has it.
 */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { type CgroupFacts, type CgroupV2Facts, type CgroupWrite, cgroupDirectories } from '../../sys/cgroup/cgroup-facts.ts';
import { processes } from '../../sys/cgroup/cgroup-processes.ts';
import { updateCgroup, writeCgroup } from '../../sys/cgroup/cgroup-values.ts';
import { createCgroup, findCgroups, removeCgroup, removeIfEmpty } from '../../sys/cgroup/cgroups.ts';
import { connectSystemd, isSystemdRunning, type Systemd } from '../../sys/systemd/systemd.ts';
import { containerCgroupPath, parentCgroupPath } from '../cgroup/cgroup.ts';
import { parentSlice, type ScopePrefix, scopeName, scopeNames, scopeProperties, slicePath, unitOf, unitProperties } from '../cgroup/systemd-units.ts';

/** Paths are relative to the root of the hierarchies. A record contains its path, so each driver also accepts paths from the other. */
export type CgroupDriver = {
  readonly name: 'cgroupfs' | 'systemd';
  /** Returns the path for a container, or for a sandbox's own processes. @throws {BerthError} INVALID_ARGUMENT for a parent of the other driver. */
  readonly pathOf: (parent: string, id: string) => string;
  /** Returns the path of a pod's cgroup, of either driver; '' for the root. */
  readonly parentPathOf: (parent: string) => string;
  /** Creates the directory and its parents, and writes values. @throws {BerthError} as writeCgroup(). */
  readonly create: (path: string, values?: readonly CgroupWrite[]) => Promise<void>;
  /** Registers a cgroup whose first process has started, or that has running processes after a restart of the daemon. `values`: all of its limits. */
  readonly adopt: (path: string, values: readonly CgroupWrite[]) => Promise<void>;
  /** Changes limits, all or none. @param change.values all limits after the change. @throws {BerthError} as updateCgroup(). */
  readonly update: (path: string, change: { readonly writes: readonly CgroupWrite[]; readonly values: readonly CgroupWrite[] }) => Promise<void>;
  /** Removes a cgroup whose processes have exited. Idempotent. */
  readonly remove: (path: string) => Promise<void>;
  /** Returns the paths of all cgroups with this id in their name. */
  readonly find: (id: string) => Promise<readonly string[]>;
  /** Registers a callback for when values in cgroups of running containers may have been overwritten. */
  readonly onReset: (listener: () => void) => void;
  readonly close: () => void;
};

/** The parent of cgroups for which the request names none, and the prefix of their names. */
export type CgroupNames = { readonly defaultParent: string; readonly prefix: ScopePrefix };

export type CgroupDriverName = 'auto' | CgroupDriver['name'];

/** The default parent with systemd, as in containerd and CRI-O: the slice of system services. */
const systemSlice = 'system.slice';
const adoptAttemptsMax = 3;
const createAttemptsMax = 3;

/**
 * Selects the cgroup driver.
 *
 * @param wanted `auto`: systemd if it is PID 1 and reachable, and cgroups are v2.
 * @param names.defaultParent with systemd ignored unless it is a slice.
 * @throws {BerthError} FAILED_PRECONDITION if the wanted driver is not available.
 */
export async function chooseCgroupDriver(
  wanted: CgroupDriverName,
  facts: CgroupFacts,
  { defaultParent, prefix }: CgroupNames,
  log: Log,
): Promise<CgroupDriver> {
  // With the prefix `crio`, cAdvisor parses the id between the last dash and `.scope`, with or without systemd.
  const cgroupfs = createCgroupfsDriver(facts, defaultParent, prefix === 'crio' ? (id) => scopeName(id, prefix) : (id) => id);
  if (wanted === 'cgroupfs' || (wanted === 'auto' && (facts.version === 1 || !isSystemdRunning()))) return cgroupfs;
  if (facts.version === 1) throw failedPrecondition('cgroup driver systemd: requires cgroup v2, and this node has v1; set cgroup_driver to cgroupfs');
  if (!isSystemdRunning()) throw failedPrecondition('cgroup driver systemd: systemd is not running (no /run/systemd/system)');
  try {
    return createSystemdDriver(facts, await connectSystemd(), { defaultParent, prefix });
  } catch (error) {
    if (wanted === 'systemd') throw failedPrecondition(`cgroup driver systemd: ${reasonOf(error)}`, error);
    log.warn({ reason: reasonOf(error) }, 'failed to connect to systemd: using cgroup driver cgroupfs');
    return cgroupfs;
  }
}

function createCgroupfsDriver(facts: CgroupFacts, defaultParent: string, nameOf: (id: string) => string): CgroupDriver {
  return {
    name: 'cgroupfs',
    pathOf: (parent, id) => containerCgroupPath(parent, nameOf(id), defaultParent),
    parentPathOf: (parent) => podPath(parent, defaultParent),
    create: async (path, values = []) => {
      createCgroup(facts, path);
      writeCgroup(facts, path, values);
    },
    adopt: async () => {},
    update: async (path, { writes }) => void (await updateCgroup(facts, path, writes)),
    remove: async (path) => {
      await removeCgroup(facts, path);
      if (dirname(path) === defaultParent) removeIfEmpty(facts, defaultParent);
    },
    find: (id) => findEither(facts, id),
    onReset: () => {},
    close: () => {},
  };
}

function createSystemdDriver(facts: CgroupV2Facts, systemd: Systemd, { defaultParent, prefix }: CgroupNames): CgroupDriver {
  const defaultSlice = defaultParent.endsWith('.slice') ? defaultParent : systemSlice;
  return {
    name: 'systemd',
    pathOf: (parent, id) => `${slicePath(parentSlice(parent, defaultSlice))}/${scopeName(id, prefix)}`,
    parentPathOf: (parent) => podPath(parent, defaultSlice),
    create: async (path, values = []) => {
      const unit = unitOf(path);
      // systemd must know the slice: it resets the values and controllers of an unknown one when it loads the unit.
      if (unit !== null && !cgroupDirectories(facts, dirname(path)).every((directory) => existsSync(directory))) await systemd.startUnit(unit.slice);
      createWithRetry(facts, path, values);
    },
    adopt: (path, values) => adopt(facts, systemd, path, values),
    update: (path, change) => update(facts, systemd, path, change),
    remove: async (path) => {
      await removeCgroup(facts, path);
      const unit = unitOf(path);
      // The scope has ended with its last process: this only waits until systemd has noticed.
      if (unit !== null) await systemd.stopUnit(unit.scope);
    },
    find: (id) => findEither(facts, id),
    onReset: systemd.onReset,
    close: systemd.close,
  };
}

/** Accepts parents of both drivers: after a change of the configuration, a node can have pods of both. */
function podPath(parent: string, defaultParent: string): string {
  const effective = parent === '' ? defaultParent : parent;
  return /\.slice\/*$/.test(effective) ? slicePath(parentSlice(effective, '')) : parentCgroupPath(effective, '');
}

async function findEither(facts: CgroupFacts, id: string): Promise<readonly string[]> {
  const found = await Promise.all([id, ...scopeNames(id)].map((name) => findCgroups(facts, name)));
  return found.flat();
}

/** Retries, because systemd does not know this cgroup yet: when a scope ends, it disables all controllers in the slice that no known unit needs. */
function createWithRetry(facts: CgroupV2Facts, path: string, values: readonly CgroupWrite[]): void {
  for (let attempt = 1; ; attempt++) {
    createCgroup(facts, path);
    try {
      writeCgroup(facts, path, values);
      return;
    } catch (error) {
      if (attempt === createAttemptsMax || !isErrno((error as Error).cause, 'ENOENT')) throw error;
    }
  }
}

async function adopt(facts: CgroupV2Facts, systemd: Systemd, path: string, values: readonly CgroupWrite[]): Promise<void> {
  const unit = unitOf(path);
  if (unit === null) return;
  for (let attempt = 1; ; attempt++) {
    const pids = (await processes(facts, path)).filter((pid) => pid !== 0);
    // All processes have exited: no scope is needed.
    if (pids.length === 0) return;
    try {
      const properties = [...scopeProperties(unit.slice, `container ${unit.scope}`), ...unitProperties(values, systemd.version)];
      await systemd.startScope(unit.scope, [...properties, { name: 'PIDs', value: { type: 'au', value: pids } }]);
      writeCgroup(facts, path, values);
      return;
    } catch (error) {
      // systemd rejects the request if one of the processes has exited in the meantime.
      if ((await processes(facts, path)).length === 0) return;
      if (attempt === adoptAttemptsMax) throw error;
    }
  }
}

async function update(facts: CgroupV2Facts, systemd: Systemd, path: string, change: Parameters<CgroupDriver['update']>[1]): Promise<void> {
  // First write to the kernel, which reports invalid values; systemd would only log them.
  const undo = await updateCgroup(facts, path, change.writes);
  const unit = unitOf(path);
  if (unit === null) return;
  try {
    if (await systemd.setProperties(unit.scope, unitProperties(change.values, systemd.version))) writeCgroup(facts, path, change.values);
  } catch (error) {
    await undo();
    throw error;
  }
}
