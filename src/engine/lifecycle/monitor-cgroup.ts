/**
 * Where monitors are accounted: in the daemon's own cgroup, beside the containers of their pod, or in one that the operator names.
 *
 * A monitor that cannot be put there stays in the daemon's: that is a warning, and no reason against a container.
 */
import { failedTo, reasonOf } from '../../lib/errors.ts';
import { enterCgroup } from '../../sys/cgroup/cgroup-processes.ts';
import type { EngineDeps } from '../deps.ts';
import type { ContainerView, SandboxRecord } from '../state/records.ts';

type Deps = Pick<EngineDeps, 'cgroups' | 'cgroupDriver' | 'log' | 'settings'>;

/** Digits of a sandbox's id: enough to be its own, and too few for what takes 64 of them in a cgroup's name for a container. */
const idDigits = 16;

/** @throws {BerthError} when monitors cannot be where the setting says. To be called once, before any starts. */
export async function prepareMonitorCgroup(deps: Pick<Deps, 'cgroupDriver'>, place: string): Promise<void> {
  if (place === 'daemon' || place === 'pod') return;
  try {
    await deps.cgroupDriver.create(namedPath(deps, place));
  } catch (error) {
    throw failedTo('monitor_cgroup', error);
  }
}

/** What puts a monitor of the container's that was just started into its cgroup. The processes that it starts enter their own. */
export function monitorPlacer(deps: Deps & Pick<EngineDeps, 'store'>, { record }: ContainerView): (monitorPid: number) => void {
  const pod = deps.store.sandboxes.get(record.sandboxId)?.record;
  const path = pod === undefined ? null : monitorCgroupPath(deps, pod);
  return path === null ? () => {} : (pid) => place(deps, path, pid);
}

function place(deps: Deps, path: string, pid: number): void {
  const warn = (error: unknown) => deps.log.warn({ path, pid, reason: reasonOf(error) }, 'a monitor is not accounted in its cgroup');
  try {
    const isNew = enterCgroup(deps.cgroups, path, pid);
    if (isNew) deps.cgroupDriver.adopt(path, []).catch(warn);
  } catch (error) {
    warn(error);
  }
}

/** For a pod whose monitors have ended, or will at once. Succeeds when there is none. */
export async function removeMonitorCgroup(deps: Deps, pod: SandboxRecord): Promise<void> {
  if (deps.settings.monitorCgroup !== 'pod') return;
  try {
    const path = monitorCgroupPath(deps, pod);
    if (path !== null) await deps.cgroupDriver.remove(path);
  } catch (error) {
    deps.log.warn({ id: pod.id, reason: reasonOf(error) }, "the cgroup of a pod's monitors is left");
  }
}

function monitorCgroupPath(deps: Deps, { id, spec }: SandboxRecord): string | null {
  const { monitorCgroup: place } = deps.settings;
  if (place === 'daemon') return null;
  return place === 'pod' ? deps.cgroupDriver.pathOf(spec.cgroupParent, `monitors-${id.slice(0, idDigits)}`) : namedPath(deps, place);
}

const namedPath = ({ cgroupDriver }: Pick<Deps, 'cgroupDriver'>, parent: string): string => cgroupDriver.pathOf(parent, 'monitors');
