/**
 * A store that tells of every change of state that it shows: so an event is never ahead of the status, and no change can be forgotten.
 */
import type { Clock } from '../../lib/clock.ts';
import type { EventKind, Events } from './events.ts';
import {
  type ContainerState,
  type ContainerStatus,
  type ContainerView,
  containerState,
  type SandboxStatus,
  type SandboxView,
  sandboxState,
} from './records.ts';
import type { ObjectStore, Store } from './store.ts';

export function notifyingStore(store: Store, events: Events, clock: Clock): Store {
  const containersOf = (sandboxId: string) =>
    store.containers.all().filter(({ record, status }) => record.sandboxId === sandboxId && containerState(status) !== 'creating');
  const tell = (id: string, sandboxId: string, sandbox: SandboxView | undefined, kinds: readonly EventKind[]) => {
    if (kinds.length === 0 || !events.hasListeners()) return;
    const containers = containersOf(sandboxId);
    for (const kind of kinds) events.emit({ kind, id, atNs: clock.nowNs(), sandbox, containers });
  };
  return {
    sandboxes: notifying(store.sandboxes, sandboxSteps, (view, kinds) => {
      const { id } = view.record;
      tell(id, id, store.sandboxes.get(id) ?? view, kinds);
    }),
    containers: notifying(store.containers, containerSteps, ({ record }: ContainerView, kinds) => {
      tell(record.id, record.sandboxId, store.sandboxes.get(record.sandboxId), kinds);
    }),
  };
}

/** Which events lie between two statuses; null: it is gone. */
type Steps<Status> = (before: Status, after: Status | null) => readonly EventKind[];

const sandboxSteps: Steps<SandboxStatus> = (before, after) => {
  // What was never ready was never there.
  if ((after ?? before).readyAtNs === undefined) return [];
  if (after === null) return ['deleted'];
  const [was, is] = [sandboxState(before), sandboxState(after)];
  if (was === is) return [];
  return is === 'ready' ? ['created', 'started'] : ['stopped'];
};

/** A container whose start failed goes from created to exited: it was never started. */
const containerSteps: Steps<ContainerStatus> = (before, after) => {
  if ((after ?? before).readyAtNs === undefined) return [];
  if (after === null) return ['deleted'];
  const [was, is] = [containerState(before), containerState(after)];
  if (was === is) return [];
  return reached[is];
};

const reached: Readonly<Record<ContainerState, readonly EventKind[]>> = {
  creating: [],
  created: ['created'],
  running: ['started'],
  exited: ['stopped'],
  unknown: [],
};

type View<Fixed, Status> = { readonly record: Fixed; readonly status: Status };

function notifying<Fixed extends { readonly id: string }, Status>(
  objects: ObjectStore<Fixed, Status>,
  steps: Steps<Status>,
  tell: (view: View<Fixed, Status>, kinds: readonly EventKind[]) => void,
): ObjectStore<Fixed, Status> {
  const tellOf = <Result>(id: string, write: () => Result): Result => {
    const before = objects.get(id);
    const result = write();
    const after = objects.get(id);
    if (before !== undefined && after !== undefined) tell(after, steps(before.status, after.status));
    return result;
  };
  return {
    ...objects,
    update: (id, change) => tellOf(id, () => objects.update(id, change)),
    updateBestEffort: (id, change) => tellOf(id, () => objects.updateBestEffort(id, change)),
    remove: async (id) => {
      const before = objects.get(id);
      await objects.remove(id);
      if (before !== undefined) tell(before, steps(before.status, null));
    },
  };
}
