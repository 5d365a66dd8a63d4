/**
 * Several clients operate on the same pods concurrently, cancel calls, and the daemon is killed in between. Checks that states never go backwards,
 * idempotent calls can be repeated, lists and statuses agree, no call hangs, and nothing is left behind.
 *
 * BERTH_FUZZ_SEED selects another sequence, BERTH_FUZZ_STEPS a longer one.
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isBuilt } from '../root/support/daemon.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createRandom, pick } from '../support/mutate.ts';
import { type CallResult, type CriBed, openCriBed } from './support/cri-bed.ts';

const seed = Number(process.env['BERTH_FUZZ_SEED'] ?? 1);
const stepsMax = Number(process.env['BERTH_FUZZ_STEPS'] ?? 60);
const options = { skip: !isBuilt && 'berth is not built', timeout: 3_600_000 };
const clients = 4;
if (isBuilt) enterIsolation();

let bed: CriBed;

before(async () => {
  if (isBuilt) bed = await openCriBed();
});
after(async () => {
  if (isBuilt) await bed.end();
});

type ContainerItem = { readonly id: string; readonly state: string; readonly pod_sandbox_id: string };

/** The union of the fields of all responses. */
type Response = {
  readonly pod_sandbox_id: string;
  readonly container_id: string;
  readonly status: { readonly state: string };
  readonly containers: readonly ContainerItem[];
  readonly items: readonly { readonly id: string; readonly state: string }[];
};

/** The latest observed state of each object, as an index into its states; and the ids of removed objects. */
type Observed = { readonly containers: Map<string, number>; readonly sandboxes: Map<string, number>; readonly removed: Set<string> };

const containerStates = ['CONTAINER_CREATED', 'CONTAINER_RUNNING', 'CONTAINER_EXITED'];
const sandboxStates = ['SANDBOX_READY', 'SANDBOX_NOTREADY'];

/** Records a state. `before` is what was known when the call was sent: its response may be older than a state observed since. */
function observe(states: readonly string[], known: Map<string, number>, before: ReadonlyMap<string, number>, id: string, state: string): void {
  const rank = states.indexOf(state);
  assert.ok(rank >= (before.get(id) ?? 0), `${id} went from ${states[before.get(id) ?? 0]} back to ${state}`);
  known.set(id, Math.max(rank, known.get(id) ?? 0));
}

/** Codes besides OK that each call may return: another client may have been faster. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  RunPodSandbox: ['ALREADY_EXISTS', 'ABORTED'],
  CreateContainer: ['NOT_FOUND', 'FAILED_PRECONDITION', 'ALREADY_EXISTS', 'ABORTED'],
  StartContainer: ['NOT_FOUND', 'FAILED_PRECONDITION', 'ABORTED'],
  ExecSync: ['NOT_FOUND', 'FAILED_PRECONDITION', 'DEADLINE_EXCEEDED'],
  UpdateContainerResources: ['NOT_FOUND', 'FAILED_PRECONDITION'],
  ReopenContainerLog: ['NOT_FOUND', 'FAILED_PRECONDITION'],
  Attach: ['NOT_FOUND', 'FAILED_PRECONDITION'],
  ContainerStatus: ['NOT_FOUND'],
  PodSandboxStatus: ['NOT_FOUND'],
  ContainerStats: ['NOT_FOUND', 'FAILED_PRECONDITION'],
  GetContainerEvents: ['CANCELLED'],
};

/** `hasty` clients cancel some calls or give them a short deadline. */
type Haste = 'patient' | 'hasty';

