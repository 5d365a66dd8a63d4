/**
 * Who makes the cgroups of containers: berth alone (cgroupfs), or berth together with systemd, which must know of what lies in its slices.
 *
 * Below systemd a container is a transient scope. A scope cannot be without a process, while a container's cgroup is there from its creation, so
 * that limits are refused early and its process is born inside: berth makes the directory of the scope-to-be, with values and device policy,
 * and once the process runs asks systemd to make the scope around what is in it. systemd then finds the directory and the process in their place,
 * and writes its properties, which say the same; what it rounds, or has no property for, berth writes again, also each time systemd has
 * applied all units anew (daemon-reload). With its last process the scope ends, and its directory goes: where the monitor has not read the count
 * of OOM kills by then, the kernel's log has it.
 */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import type { CgroupFacts, CgroupV2Facts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { processes } from '../../sys/cgroup/cgroup-processes.ts';
import { updateCgroup, writeCgroup } from '../../sys/cgroup/cgroup-values.ts';
import { createCgroup, findCgroups, removeCgroup, removeIfEmpty } from '../../sys/cgroup/cgroups.ts';
import { connectSystemd, isSystemdRunning, type Systemd } from '../../sys/systemd/systemd.ts';
import { containerCgroupPath, parentCgroupPath } from '../cgroup/cgroup.ts';
import { parentSlice, type ScopePrefix, scopeName, scopeNames, scopeProperties, slicePath, unitOf, unitProperties } from '../cgroup/systemd-units.ts';

/** Paths are from the root of the hierarchies. A record keeps its path, so each driver also takes those that the other has made. */
export type CgroupDriver = {
  readonly name: 'cgroupfs' | 'systemd';
  /** Of a container, or of a sandbox's own processes. @throws {BerthError} INVALID_ARGUMENT for a parent that is the other driver's. */
  readonly pathOf: (parent: string, id: string) => string;
  /** Of a pod, whichever driver's; '' for the root. */
  readonly parentPathOf: (parent: string) => string;
  /** Makes the directory, with those above, and gives it values. @throws {BerthError} as writeCgroup(). */
  readonly create: (path: string, values?: readonly CgroupWrite[]) => Promise<void>;
  /** For a cgroup whose first process runs, or that an earlier daemon has left running. `values`: all of its limits. */
  readonly adopt: (path: string, values: readonly CgroupWrite[]) => Promise<void>;
  /** Changes limits, all or none. @param change.values all limits as they are then. @throws {BerthError} as updateCgroup(). */
  readonly update: (path: string, change: { readonly writes: readonly CgroupWrite[]; readonly values: readonly CgroupWrite[] }) => Promise<void>;
  /** For a cgroup whose processes have ended. Succeeds when there is none. */
  readonly remove: (path: string) => Promise<void>;
  /** Paths of what belongs to this id, wherever it is. */
  readonly find: (id: string) => Promise<readonly string[]>;
  /** Calls back when values in cgroups of running containers may have been overwritten. */
  readonly onReset: (listener: () => void) => void;
  readonly close: () => void;
};

/** Where cgroups are whose parent nobody names, and what they are called. */
export type CgroupNames = { readonly defaultParent: string; readonly prefix: ScopePrefix };

export type CgroupDriverName = 'auto' | CgroupDriver['name'];

/** Parent of what names none, under systemd: where services are, and where the peers put it. */
const systemSlice = 'system.slice';
const adoptAttemptsMax = 3;
const createAttemptsMax = 3;

/**
 * @param wanted `auto`: systemd where it is process 1, answers, and cgroups are v2.
 * @param names.defaultParent under systemd counted only when it is a slice.
 * @throws {BerthError} FAILED_PRECONDITION when the wanted one cannot be had.
 */
export async function chooseCgroupDriver(
  wanted: CgroupDriverName,
  facts: CgroupFacts,
  { defaultParent, prefix }: CgroupNames,
  log: Log,
): Promise<CgroupDriver> {
  // What knows `crio` takes an id only from between the last dash and `.scope`, with or without systemd.
  const cgroupfs = createCgroupfsDriver(facts, defaultParent, prefix === 'crio' ? (id) => scopeName(id, prefix) : (id) => id);
  if (wanted === 'cgroupfs' || (wanted === 'auto' && (facts.version === 1 || !isSystemdRunning()))) return cgroupfs;
  if (facts.version === 1)
    throw failedPrecondition('cgroup driver systemd: this node has cgroup v1, and berth makes scopes on v2 only; set cgroup_driver to cgroupfs');
  if (!isSystemdRunning()) throw failedPrecondition('cgroup driver systemd: systemd does not run this node (no /run/systemd/system)');
  try {
    return createSystemdDriver(facts, await connectSystemd(), { defaultParent, prefix });
  } catch (error) {
    if (wanted === 'systemd') throw failedPrecondition(`cgroup driver systemd: ${reasonOf(error)}`, error);
    log.warn({ reason: reasonOf(error) }, 'systemd runs this node but cannot be asked; the cgroup driver is cgroupfs');
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
      // A slice that systemd does not know would lose its values, and its controllers, when it gets to know it.
      if (unit !== null && !existsSync(`${facts.root}${dirname(path)}`)) await systemd.startUnit(unit.slice);
      createUnknown(facts, path, values);
    },
    adopt: (path, values) => adopt(facts, systemd, path, values),
    update: (path, change) => update(facts, systemd, path, change),
    remove: async (path) => {
      await removeCgroup(facts, path);
      const unit = unitOf(path);
      // It has ended with its last process; this waits until systemd has noticed.
      if (unit !== null) await systemd.stopUnit(unit.scope);
    },
    find: (id) => findEither(facts, id),
    onReset: systemd.onReset,
    close: systemd.close,
  };
}

/** A node can have pods of both drivers after its configuration was changed. */
function podPath(parent: string, defaultParent: string): string {
  const given = parent === '' ? defaultParent : parent;
  return /\.slice\/*$/.test(given) ? slicePath(parentSlice(given, '')) : parentCgroupPath(given, '');
}

async function findEither(facts: CgroupFacts, id: string): Promise<readonly string[]> {
  const found = await Promise.all([id, ...scopeNames(id)].map((name) => findCgroups(facts, name)));
  return found.flat();
}

/** With the end of a scope systemd takes from its slice each controller that nothing it knows of needs there, and it does not know of this cgroup yet. */
function createUnknown(facts: CgroupV2Facts, path: string, values: readonly CgroupWrite[]): void {
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
    // All of it has ended already: there is nothing to know for systemd.
    if (pids.length === 0) return;
    try {
      const properties = [...scopeProperties(unit.slice, `container ${unit.scope}`), ...unitProperties(values, systemd.version)];
      await systemd.startScope(unit.scope, [...properties, { name: 'PIDs', value: { type: 'au', value: pids } }]);
      writeCgroup(facts, path, values);
      return;
    } catch (error) {
      // Some ended meanwhile, and with one that is gone systemd takes none.
      if ((await processes(facts, path)).length === 0) return;
      if (attempt === adoptAttemptsMax) throw error;
    }
  }
}

async function update(facts: CgroupV2Facts, systemd: Systemd, path: string, change: Parameters<CgroupDriver['update']>[1]): Promise<void> {
  // First the kernel's word on each value; systemd would only log it.
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
