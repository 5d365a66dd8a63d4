/**
 * Registers cgroups that have running processes with the cgroup driver: after a start, after a restart of the daemon, and whenever the driver may
 * have overwritten their values. For created containers it only writes the values again.
 *
 * A failing driver does not fail the container: the limits are already in the kernel's files, and the next reset retries.
 */
import { reasonOf } from '../../lib/errors.ts';
import { delegateCgroup, setDevices } from '../../sys/cgroup/cgroups.ts';
import { planCgroup } from '../cgroup/cgroup.ts';
import type { EngineDeps } from '../deps.ts';
import { containerDevices } from '../sources/container-sources.ts';
import { type ContainerRecord, containerState, type SandboxRecord, sandboxState } from '../state/records.ts';
import type { Resources } from '../state/spec.ts';

/** Creates a container's cgroup if needed, and writes its limits and device policy. @throws {BerthError} for a limit that the kernel rejects. */
export async function prepareCgroup(deps: EngineDeps, record: ContainerRecord, resources: Resources): Promise<void> {
  await deps.cgroupDriver.create(record.cgroupPath, planCgroup(resources, deps.cgroups));
  setDevices(deps.cgroups, record.cgroupPath, containerDevices(record).policy);
  const { namespaces, cgroups } = record.spec.security;
  // Root of the user namespace is another user of the node.
  if (cgroups?.isWritable && namespaces.user !== undefined)
    delegateCgroup(deps.cgroups, record.cgroupPath, { uid: namespaces.user.uids.hostId, gid: namespaces.user.gids.hostId });
}

/** Registers the cgroup of a running container. Does nothing if the container has exited. */
export async function adoptContainer(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) !== 'running') return;
  const { record, status } = view;
  await logged(deps, id, () => deps.cgroupDriver.adopt(record.cgroupPath, planCgroup(status.resources, deps.cgroups)));
}

/**
 * Writes the limits of a created container again: systemd does not know its cgroup, and may have disabled its controllers, which discards all values.
 */
async function restoreContainer(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) !== 'created') return;
  const { record, status } = view;
  await logged(deps, id, () => prepareCgroup(deps, record, status.resources));
}

/** Registers the cgroup of a sandbox's reaper. Does nothing for a record of an older version, which does not contain the path. */
export async function adoptReaper(deps: EngineDeps, { id, cgroupPath }: SandboxRecord): Promise<void> {
  if (cgroupPath !== undefined) await logged(deps, id, () => deps.cgroupDriver.adopt(cgroupPath, []));
}

async function logged(deps: EngineDeps, id: string, adopt: () => Promise<void>): Promise<void> {
  try {
    await adopt();
  } catch (error) {
    deps.log.error({ id, reason: reasonOf(error) }, 'failed to register a cgroup with the cgroup driver; its limits stay in effect');
  }
}

/** Registers all cgroups with running processes, now and after each reset of the driver. */
export async function keepLimits(deps: EngineDeps): Promise<void> {
  const all = () => {
    const reapers = deps.store.sandboxes.all().filter(({ status }) => sandboxState(status) === 'ready' && status.reaper !== undefined);
    return Promise.all([
      // In the container's queue, after updates in progress.
      ...deps.store.containers
        .all()
        .map(({ record: { id } }) => deps.queue.run(id, () => Promise.all([adoptContainer(deps, id), restoreContainer(deps, id)]))),
      ...reapers.map(({ record }) => adoptReaper(deps, record)),
    ]);
  };
  deps.cgroupDriver.onReset(() => void all());
  await all();
}
