/** Converts recorded kubelet requests, decoded from the wire, and compares the specs with test/data/kubelet-specs.json. UPDATE_GOLDEN=1 rewrites that file. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { loadContract } from '../contract.ts';
import type { CreateContainerRequest, RunPodSandboxRequest, UpdateContainerResourcesRequest } from '../wire/messages.ts';
import { containerSpecFrom } from './container-from-request.ts';
import { resourcesFrom } from './resources-from-request.ts';
import { sandboxSpecFrom } from './sandbox-from-request.ts';

type Recorded = { readonly method: string; readonly request: object };

const data = join(import.meta.dirname, '../../../test/data');
const golden = join(data, 'kubelet-specs.json');
const text = readFileSync(join(data, 'kubelet-requests.json'), 'utf8');
const recorded = JSON.parse(text.replaceAll('{work}', '/node').replaceAll('{cgroup}', 'node').replaceAll('"runc"', '"berth"')) as Record<
  string,
  Recorded
>;
const { runtime } = loadContract();
const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };

test('every recorded kubelet request becomes its golden spec, or fails with its golden error', () => {
  const specs = Object.fromEntries(Object.entries(recorded).flatMap(([name, request]) => specOf(name, request)));
  const found = JSON.parse(JSON.stringify(specs, (_, value: unknown) => (isBytes(value) ? Buffer.from(value.data).toString() : value)));
  if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(golden, `${JSON.stringify(found, null, 1)}\n`);
  assert.deepEqual(found, JSON.parse(readFileSync(golden, 'utf8')));
});

test('only an unknown handler of the recorded requests is refused', () => {
  const kept = JSON.parse(readFileSync(golden, 'utf8')) as Record<string, unknown>;
  const refused = Object.keys(kept).filter((name) => typeof kept[name] === 'string');
  assert.deepEqual(refused, ['RunPodSandbox unknown handler']);
});

test('a recorded request without one of its fields, or with an unknown enum value, becomes a spec or a refusal', () => {
  const outcomes = Object.values(recorded).flatMap(({ method, request }) => {
    const make = makers[method];
    if (make === undefined) return [];
    const message = overTheWire(method, request);
    return [...variants(message)].map((variant) => typeof orFailure(() => make(variant)));
  });
  assert.ok(outcomes.length > 1000);
  assert.ok(outcomes.includes('string') && outcomes.includes('object'));
});

/** The message without one field or element, or with an unknown enum value, for every field at any depth. */
function* variants(value: object): Generator<object> {
  for (const [key, inner] of Object.entries(value)) {
    if (Array.isArray(value)) yield value.filter((_, index) => String(index) !== key);
    else yield Object.fromEntries(Object.entries(value).filter(([name]) => name !== key));
    const others: Iterable<unknown> = isObject(inner) ? variants(inner) : enumFields.includes(key) ? [99] : [];
    for (const other of others) yield Array.isArray(value) ? value.with(Number(key), other) : { ...value, [key]: other };
  }
}

const enumFields = ['protocol', 'propagation', 'network', 'pid', 'ipc', 'mode', 'profile_type', 'supplemental_groups_policy', 'stop_signal'];

const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null && !Buffer.isBuffer(value);

function specOf(name: string, { method, request }: Recorded): [string, unknown][] {
  const make = makers[method];
  return make === undefined ? [] : [[name, orFailure(() => make(overTheWire(method, request)))]];
}

const makers: Readonly<Record<string, (request: object) => unknown>> = {
  RunPodSandbox: (request: RunPodSandboxRequest) => sandboxSpecFrom(request, facts),
  CreateContainer: (request: CreateContainerRequest) => containerSpecFrom(request, sandboxOf(request), facts),
  UpdateContainerResources: ({ linux }: UpdateContainerResourcesRequest) => resourcesFrom(linux),
};

/** The sandbox that the request repeats. */
function sandboxOf({ sandbox_config: config }: CreateContainerRequest) {
  return sandboxSpecFrom({ config }, facts);
}

function overTheWire(method: string, request: object): object {
  const definition = runtime[method];
  assert.ok(definition);
  return definition.requestDeserialize(definition.requestSerialize(request)) as object;
}

function orFailure(make: () => unknown): unknown {
  try {
    return make();
  } catch (error) {
    assert.ok(error instanceof BerthError, String(error));
    return `${error.code}: ${error.message}`;
  }
}

function isBytes(value: unknown): value is { readonly data: readonly number[] } {
  return typeof value === 'object' && value !== null && (value as { type?: unknown }).type === 'Buffer';
}
