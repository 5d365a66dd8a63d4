/**
 * Several clients at once on the same few pods, calls that are given up, and a daemon that is killed in between: states never go backwards, what can
 * be repeated can, lists and statuses say the same, nobody waits for ever, and nothing is left.
 *
 * BERTH_FUZZ_SEED and BERTH_FUZZ_STEPS run others, and longer.
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isBuilt } from '../root/support/daemon.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createRandom, pick } from '../support/mutate.ts';
import { type Answer, type CriBed, openCriBed } from './support/cri-bed.ts';

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

/** The fields of all answers; each has its own. */
type Response = {
  readonly pod_sandbox_id: string;
  readonly container_id: string;
  readonly status: { readonly state: string };
  readonly containers: readonly ContainerItem[];
  readonly items: readonly { readonly id: string; readonly state: string }[];
};

/** Of everything that was ever seen: how far it has come. */
type Seen = { readonly containers: Map<string, number>; readonly sandboxes: Map<string, number>; readonly gone: Set<string> };

const containerStates = ['CONTAINER_CREATED', 'CONTAINER_RUNNING', 'CONTAINER_EXITED'];
const sandboxStates = ['SANDBOX_READY', 'SANDBOX_NOTREADY'];

/** A call that was sent before a state was seen may answer with an older one: `before` is what was known when it was sent. */
function see(states: readonly string[], known: Map<string, number>, before: ReadonlyMap<string, number>, id: string, state: string): void {
  const rank = states.indexOf(state);
  assert.ok(rank >= (before.get(id) ?? 0), `${id} was ${states[before.get(id) ?? 0]}, and is ${state}`);
  known.set(id, Math.max(rank, known.get(id) ?? 0));
}

/** What each call may answer beside OK: somebody else may have been faster. */
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

type Haste = 'patient' | 'hasty';

function createCaller(random: () => number, seen: Seen, haste: Haste, isDown: () => boolean) {
  const sandboxIds = new Set<string>();
  const containerIds = new Set<string>();
  const call = async (rpc: string, request: object): Promise<Answer<Response>> => {
    const isHasty = haste === 'hasty' && random() < 0.4;
    const hurry = random() < 0.5 ? { deadlineMs: 1 + Math.floor(random() * 60) } : { cancelAfterMs: Math.floor(random() * 60) };
    const answer = await bed.send<Response>(rpc, request, isHasty ? hurry : {});
    const { code, details } = answer;
    const givenUp = isHasty && ['DEADLINE_EXCEEDED', 'CANCELLED'].includes(code);
    const cutOff = isDown() && ['UNAVAILABLE', 'CANCELLED', 'UNKNOWN', 'INTERNAL'].includes(code);
    assert.ok(givenUp || cutOff || ['OK', ...(allowed[rpc] ?? [])].includes(code), `${rpc}: ${code}: ${details}`);
    if (cutOff) await sleep(20);
    return answer;
  };
  const known = (ids: ReadonlySet<string>): string => (ids.size === 0 ? 'none' : pick(random, [...ids]));

  const steps: Readonly<Record<string, () => Promise<unknown>>> = {
    run: async () => {
      const name = `pod-${Math.floor(random() * 3)}`;
      const logs = join(bed.place.directory, 'logs', name);
      mkdirSync(logs, { recursive: true });
      const metadata = { name, namespace: 'test', uid: name, attempt: Math.floor(random() * 2) };
      const { response } = await call('RunPodSandbox', { config: { metadata, hostname: name, log_directory: logs, linux: {} } });
      if (response) sandboxIds.add(response.pod_sandbox_id);
    },
    create: async () => {
      const metadata = { name: `c${Math.floor(random() * 2)}`, attempt: Math.floor(random() * 3) };
      const command = pick(random, [['sleep', '1000'], ['true'], ['sh', '-c', 'trap exit TERM; while :; do echo line; usleep 50000; done']]);
      const config = { metadata, image: { image: bed.image }, command, log_path: `${metadata.name}.log`, linux: {} };
      const { response } = await call('CreateContainer', { pod_sandbox_id: known(sandboxIds), config });
      if (response) containerIds.add(response.container_id);
    },
    start: () => call('StartContainer', { container_id: known(containerIds) }),
    stop: () => call('StopContainer', { container_id: known(containerIds), timeout: random() < 0.5 ? '0' : '1' }),
    remove: () => removed('RemoveContainer', 'container_id', containerIds),
    stopPod: () => call('StopPodSandbox', { pod_sandbox_id: known(sandboxIds) }),
    removePod: () => removed('RemovePodSandbox', 'pod_sandbox_id', sandboxIds),
    exec: () => call('ExecSync', { container_id: known(containerIds), cmd: ['true'], timeout: '5' }),
    attach: () => call('Attach', { container_id: known(containerIds), stdout: true }),
    update: () => call('UpdateContainerResources', { container_id: known(containerIds), linux: { cpu_shares: '100' } }),
    reopen: () => call('ReopenContainerLog', { container_id: known(containerIds) }),
    stats: () => call('ContainerStats', { container_id: known(containerIds) }),
    events: () => call('GetContainerEvents', {}),
    status: async () => {
      const id = known(containerIds);
      const [before, wasGone] = [new Map(seen.containers), seen.gone.has(id)];
      const { code, response } = await call('ContainerStatus', { container_id: id });
      if (code !== 'OK' || response === undefined) return;
      assert.ok(!wasGone, `${id} was removed, and has a status`);
      see(containerStates, seen.containers, before, id, response.status.state);
    },
    podStatus: async () => {
      const id = known(sandboxIds);
      const before = new Map(seen.sandboxes);
      const { code, response } = await call('PodSandboxStatus', { pod_sandbox_id: id });
      if (code === 'OK' && response !== undefined) see(sandboxStates, seen.sandboxes, before, id, response.status.state);
    },
    list: async () => {
      const [before, gone] = [new Map(seen.containers), new Set(seen.gone)];
      const { code, response } = await call('ListContainers', {});
      if (code !== 'OK' || response === undefined) return;
      const { containers } = response;
      assert.equal(new Set(containers.map(({ id }) => id)).size, containers.length, 'ids are unique');
      for (const { id, state } of containers) {
        assert.ok(!gone.has(id), `${id} was removed, and is listed`);
        see(containerStates, seen.containers, before, id, state);
        containerIds.add(id);
      }
    },
    listPods: async () => {
      const before = new Map(seen.sandboxes);
      const { code, response } = await call('ListPodSandbox', {});
      if (code !== 'OK' || response === undefined) return;
      for (const { id, state } of response.items) {
        see(sandboxStates, seen.sandboxes, before, id, state);
        sandboxIds.add(id);
      }
    },
  };

  /** Removed is removed, also the second time; the id may still be asked for. */
  const removed = async (rpc: string, field: string, ids: Set<string>): Promise<void> => {
    const id = known(ids);
    const { code } = await call(rpc, { [field]: id });
    if (code === 'OK' && id !== 'none') seen.gone.add(id);
  };
  const weighted = [...Object.keys(steps), 'run', 'create', 'create', 'start', 'start', 'list'];
  return { step: () => (steps[pick(random, weighted)] as () => Promise<unknown>)() };
}

