/**
 * Recovers after a restart of the daemon: compares the records on disk with the state of the kernel, and completes or undoes what is unfinished.
 *
 * Runs before the socket is served. Each object is recovered independently: a failure is logged and does not stop the daemon.
 */
import { reasonOf } from '../lib/errors.ts';
import { isAlive } from '../sys/process/processes.ts';
import { abandonCheckpoint } from './checkpoint/checkpoint.ts';
import type { EngineDeps } from './deps.ts';
import { keepLimits } from './lifecycle/adopt-cgroup.ts';
import { diffIdsOf, discard, recordStartFailure } from './lifecycle/container.ts';
import { recordExit, watchExit } from './lifecycle/exits.ts';
import { discardSandbox, hasNamespaces } from './lifecycle/sandbox.ts';
import { type ContainerView, containerState, sandboxState } from './state/records.ts';

/** Returns the latest time in any record, so that the clock never goes back before it. 0 if there are no records. */
export function latestTimeNs(deps: Pick<EngineDeps, 'store'>): bigint {
  const times = [
    ...deps.store.sandboxes.all().flatMap(({ record, status }) => [record.createdAtNs, status.readyAtNs, status.stoppedAtNs]),
    ...deps.store.containers.all().flatMap(({ record, status }) => [record.createdAtNs, status.startedAtNs, status.finishedAtNs]),
  ];
  return times.reduce((latest, time) => (time !== undefined && BigInt(time) > latest ? BigInt(time) : latest), 0n);
}

export async function recover(deps: EngineDeps): Promise<void> {
  const { sandboxes, containers } = deps.store;
  for (const { record, status } of [...sandboxes.all(), ...containers.all()]) {
    if (status.unreadableReason !== undefined)
      deps.log.error({ id: record.id, reason: status.unreadableReason }, 'record is unreadable; it can be removed');
  }
  await Promise.all(containers.all().map((view) => guarded(deps, view.record.id, () => recoverContainer(deps, view))));
  await Promise.all(
    sandboxes.all().map(({ record, status }) =>
      guarded(deps, record.id, async () => {
        const state = sandboxState(status);
        if (state === 'creating') await discardSandbox(deps, record.id);
        if (state === 'ready' && !hasNamespaces(deps, record)) {
          sandboxes.updateBestEffort(record.id, ({ network: _, ...before }) => ({ ...before, stoppedAtNs: deps.clock.nowNs() }));
        }
      }),
    ),
  );
  await keepLimits(deps);
  await removeOrphans(deps);
}

async function guarded(deps: EngineDeps, id: string, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    deps.log.error({ id, reason: reasonOf(error) }, 'failed to recover');
  }
}

async function recoverContainer(deps: EngineDeps, view: ContainerView): Promise<void> {
  const { record, status } = view;
  const { id } = record;
  deps.layers.lease(id, diffIdsOf(record.spec, record.image));
  const state = containerState(status);
  if (state === 'creating') return discard(deps, id);
  if (state === 'created' && status.startingAtNs !== undefined) {
    return recordStartFailure(deps, id, 'the daemon was interrupted while it was starting the container');
  }
  if (state !== 'running') return;
  await abandonCheckpoint(deps, view);
  if (status.monitor !== undefined && isAlive(status.monitor.pid, status.monitor.startTime)) watchExit(deps, id, status.monitor);
  else await recordExit(deps, id);
}

/** Removes root file systems and network attachments without a record: leftovers of a reboot, or of a crash between two steps. */
async function removeOrphans(deps: EngineDeps): Promise<void> {
  for (const id of deps.rootfs.ids()) {
    if (deps.store.containers.get(id) === undefined) await guarded(deps, id, () => deps.rootfs.remove(id));
  }
  for (const id of await deps.network.attachedSandboxIds()) {
    if (deps.store.sandboxes.get(id) !== undefined) continue;
    await guarded(deps, id, () => deps.network.remove(id, AbortSignal.timeout(deps.settings.networkTimeoutMs)));
  }
}
