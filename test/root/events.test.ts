/** Container events through the engine's functions: their content and order. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { podSandboxStatus } from '../../src/cri/rpc/sandbox/pod-sandbox-status.ts';
import type { EventKind, LifeEvent } from '../../src/engine/state/events.ts';
import { containerState, sandboxState } from '../../src/engine/state/records.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

let host: TestEngine;

before(async () => {
  host = await startEngine();
});
after(() => host.end());

/** Collects the events of a listener until it is stopped. */
function collect(): { stop: () => Promise<LifeEvent[]> } {
  const controller = new AbortController();
  const received: LifeEvent[] = [];
  const events = host.engine.events(controller.signal);
  const done = (async () => {
    for await (const event of events) received.push(event);
  })();
  return {
    stop: async () => {
      await new Promise((resolve) => setImmediate(resolve));
      controller.abort();
      await done;
      return received;
    },
  };
}

async function runPod(command: readonly string[]): Promise<{ sandboxId: string; id: string }> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const id = await host.engine.createContainer(sandboxId, containerSpec(command), host.image);
  await host.engine.startContainer(id);
  return { sandboxId, id };
}

const steps = (received: readonly LifeEvent[], id: string): string[] => received.filter((event) => event.id === id).map(({ kind }) => kind);

test('the stopped event of a container has its exit code and is sent after its status is EXITED', async () => {
  const listener = collect();
  const { sandboxId, id } = await runPod(['sh', '-c', 'exit 7']);
  await host.deps.watches.of(id)?.exited;
  await host.engine.removeSandbox(sandboxId);
  const received = await listener.stop();
  assert.deepEqual(steps(received, id), ['created', 'started', 'stopped', 'deleted']);
  const stopped = received.find((event) => event.id === id && event.kind === 'stopped');
  const [view] = stopped?.containers ?? [];
  assert.ok(view);
  assert.deepEqual([containerState(view.status), view.status.exitCode], ['exited', 7]);
});

test('the events of each pod are complete and ordered while many pods are created and removed', async () => {
  const [first, second] = [collect(), collect()];
  const pods = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const pod = await runPod(['sleep', '1000']);
      await host.engine.stopContainer(pod.id, 0);
      await host.engine.removeSandbox(pod.sandboxId);
      return pod;
    }),
  );
  const [received, other] = [await first.stop(), await second.stop()];
  assert.deepEqual(other, received, 'both listeners receive the same events');
  for (const { sandboxId, id } of pods) {
    const own = received.filter((event) => event.id === sandboxId || event.id === id);
    assert.deepEqual(
      own.map((event) => `${event.id === id ? 'container' : 'sandbox'} ${event.kind}`),
      [
        'sandbox created',
        'sandbox started',
        'container created',
        'container started',
        'container stopped',
        'sandbox stopped',
        'container deleted',
        'sandbox deleted',
      ],
    );
    assert.ok(own.every((event) => event.sandbox?.record.id === sandboxId));
    assert.ok(
      own.every(({ atNs }, index) => index === 0 || BigInt(atNs) > BigInt(own[index - 1]?.atNs ?? 0)),
      'times grow',
    );
  }
});

test('a status that is read after an event is never older than the event', async () => {
  const listener = collect();
  const deps = { engine: host.engine, nowNs: host.deps.clock.nowNs };
  const answers: { readonly timestamp?: string | undefined; readonly states: ReadonlyMap<string, string> }[] = [];
  let isOver = false;
  const poll = async (id: string): Promise<void> => {
    while (!isOver) {
      const { timestamp, containers_statuses: statuses = [] } = await podSandboxStatus(deps, { pod_sandbox_id: id });
      answers.push({ timestamp, states: new Map(statuses.map((status) => [status.id ?? '', status.state ?? ''])) });
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const polling = poll(sandboxId);
  try {
    for (let attempt = 0; attempt < 5; attempt++) {
      const id = await host.engine.createContainer(sandboxId, containerSpec(['true'], { metadata: { name: 'main', attempt } }), host.image);
      await host.engine.startContainer(id);
      await host.deps.watches.of(id)?.exited;
      await host.engine.removeContainer(id);
    }
  } finally {
    isOver = true;
  }
  await polling;
  const received = (await listener.stop()).filter((event) => event.sandbox?.record.id === sandboxId && event.id !== sandboxId);
  const progress: Readonly<Record<string, number>> = { CONTAINER_CREATED: 1, CONTAINER_RUNNING: 2, CONTAINER_EXITED: 3, gone: 4 };
  const least: Readonly<Record<EventKind, number>> = { created: 1, started: 2, stopped: 3, deleted: 4 };
  assert.equal(received.length, 20);
  for (const { timestamp, states } of answers) {
    const before = received.filter(({ atNs }) => BigInt(atNs) <= BigInt(timestamp ?? 0));
    for (const { id, kind } of before)
      assert.ok((progress[states.get(id) ?? 'gone'] ?? 0) >= least[kind], `event ${kind}, but the status is ${states.get(id)}`);
    assert.ok(
      [...states.keys()].every((id) => before.some((event) => event.id === id)),
      'the statuses match the received events',
    );
  }
});

test('the stopped event of a sandbox contains a stopped sandbox', async () => {
  const listener = collect();
  const { sandboxId } = await runPod(['sleep', '1000']);
  await host.engine.stopSandbox(sandboxId);
  await host.engine.stopSandbox(sandboxId);
  const received = await listener.stop();
  const stops = received.filter((event) => event.id === sandboxId && event.kind === 'stopped');
  assert.deepEqual(
    stops.map(({ sandbox }) => sandbox && sandboxState(sandbox.status)),
    ['not-ready'],
  );
});

test('a container that fails to start has a stopped event, but no started event', async () => {
  const listener = collect();
  const sandboxId = await host.engine.runSandbox(sandboxSpec());
  const id = await host.engine.createContainer(sandboxId, containerSpec(['/no/such/program']), host.image);
  await assert.rejects(host.engine.startContainer(id));
  assert.deepEqual(steps(await listener.stop(), id), ['created', 'stopped']);
});
