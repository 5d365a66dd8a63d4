/**
 * Fuzzes the CRI socket with unusual requests. Checks that the daemon survives, responds, returns an appropriate code with a one-line message, reveals no
 * secrets, and leaves nothing behind.
 *
 * BERTH_FUZZ_SEED selects another sequence, BERTH_FUZZ_ROUNDS a longer one.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isBuilt } from '../root/support/daemon.ts';
import { createMutator, loadCriTypes, type Mutator } from '../support/cri-mutations.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createRandom, pick } from '../support/mutate.ts';
import { type CallResult, type CriBed, createHazardousFiles, createMountSources, methods, openCriBed } from './support/cri-bed.ts';

const seed = Number(process.env['BERTH_FUZZ_SEED'] ?? 1);
const rounds = Number(process.env['BERTH_FUZZ_ROUNDS'] ?? 400);
const options = { skip: !isBuilt && 'berth is not built', timeout: 3_600_000 };
if (isBuilt) enterIsolation();

const secret = 'C4N4RY-9d1f';
const sandboxesMax = 3;

/** Codes besides OK and INVALID_ARGUMENT that each call may return. INTERNAL is not allowed: it means an error in berth. */
const byId = ['NOT_FOUND'];
const byState = [...byId, 'FAILED_PRECONDITION'];
const byPull = ['NOT_FOUND', 'FAILED_PRECONDITION', 'UNAVAILABLE', 'UNAUTHENTICATED', 'UNKNOWN', 'DEADLINE_EXCEEDED'];
const allowed: Readonly<Record<string, readonly string[]>> = {
  RunPodSandbox: ['FAILED_PRECONDITION', 'UNIMPLEMENTED', 'ALREADY_EXISTS', 'UNAVAILABLE'],
  // RESOURCE_EXHAUSTED: thousands of mounts.
  CreateContainer: [...byState, 'UNIMPLEMENTED', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED'],
  StartContainer: byState,
  UpdateContainerResources: byState,
  UpdatePodSandboxResources: byId,
  ReopenContainerLog: byState,
  // Their timeout may be longer than the caller's deadline.
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
  ListSecurityProfiles: ['UNIMPLEMENTED'],
  PullSecurityProfile: ['UNIMPLEMENTED'],
  RemoveSecurityProfile: ['UNIMPLEMENTED'],
  PullImage: byPull,
  GetContainerEvents: ['CANCELLED'],
};

type Recorded = { readonly method: string; readonly request: Draft };
/** The fields of a request that the test uses. A field of a mutated request may have any value. */
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

type Created = { readonly pod_sandbox_id: string; readonly container_id: string };

let bed: CriBed;
let recorded: readonly Recorded[];
let hazards: readonly string[];

before(async () => {
  if (!isBuilt) return;
  bed = await openCriBed();
  const work = join(bed.workspace.directory, 'work');
  hazards = createHazardousFiles(join(work, 'hazards'));
  const text = readFileSync(join(import.meta.dirname, '../data/kubelet-requests.json'), 'utf8');
  const requests: Readonly<Record<string, Recorded>> = JSON.parse(
    text
      .replaceAll('{work}', work)
      .replaceAll('{cgroup}', bed.workspace.cgroup)
      .replaceAll('"runc"', '"berth"')
      .replaceAll('"sleep"', '"/bin/sleep"'),
  );
  recorded = Object.values(requests).filter(({ request }) => request !== undefined);
  for (const { request } of recorded) createMountSources(request.config?.mounts ?? []);
});
after(async () => {
  if (isBuilt) await bed.end();
});

/** Ids of the existing objects, newest last. */
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

function preferredValues(field: string): readonly string[] {
  if (/container_id|target_id/.test(field)) return [...live.containers, 'unknown'];
  if (/sandbox_id/.test(field)) return [...live.sandboxes, 'unknown'];
  if (field === 'id') return [...live.containers, ...live.sandboxes].map((id) => id.slice(0, 8));
  if (/path|directory|location/.test(field)) return hazards;
  if (field === 'image') return [bed.image];
  if (field === 'page_size') return ['2MB', '1GB', '3KB'];
  return [];
}

/** Returns a recorded request with the ids and the image of this test. */
function localize({ method, request }: Recorded): Draft {
  const draft = structuredClone(request);
  const text = JSON.stringify(draft).replace(/sha256:[0-9a-f]{64}|127\.0\.0\.1:500[01]\/bench\/busybox:1/g, bed.image);
  const localized = JSON.parse(text);
  if ('pod_sandbox_id' in localized) localized.pod_sandbox_id = live.sandboxes.at(-1) ?? 'none';
  if ('container_id' in localized) localized.container_id = live.containers.at(-1) ?? 'none';
  if (method === 'StopContainer') localized.timeout = '0';
  return localized;
}

/** Restricts a request: cgroups are not isolated, so a cgroup parent must be below the test's cgroup; and it must not remove the test's image. */
function restrict(draft: Draft): Draft {
  const { linux } = draft?.config ?? {};
  const top = `/${bed.workspace.cgroup}`;
  if (typeof linux?.cgroup_parent === 'string' && !linux.cgroup_parent.startsWith(top)) linux.cgroup_parent = `${top}/${linux.cgroup_parent}`;
  // Without the image, no containers can be created.
  const { image } = draft;
  const isRemoval = draft.auth === undefined && draft.sandbox_config === undefined;
  if (image && isRemoval && String(image.image).includes(bed.image)) image.image = '127.0.0.1:1/x:1';
  return draft;
}

/** Inserts `__proto__`, a name that a JavaScript client cannot set as a property. */
function withProto(bytes: Buffer): Buffer {
  return Buffer.from(bytes.toString('latin1').replaceAll('__PROTO__', '__proto__'), 'latin1');
}

const deadlinesMs: Readonly<Record<string, number>> = { StopContainer: 500, ExecSync: 1000, PullImage: 300, CheckpointContainer: 5000 };

async function send(rpc: string, draft: Draft): Promise<CallResult<Created>> {
  const method = methods[rpc];
  assert.ok(method);
  return await bed.send<Created>(rpc, withProto(method.requestSerialize(restrict(draft))), { deadlineMs: deadlinesMs[rpc] ?? 15_000 });
}

/** The first fault of each kind. They are reported at the end of the test. */
const faults = new Map<string, string>();

function checkResult({ rpc, code, details }: CallResult, request: Draft): void {
  const fault = faultOf(rpc, code, details);
  const kind = `${fault}: ${rpc}: ${code}: ${details.replace(/[0-9a-f]{8,}|\d+/g, 'N').slice(0, 60)}`;
  if (fault === undefined || faults.has(kind)) return;
  const shown = JSON.stringify(request, (_, value) => (typeof value === 'string' && value.length > 100 ? `${value.slice(0, 100)}…` : value));
  faults.set(kind, `${fault}: ${rpc}: ${code}: ${details}\n  ${shown?.slice(0, 3000)}`);
}

function faultOf(rpc: string, code: string, details: string): string | undefined {
  // Refused by gRPC, before any method.
  if (code === 'RESOURCE_EXHAUSTED' && /^Received message larger than max/.test(details)) return undefined;
  if (!['OK', 'INVALID_ARGUMENT', ...(allowed[rpc] ?? [])].includes(code)) return 'unexpected code';
  if (code !== 'OK' && details.length < 10) return 'message too short';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the test searches for control characters.
  if (/[\u0000-\u001f\u007f]/.test(details)) return 'control character in the message';
  if (details.includes(secret)) return 'secret in the message';
  return undefined;
}

/** Records created objects, starts containers, and removes the oldest objects above a limit. */
async function trackObjects({ rpc, code, response }: CallResult<Created>): Promise<void> {
  if (code !== 'OK' || response === undefined) return;
  if (rpc === 'RunPodSandbox') live.sandboxes.push(response.pod_sandbox_id);
  if (rpc === 'CreateContainer') {
    live.containers.push(response.container_id);
    checkResult(await send('StartContainer', { container_id: response.container_id }), response);
  }
  while (live.containers.length > 3 * sandboxesMax) checkResult(await send('RemoveContainer', { container_id: live.containers.shift() }), {});
  while (live.sandboxes.length > sandboxesMax) {
    const pod_sandbox_id = live.sandboxes.shift();
    checkResult(await send('StopPodSandbox', { pod_sandbox_id }), {});
    checkResult(await send('RemovePodSandbox', { pod_sandbox_id }), {});
  }
}

test('unusual requests are served or rejected with an appropriate error', options, async (t) => {
  t.diagnostic(`seed ${seed}, ${rounds} rounds`);
  const random = createRandom(seed);
  const { types } = loadCriTypes();
  const mutator: Mutator = createMutator(types, random, { texts: oddTexts(), byField: preferredValues, secret });
  const typeOf = (rpc: string) => (methods[rpc] as unknown as { requestType: { type: { name: string } } }).requestType.type.name;
  const creations = recorded.filter(({ method }) => /^(RunPodSandbox|CreateContainer)$/.test(method));
  const counts = new Map<string, number>();
  for (let round = 0; round < rounds; round += 1) {
    const { method, request } = chooseRequest(random, creations);
    const kind = random();
    const draft = kind < 0.1 ? mutator.generate(typeOf(method)) : kind < 0.3 ? request : mutator.mutate(typeOf(method), request);
    const result = await send(method, draft);
    checkResult(result, draft);
    await trackObjects(result);
    counts.set(`${method} ${result.code}`, (counts.get(`${method} ${result.code}`) ?? 0) + 1);
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
  assert.doesNotMatch(readFileSync(bed.workspace.logFile, 'utf8'), new RegExp(secret));
  await bed.assertClean();
});

/** Chooses a recorded request or an empty one of any method, and makes names unique so that objects are created. */
function chooseRequest(random: () => number, creations: readonly Recorded[]): Recorded {
  const names = Object.keys(methods);
  const kind = random();
  const chosen = kind < 0.4 ? pick(random, creations) : kind < 0.8 ? pick(random, recorded) : { method: pick(random, names), request: {} };
  const request = localize(chosen);
  if (chosen.method === 'CreateContainer' && request.config?.metadata) request.config.metadata.attempt = Math.floor(random() * 1000);
  if (chosen.method === 'RunPodSandbox' && request.config?.metadata) request.config.metadata.uid = `uid-${Math.floor(random() * 1000)}`;
  if (request.config?.log_directory) mkdirSync(request.config.log_directory, { recursive: true });
  return { method: chosen.method, request };
}

test('invalid messages are rejected without side effects', options, async () => {
  const random = createRandom(seed);
  for (let round = 0; round < 50; round += 1) {
    const { method, request } = pick(random, recorded);
    const bytes = methods[method]?.requestSerialize(restrict(localize({ method, request }))) ?? Buffer.alloc(0);
    for (let left = 3; left > 0 && bytes.length > 0; left -= 1) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    const { details } = await bed.send(method, bytes.subarray(0, Math.floor(random() * (bytes.length + 1))), { deadlineMs: 2000 });
    assert.ok(!/[\r\n]/.test(details), details);
  }
  assert.equal((await bed.send('Version', {})).code, 'OK');
  await bed.removeAll();
  await bed.assertClean();
});
