/**
 * Whatever arrives on the CRI socket, the daemon lives, answers, says in one line what is wrong with the code that blames whom it should, tells
 * nobody's secrets, and leaves nothing behind.
 *
 * BERTH_FUZZ_SEED and BERTH_FUZZ_ROUNDS run others, and longer.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isBuilt } from '../root/support/daemon.ts';
import { createMutator, loadCriTypes, type Mutator } from '../support/cri-mutations.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createRandom, pick } from '../support/mutate.ts';
import { type Answer, type CriBed, makeHazards, makeSources, methods, openCriBed } from './support/cri-bed.ts';

const seed = Number(process.env['BERTH_FUZZ_SEED'] ?? 1);
const rounds = Number(process.env['BERTH_FUZZ_ROUNDS'] ?? 400);
const options = { skip: !isBuilt && 'berth is not built', timeout: 3_600_000 };
if (isBuilt) enterIsolation();

const secret = 'C4N4RY-9d1f';
const sandboxesMax = 3;

/** What may be answered beside OK and INVALID_ARGUMENT. INTERNAL is berth's own fault, never the caller's. */
const byId = ['NOT_FOUND'];
const byState = [...byId, 'FAILED_PRECONDITION'];
const byPull = ['NOT_FOUND', 'FAILED_PRECONDITION', 'UNAVAILABLE', 'UNAUTHENTICATED', 'UNKNOWN', 'DEADLINE_EXCEEDED'];
const allowed: Readonly<Record<string, readonly string[]>> = {
  RunPodSandbox: ['FAILED_PRECONDITION', 'UNIMPLEMENTED', 'ALREADY_EXISTS', 'UNAVAILABLE'],
  // The last: thousands of mounts.
  CreateContainer: [...byState, 'UNIMPLEMENTED', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED'],
  StartContainer: byState,
  UpdateContainerResources: byState,
  UpdatePodSandboxResources: byId,
  ReopenContainerLog: byState,
  // Their own time, which may be longer than the caller's.
  StopContainer: ['DEADLINE_EXCEEDED'],
  ExecSync: [...byState, 'DEADLINE_EXCEEDED'],
  Exec: byState,
  Attach: byState,
  PortForward: byState,
  PodSandboxStatus: byId,
  ContainerStatus: byId,
  ContainerStats: byState,
  PodSandboxStats: byState,
  CheckpointContainer: [...byState, 'DEADLINE_EXCEEDED', 'UNIMPLEMENTED'],
  CheckpointPod: ['UNIMPLEMENTED'],
  RestorePod: ['UNIMPLEMENTED'],
  PullImage: byPull,
  GetContainerEvents: ['CANCELLED'],
};

type Recorded = { readonly method: string; readonly request: Draft };
/** What is looked at of a request. Anything may stand in any field of one that was changed. */
type Draft = {
  config?: {
    metadata?: Record<string, unknown>;
    log_directory?: string;
    mounts?: { host_path?: string; container_path?: string }[];
    linux?: { cgroup_parent?: unknown };
  };
  image?: { image?: unknown };
  pod_sandbox_id?: string | undefined;
  container_id?: string | undefined;
  timeout?: string;
  auth?: unknown;
  sandbox_config?: unknown;
};

type Made = { readonly pod_sandbox_id: string; readonly container_id: string };

let bed: CriBed;
let recorded: readonly Recorded[];
let hazards: readonly string[];

before(async () => {
  if (!isBuilt) return;
  bed = await openCriBed();
  const work = join(bed.place.directory, 'work');
  hazards = makeHazards(join(work, 'hazards'));
  const text = readFileSync(join(import.meta.dirname, '../data/kubelet-requests.json'), 'utf8');
  const requests: Readonly<Record<string, Recorded>> = JSON.parse(
    text.replaceAll('{work}', work).replaceAll('{cgroup}', bed.place.cgroup).replaceAll('"runc"', '"berth"').replaceAll('"sleep"', '"/bin/sleep"'),
  );
  recorded = Object.values(requests).filter(({ request }) => request !== undefined);
  for (const { request } of recorded) makeSources(request.config?.mounts ?? []);
});
after(async () => {
  if (isBuilt) await bed.end();
});

/** Ids of what was made; the newest last. */
const live = { sandboxes: [] as string[], containers: [] as string[] };

function oddTexts(): string[] {
  const long = `/${'d'.repeat(200)}`.repeat(25);
  const plain = [
    '',
    ' ',
    '.',
    '..',
    '/',
    '//',
    '/..',
    '../..',
    'a\0b',
    'a\nb',
    'a\r\nlevel=50',
    '\u001b[31m',
    '\ud800',
    'ü€😀',
    '%s%n',
    '$(x)',
    '{}',
    'null',
    '-1',
  ];
  const known = [
    'constructor',
    '__PROTO__',
    'localhost/x',
    'runtime/default',
    'unconfined',
    'ALL',
    'SYS_ADMIN',
    'NOSUCH',
    'kernel.shmmax',
    'net.ipv4.ip_forward',
  ];
  const values = [
    'memory.max',
    'pids.max',
    '0-1',
    '999',
    '4',
    '2MB',
    '0',
    'max',
    '1:3',
    'nobody',
    '0:0',
    'label=x',
    '10.0.0.1',
    'fe80::1%lo',
    'noexec',
    'rwm',
    'NetworkReady',
  ];
  const paths = [
    '/dev/zero',
    '/dev/null',
    '/proc/self/mem',
    '/proc/1/root',
    '/proc',
    '/sys',
    '/dev',
    '/etc/passwd',
    '/bin/sh',
    '/a/../../b',
    'x.log',
    'a/b/c.log',
  ];
  return [
    ...plain,
    ...known,
    ...values,
    ...paths,
    ...hazards,
    long,
    'x'.repeat(300),
    `/${'y'.repeat(4090)}`,
    'z'.repeat(1 << 16),
    `sha256:${'0'.repeat(64)}`,
    '127.0.0.1:1/x:1',
  ];
}

function wordsOf(field: string): readonly string[] {
  if (/container_id|target_id/.test(field)) return [...live.containers, 'unknown'];
  if (/sandbox_id/.test(field)) return [...live.sandboxes, 'unknown'];
  if (field === 'id') return [...live.containers, ...live.sandboxes].map((id) => id.slice(0, 8));
  if (/path|directory|location/.test(field)) return hazards;
  if (field === 'image') return [bed.image];
  if (field === 'page_size') return ['2MB', '1GB', '3KB'];
  return [];
}

/** A recorded request about what exists here. */
function atHome({ method, request }: Recorded): Draft {
  const draft = structuredClone(request);
  const text = JSON.stringify(draft).replace(/sha256:[0-9a-f]{64}|127\.0\.0\.1:500[01]\/bench\/busybox:1/g, bed.image);
  const home = JSON.parse(text);
  if ('pod_sandbox_id' in home) home.pod_sandbox_id = live.sandboxes.at(-1) ?? 'none';
  if ('container_id' in home) home.container_id = live.containers.at(-1) ?? 'none';
  if (method === 'StopContainer') home.timeout = '0';
  return home;
}

/** Cgroups have no border around the test: whatever name a request has for them, it is below the test's own. */
function fencedIn(draft: Draft): Draft {
  const { linux } = draft?.config ?? {};
  const top = `/${bed.place.cgroup}`;
  if (typeof linux?.cgroup_parent === 'string' && !linux.cgroup_parent.startsWith(top)) linux.cgroup_parent = `${top}/${linux.cgroup_parent}`;
  // Without its only image a node has no containers.
  const { image } = draft;
  const isRemoval = draft.auth === undefined && draft.sandbox_config === undefined;
  if (image && isRemoval && String(image.image).includes(bed.image)) image.image = '127.0.0.1:1/x:1';
  return draft;
}

/** Names of properties that no JavaScript client can set. */
function withProto(bytes: Buffer): Buffer {
  return Buffer.from(bytes.toString('latin1').replaceAll('__PROTO__', '__proto__'), 'latin1');
}

const deadlinesMs: Readonly<Record<string, number>> = { StopContainer: 500, ExecSync: 1000, PullImage: 300, CheckpointContainer: 5000 };

async function sendOdd(rpc: string, draft: Draft): Promise<Answer<Made>> {
  const method = methods[rpc];
  assert.ok(method);
  return await bed.send<Made>(rpc, withProto(method.requestSerialize(fencedIn(draft))), { deadlineMs: deadlinesMs[rpc] ?? 15_000 });
}

/** The first of each kind; all are told at the end. */
const faults = new Map<string, string>();

function judge({ rpc, code, details }: Answer, request: Draft): void {
  const fault = faultOf(rpc, code, details);
  const kind = `${fault}: ${rpc}: ${code}: ${details.replace(/[0-9a-f]{8,}|\d+/g, 'N').slice(0, 60)}`;
  if (fault === undefined || faults.has(kind)) return;
  const shown = JSON.stringify(request, (_, value) => (typeof value === 'string' && value.length > 100 ? `${value.slice(0, 100)}…` : value));
  faults.set(kind, `${fault}: ${rpc}: ${code}: ${details}\n  ${shown?.slice(0, 3000)}`);
}

function faultOf(rpc: string, code: string, details: string): string | undefined {
  if (!['OK', 'INVALID_ARGUMENT', ...(allowed[rpc] ?? [])].includes(code)) return 'a code that blames the wrong one';
  if (code !== 'OK' && details.length < 10) return 'no word of what is wrong';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  if (/[\u0000-\u001f\u007f]/.test(details)) return 'an error of more than a line of text';
  if (details.includes(secret)) return 'a secret in an error';
  return undefined;
}

/** What exists is kept few, and the ids of what is gone stay for a while. */
async function follow({ rpc, code, response }: Answer<Made>): Promise<void> {
  if (code !== 'OK' || response === undefined) return;
  if (rpc === 'RunPodSandbox') live.sandboxes.push(response.pod_sandbox_id);
  if (rpc === 'CreateContainer') {
    live.containers.push(response.container_id);
    judge(await sendOdd('StartContainer', { container_id: response.container_id }), response);
  }
  while (live.containers.length > 3 * sandboxesMax) judge(await sendOdd('RemoveContainer', { container_id: live.containers.shift() }), {});
  while (live.sandboxes.length > sandboxesMax) {
    const pod_sandbox_id = live.sandboxes.shift();
    judge(await sendOdd('StopPodSandbox', { pod_sandbox_id }), {});
    judge(await sendOdd('RemovePodSandbox', { pod_sandbox_id }), {});
  }
}

test('requests that no kubelet would send are served or refused for what they are', options, async (t) => {
  t.diagnostic(`seed ${seed}, ${rounds} rounds`);
  const random = createRandom(seed);
  const { types } = loadCriTypes();
  const mutator: Mutator = createMutator(types, random, { texts: oddTexts(), byField: wordsOf, secret });
  const typeOf = (rpc: string) => (methods[rpc] as unknown as { requestType: { type: { name: string } } }).requestType.type.name;
  const makers = recorded.filter(({ method }) => /^(RunPodSandbox|CreateContainer)$/.test(method));
  const counts = new Map<string, number>();
  for (let round = 0; round < rounds; round += 1) {
    const { method, request } = atHomeOrNot(random, makers);
    const kind = random();
    const draft = kind < 0.1 ? mutator.generate(typeOf(method)) : kind < 0.3 ? request : mutator.mutate(typeOf(method), request);
    const answer = await sendOdd(method, draft);
    judge(answer, draft);
    await follow(answer);
    counts.set(`${method} ${answer.code}`, (counts.get(`${method} ${answer.code}`) ?? 0) + 1);
  }
  t.diagnostic(
    [...counts]
      .sort()
      .map(([name, count]) => `${name} ${count}`)
      .join(', '),
  );
  await bed.removeAll();
  for (const fault of [...faults.values()]) t.diagnostic(fault);
  assert.equal(faults.size, 0);
  assert.doesNotMatch(readFileSync(bed.place.logFile, 'utf8'), new RegExp(secret));
  await bed.assertClean();
});

function atHomeOrNot(random: () => number, makers: readonly Recorded[]): Recorded {
  const names = Object.keys(methods);
  const kind = random();
  const chosen = kind < 0.4 ? pick(random, makers) : kind < 0.8 ? pick(random, recorded) : { method: pick(random, names), request: {} };
  const request = atHome(chosen);
  if (chosen.method === 'CreateContainer' && request.config?.metadata) request.config.metadata.attempt = Math.floor(random() * 1000);
  if (chosen.method === 'RunPodSandbox' && request.config?.metadata) request.config.metadata.uid = `uid-${Math.floor(random() * 1000)}`;
  if (request.config?.log_directory) mkdirSync(request.config.log_directory, { recursive: true });
  return { method: chosen.method, request };
}

test('bytes that are no message are refused, and nothing else happens', options, async () => {
  const random = createRandom(seed);
  for (let round = 0; round < 50; round += 1) {
    const { method, request } = pick(random, recorded);
    const bytes = methods[method]?.requestSerialize(fencedIn(atHome({ method, request }))) ?? Buffer.alloc(0);
    for (let left = 3; left > 0 && bytes.length > 0; left -= 1) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    const { details } = await bed.send(method, bytes.subarray(0, Math.floor(random() * (bytes.length + 1))), { deadlineMs: 2000 });
    assert.ok(!/[\r\n]/.test(details), details);
  }
  assert.equal((await bed.send('Version', {})).code, 'OK');
  await bed.removeAll();
  await bed.assertClean();
});