const newSeen = (): Seen => ({ containers: new Map(), sandboxes: new Map(), gone: new Set() });

async function runClients(haste: Haste, seen: Seen, part: number, isDown: () => boolean = () => false): Promise<void> {
  const work = Array.from({ length: clients }, async (_, client) => {
    const caller = createCaller(createRandom(seed * 1000 + part * 100 + client), seen, haste, isDown);
    for (let step = 0; step < stepsMax; step += 1) await caller.step();
  });
  await Promise.all(work);
}

/** What nobody waits for any more goes on to its end. */
async function awaitQuiet(): Promise<void> {
  const shown = async () => JSON.stringify(await Promise.all(['ListPodSandbox', 'ListContainers'].map((rpc) => bed.daemon().client.call(rpc, {}))));
  for (let same = 0, last = ''; same < 10; await sleep(100)) {
    const now = await shown();
    same = now === last ? same + 1 : 0;
    last = now;
  }
}

/** With nobody else there, both say the same of everything, and a second time nothing is an error. */
async function assertAgreement(): Promise<void> {
  await awaitQuiet();
  const { client } = bed.daemon();
  const { containers } = await client.call<{ containers: ContainerItem[] }>('ListContainers', {});
  const { items } = await client.call<{ items: { id: string; state: string }[] }>('ListPodSandbox', {});
  for (const { id, state, pod_sandbox_id } of containers) {
    const { status } = await client.call<{ status: ContainerItem }>('ContainerStatus', { container_id: id });
    // A short one may end in between.
    assert.ok(containerStates.indexOf(status.state) >= containerStates.indexOf(state), `${id} is listed as ${state} and is ${status.state}`);
    assert.ok(
      items.some((item) => item.id === pod_sandbox_id),
      `${id} is of a sandbox that is not listed`,
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

test('clients that know nothing of each other see states that only advance', options, async (t) => {
  t.diagnostic(`seed ${seed}, ${clients} clients, ${stepsMax} steps each`);
  await runClients('patient', newSeen(), 1);
  await assertAgreement();
  await bed.assertClean();
});

test('clients that give up, or have little time, leave nothing half done', options, async () => {
  await runClients('hasty', newSeen(), 2);
  await assertAgreement();
  await bed.assertClean();
});

test('a daemon that is killed under the calls of several clients goes on where it was', options, async () => {
  const seen = newSeen();
  for (let life = 0; life < 3; life += 1) {
    let isDown = false;
    const work = runClients('hasty', seen, 3 + life, () => isDown);
    await sleep(1000 + 300 * life);
    isDown = true;
    await bed.restart();
    await work;
  }
  await assertAgreement();
  await bed.assertClean();
});