function createCaller(random: () => number, observed: Observed, haste: Haste, isDown: () => boolean) {
  const sandboxIds = new Set<string>();
  const containerIds = new Set<string>();
  const call = async (rpc: string, request: object): Promise<CallResult<Response>> => {
    const isHasty = haste === 'hasty' && random() < 0.4;
    const sendOptions = random() < 0.5 ? { deadlineMs: 1 + Math.floor(random() * 60) } : { cancelAfterMs: Math.floor(random() * 60) };
    const result = await bed.send<Response>(rpc, request, isHasty ? sendOptions : {});
    const { code, details } = result;
    const isCancelled = isHasty && ['DEADLINE_EXCEEDED', 'CANCELLED'].includes(code);
    const isInterrupted = isDown() && ['UNAVAILABLE', 'CANCELLED', 'UNKNOWN', 'INTERNAL'].includes(code);
    assert.ok(isCancelled || isInterrupted || ['OK', ...(allowed[rpc] ?? [])].includes(code), `${rpc}: ${code}: ${details}`);
    if (isInterrupted) await sleep(20);
    return result;
  };
  const anyId = (ids: ReadonlySet<string>): string => (ids.size === 0 ? 'none' : pick(random, [...ids]));

  const steps: Readonly<Record<string, () => Promise<unknown>>> = {
    run: async () => {
      const name = `pod-${Math.floor(random() * 3)}`;
      const logs = join(bed.workspace.directory, 'logs', name);
      mkdirSync(logs, { recursive: true });
      const metadata = { name, namespace: 'test', uid: name, attempt: Math.floor(random() * 2) };
      const { response } = await call('RunPodSandbox', { config: { metadata, hostname: name, log_directory: logs, linux: {} } });
      if (response) sandboxIds.add(response.pod_sandbox_id);
    },
    create: async () => {
      const metadata = { name: `c${Math.floor(random() * 2)}`, attempt: Math.floor(random() * 3) };
      const command = pick(random, [['sleep', '1000'], ['true'], ['sh', '-c', 'trap exit TERM; while :; do echo line; usleep 50000; done']]);
      const config = { metadata, image: { image: bed.image }, command, log_path: `${metadata.name}.log`, linux: {} };
      const { response } = await call('CreateContainer', { pod_sandbox_id: anyId(sandboxIds), config });
      if (response) containerIds.add(response.container_id);
    },
    start: () => call('StartContainer', { container_id: anyId(containerIds) }),
    stop: () => call('StopContainer', { container_id: anyId(containerIds), timeout: random() < 0.5 ? '0' : '1' }),
    remove: () => removeObject('RemoveContainer', 'container_id', containerIds),
    stopPod: () => call('StopPodSandbox', { pod_sandbox_id: anyId(sandboxIds) }),
    removePod: () => removeObject('RemovePodSandbox', 'pod_sandbox_id', sandboxIds),
    exec: () => call('ExecSync', { container_id: anyId(containerIds), cmd: ['true'], timeout: '5' }),
    attach: () => call('Attach', { container_id: anyId(containerIds), stdout: true }),
    update: () => call('UpdateContainerResources', { container_id: anyId(containerIds), linux: { cpu_shares: '100' } }),
    reopen: () => call('ReopenContainerLog', { container_id: anyId(containerIds) }),
    stats: () => call('ContainerStats', { container_id: anyId(containerIds) }),
    events: () => call('GetContainerEvents', {}),
    status: async () => {
      const id = anyId(containerIds);
      const [before, wasRemoved] = [new Map(observed.containers), observed.removed.has(id)];
      const { code, response } = await call('ContainerStatus', { container_id: id });
      if (code !== 'OK' || response === undefined) return;
      assert.ok(!wasRemoved, `${id} was removed, but has a status`);
      observe(containerStates, observed.containers, before, id, response.status.state);
    },
    podStatus: async () => {
      const id = anyId(sandboxIds);
      const before = new Map(observed.sandboxes);
      const { code, response } = await call('PodSandboxStatus', { pod_sandbox_id: id });
      if (code === 'OK' && response !== undefined) observe(sandboxStates, observed.sandboxes, before, id, response.status.state);
    },
    list: async () => {
      const [before, removed] = [new Map(observed.containers), new Set(observed.removed)];
      const { code, response } = await call('ListContainers', {});
      if (code !== 'OK' || response === undefined) return;
      const { containers } = response;
      assert.equal(new Set(containers.map(({ id }) => id)).size, containers.length, 'ids are unique');
      for (const { id, state } of containers) {
        assert.ok(!removed.has(id), `${id} was removed, but is listed`);
        observe(containerStates, observed.containers, before, id, state);
        containerIds.add(id);
      }
    },
    listPods: async () => {
      const before = new Map(observed.sandboxes);
      const { code, response } = await call('ListPodSandbox', {});
      if (code !== 'OK' || response === undefined) return;
      for (const { id, state } of response.items) {
        observe(sandboxStates, observed.sandboxes, before, id, state);
        sandboxIds.add(id);
      }
    },
  };

  /** Removes an object. Its id stays in use: later calls must handle removed objects. */
  const removeObject = async (rpc: string, field: string, ids: Set<string>): Promise<void> => {
    const id = anyId(ids);
    const { code } = await call(rpc, { [field]: id });
    if (code === 'OK' && id !== 'none') observed.removed.add(id);
  };
  const weighted = [...Object.keys(steps), 'run', 'create', 'create', 'start', 'start', 'list'];
  return { step: () => (steps[pick(random, weighted)] as () => Promise<unknown>)() };
}

