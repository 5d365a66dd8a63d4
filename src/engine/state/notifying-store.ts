/**
 * A store that publishes an event for every visible change of state. An event never precedes the status it reports, and no change is missed.
 * Does no I/O itself.
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
  const publish = (id: string, sandboxId: string, sandbox: SandboxView | undefined, kinds: readonly EventKind[]) => {
    if (kinds.length === 0 || !events.hasListeners()) return;
    const containers = containersOf(sandboxId);
    for (const kind of kinds) events.emit({ kind, id, atNs: clock.nowNs(), sandbox, containers });
  };
  return {
    sandboxes: notifying(store.sandboxes, sandboxSteps, (view, kinds) => {
      const { id } = view.record;
      publish(id, id, store.sandboxes.get(id) ?? view, kinds);
    }),
    containers: notifying(store.containers, containerSteps, ({ record }: ContainerView, kinds) => {
      publish(record.id, record.sandboxId, store.sandboxes.get(record.sandboxId), kinds);
    }),
  };
}

/** Returns the events between two statuses. `after` is null if the object was removed. */
type Steps<Status> = (before: Status, after: Status | null) => readonly EventKind[];

const sandboxSteps: Steps<SandboxStatus> = (before, after) => {
  // An object that never became ready was never visible.
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
  return eventsOnReaching[is];
};

const eventsOnReaching: Readonly<Record<ContainerState, readonly EventKind[]>> = {
  creating: [],
  created: ['created'],
  running: ['started'],
  exited: ['stopped'],
  unknown: [],
};

type View<StoredRecord, Status> = { readonly record: StoredRecord; readonly status: Status };

function notifying<StoredRecord extends { readonly id: string }, Status>(
  objects: ObjectStore<StoredRecord, Status>,
  steps: Steps<Status>,
  publish: (view: View<StoredRecord, Status>, kinds: readonly EventKind[]) => void,
): ObjectStore<StoredRecord, Status> {
  const publishing = <Result>(id: string, write: () => Result): Result => {
    const before = objects.get(id);
    const result = write();
    const after = objects.get(id);
    if (before !== undefined && after !== undefined) publish(after, steps(before.status, after.status));
    return result;
  };
  return {
    ...objects,
    update: (id, change) => publishing(id, () => objects.update(id, change)),
    updateBestEffort: (id, change) => publishing(id, () => objects.updateBestEffort(id, change)),
    remove: async (id) => {
      const before = objects.get(id);
      await objects.remove(id);
      if (before !== undefined) publish(before, steps(before.status, null));
    },
  };
}
