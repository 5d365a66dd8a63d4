/**
 * Moves monitors into the cgroup that accounts for them: that of the daemon, one of the pod, or one that the operator names.
 *
 * A monitor that cannot be moved stays in the daemon's cgroup. This is logged, and does not fail the container.
 */
import { failedTo, reasonOf } from '../../lib/errors.ts';
import { enterCgroup } from '../../sys/cgroup/cgroup-processes.ts';
import type { EngineDeps } from '../deps.ts';
import type { ContainerView, SandboxRecord } from '../state/records.ts';

type Deps = Pick<EngineDeps, 'cgroups' | 'cgroupDriver' | 'log' | 'settings'>;

/** Digits of the sandbox's id: enough to be unique, and fewer than 64, so that no tool takes the cgroup for a container. */
const idDigits = 16;

/** Creates the cgroup that the setting names. Called once, before the first monitor starts. @throws {BerthError} if it cannot be created. */
export async function prepareMonitorCgroup(deps: Pick<Deps, 'cgroupDriver'>, place: string): Promise<void> {
  if (place === 'daemon' || place === 'pod') return;
  try {
    await deps.cgroupDriver.create(namedPath(deps, place));
  } catch (error) {
    throw failedTo('monitor_cgroup', error);
  }
}

/** Returns a function that moves a new monitor of the container into its cgroup. The processes that a monitor starts enter the container's cgroup. */
export function monitorPlacer(deps: Deps & Pick<EngineDeps, 'store'>, { record }: ContainerView): (monitorPid: number) => void {
  const pod = deps.store.sandboxes.get(record.sandboxId)?.record;
  const path = pod === undefined ? null : monitorCgroupPath(deps, pod);
  return path === null ? () => {} : (pid) => place(deps, path, pid);
}

function place(deps: Deps, path: string, pid: number): void {
  const warn = (error: unknown) => deps.log.warn({ path, pid, reason: reasonOf(error) }, 'failed to move a monitor into its cgroup');
  try {
    const isNew = enterCgroup(deps.cgroups, path, pid);
    if (isNew) deps.cgroupDriver.adopt(path, []).catch(warn);
  } catch (error) {
    warn(error);
  }
}

/** Removes the cgroup of a pod's monitors, which have exited or are about to. Idempotent. Never throws. */
export async function removeMonitorCgroup(deps: Deps, pod: SandboxRecord): Promise<void> {
  if (deps.settings.monitorCgroup !== 'pod') return;
  try {
    const path = monitorCgroupPath(deps, pod);
    if (path !== null) await deps.cgroupDriver.remove(path);
  } catch (error) {
    deps.log.warn({ id: pod.id, reason: reasonOf(error) }, "failed to remove the cgroup of a pod's monitors");
  }
}

function monitorCgroupPath(deps: Deps, { id, spec }: SandboxRecord): string | null {
  const { monitorCgroup: place } = deps.settings;
  if (place === 'daemon') return null;
  return place === 'pod' ? deps.cgroupDriver.pathOf(spec.cgroupParent, `monitors-${id.slice(0, idDigits)}`) : namedPath(deps, place);
}

const namedPath = ({ cgroupDriver }: Pick<Deps, 'cgroupDriver'>, parent: string): string => cgroupDriver.pathOf(parent, 'monitors');
