/**
 * Tells the cgroup driver of cgroups whose processes run: after a start, after a restart of the daemon, and whenever it may have lost their values.
 * Those of containers that wait for their start get their values again.
 *
 * A driver that does not answer ends no container: its limits are in the kernel's files already, and the next reset asks again.
 */
import { reasonOf } from '../../lib/errors.ts';
import { setDevices } from '../../sys/cgroup/cgroups.ts';
import { planCgroup } from '../cgroup/cgroup.ts';
import type { EngineDeps } from '../deps.ts';
import { containerDevices } from '../sources/container-sources.ts';
import { type ContainerRecord, containerState, type SandboxRecord, sandboxState } from '../state/records.ts';
import type { Resources } from '../state/spec.ts';

/** Makes a container's cgroup with its limits and devices, or gives them again to one that is there. @throws {BerthError} for a limit that the kernel refuses. */
export async function prepareCgroup(deps: EngineDeps, record: ContainerRecord, resources: Resources): Promise<void> {
  await deps.cgroupDriver.create(record.cgroupPath, planCgroup(resources, deps.cgroups));
  setDevices(deps.cgroups, record.cgroupPath, containerDevices(record).policy);
}

/** For a container that was started; does nothing when it has ended. */
export async function adoptContainer(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) !== 'running') return;
  const { record, status } = view;
  await logged(deps, id, () => deps.cgroupDriver.adopt(record.cgroupPath, planCgroup(status.resources, deps.cgroups)));
}

/** For a container that waits for its start: nobody else knows of its cgroup, and may have taken the controllers from it with all values. */
async function restoreContainer(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) !== 'created') return;
  const { record, status } = view;
  await logged(deps, id, () => prepareCgroup(deps, record, status.resources));
}

/** For the reaper of a sandbox that has one. A record from before records had the path leaves it as it is. */
export async function adoptReaper(deps: EngineDeps, { id, cgroupPath }: SandboxRecord): Promise<void> {
  if (cgroupPath !== undefined) await logged(deps, id, () => deps.cgroupDriver.adopt(cgroupPath, []));
}

async function logged(deps: EngineDeps, id: string, adopt: () => Promise<void>): Promise<void> {
  try {
    await adopt();
  } catch (error) {
    deps.log.error({ id, reason: reasonOf(error) }, 'the cgroup driver does not know of a cgroup; its limits hold as they were written');
  }
}

/** Tells of all that runs now, and again whenever the driver asks. */
export async function keepLimits(deps: EngineDeps): Promise<void> {
  const all = () => {
    const reapers = deps.store.sandboxes.all().filter(({ status }) => sandboxState(status) === 'ready' && status.reaper !== undefined);
    return Promise.all([
      // In turn with updates of the same container.
      ...deps.store.containers
        .all()
        .map(({ record: { id } }) => deps.queue.run(id, () => Promise.all([adoptContainer(deps, id), restoreContainer(deps, id)]))),
      ...reapers.map(({ record }) => adoptReaper(deps, record)),
    ]);
  };
  deps.cgroupDriver.onReset(() => void all());
  await all();
}