const newObserved = (): Observed => ({ containers: new Map(), sandboxes: new Map(), removed: new Set() });

async function runClients(haste: Haste, observed: Observed, part: number, isDown: () => boolean = () => false): Promise<void> {
  const work = Array.from({ length: clients }, async (_, client) => {
    const caller = createCaller(createRandom(seed * 1000 + part * 100 + client), observed, haste, isDown);
    for (let step = 0; step < stepsMax; step += 1) await caller.step();
  });
  await Promise.all(work);
}

/** Waits until the lists do not change for a second: the daemon completes operations of cancelled calls. */
async function waitForQuiet(): Promise<void> {
  const listAll = async () => JSON.stringify(await Promise.all(['ListPodSandbox', 'ListContainers'].map((rpc) => bed.daemon().client.call(rpc, {}))));
  for (let same = 0, last = ''; same < 10; await sleep(100)) {
    const now = await listAll();
    same = now === last ? same + 1 : 0;
    last = now;
  }
}

/** Asserts that lists and statuses agree, then removes everything. Stop and remove must also succeed the second time. */
async function assertConsistency(): Promise<void> {
  await waitForQuiet();
  const { client } = bed.daemon();
  const { containers } = await client.call<{ containers: ContainerItem[] }>('ListContainers', {});
  const { items } = await client.call<{ items: { id: string; state: string }[] }>('ListPodSandbox', {});
  for (const { id, state, pod_sandbox_id } of containers) {
    const { status } = await client.call<{ status: ContainerItem }>('ContainerStatus', { container_id: id });
    // A short-lived container may exit in between.
    assert.ok(
      containerStates.indexOf(status.state) >= containerStates.indexOf(state),
      `${id} is listed as ${state}, but its status is ${status.state}`,
    );
    assert.ok(
      items.some((item) => item.id === pod_sandbox_id),
      `the sandbox of ${id} is not listed`,
    );
  }
  for (const { id, state } of items) {
    assert.equal((await client.call<{ status: { state: string } }>('PodSandboxStatus', { pod_sandbox_id: id })).status.state, state);
  }
  for (const { id } of containers) for (let times = 0; times < 2; times += 1) await client.call('StopContainer', { container_id: id, timeout: '0' });
  for (let times = 0; times < 2; times += 1) {
    for (const { id } of containers) await client.call('RemoveContainer', { container_id: id });
    for (const { id } of items) for (const rpc of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(rpc, { pod_sandbox_id: id });
  }
  assert.deepEqual((await client.call<{ containers: unknown[] }>('ListContainers', {})).containers, []);
}

test('independent clients observe states that only advance', options, async (t) => {
  t.diagnostic(`seed ${seed}, ${clients} clients, ${stepsMax} steps each`);
  await runClients('patient', newObserved(), 1);
  await assertConsistency();
  await bed.assertClean();
});

test('cancelled calls and short deadlines leave nothing behind', options, async () => {
  await runClients('hasty', newObserved(), 2);
  await assertConsistency();
  await bed.assertClean();
});

test('states are preserved when the daemon is killed during calls of several clients', options, async () => {
  const observed = newObserved();
  for (let restarts = 0; restarts < 3; restarts += 1) {
    let isDown = false;
    const work = runClients('hasty', observed, 3 + restarts, () => isDown);
    await sleep(1000 + 300 * restarts);
    isDown = true;
    await bed.restart();
    await work;
  }
  await assertConsistency();
  await bed.assertClean();
});
