import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Engine } from '../engine/engine.ts';
import { notFound } from '../lib/errors.ts';
import { spanAttributes } from './span-attributes.ts';

const engine = {
  container: (id: string) => {
    if (!'c123'.startsWith(id)) throw notFound(`container ${id} not found`);
    return { record: { id: 'c123', sandboxId: 's123', spec: { metadata: { name: 'main', attempt: 2 } }, image: { id: 'sha256:i', name: 'app:1' } } };
  },
  sandbox: (id: string) => {
    if (id !== 's123') throw notFound(`sandbox ${id} not found`);
    return { record: { id, spec: { metadata: { name: 'pod', namespace: 'ns', uid: 'u', attempt: 0 } } } };
  },
} as unknown as Pick<Engine, 'container' | 'sandbox'>;

const pod = { 'k8s.pod.name': 'pod', 'k8s.pod.uid': 'u', 'k8s.namespace.name': 'ns', 'cri.sandbox.id': 's123' };
const container = { 'k8s.container.name': 'main', 'k8s.container.restart_count': 2, 'container.id': 'c123' };
const image = { 'container.image.name': 'app:1', 'container.image.id': 'sha256:i' };

test('spanAttributes() identifies a container, its image and its pod by the id or id prefix in the request', () => {
  assert.deepEqual(spanAttributes(engine, { container_id: 'c1' }, {}), { ...pod, ...container, ...image });
});

test('spanAttributes() identifies a created object by the id in the response, else by the request', () => {
  const config = { metadata: { name: 'pod', namespace: 'ns', uid: 'u' } };
  assert.deepEqual(spanAttributes(engine, { config }, { pod_sandbox_id: 's123' }), pod);
  const { 'cri.sandbox.id': _, ...names } = pod;
  assert.deepEqual(spanAttributes(engine, { config }, undefined), names);
  const creation = { pod_sandbox_id: 's123', config: { metadata: { name: 'web', attempt: 0 }, image: { image: 'web:1' } }, sandbox_config: config };
  assert.deepEqual(spanAttributes(engine, creation, undefined), {
    ...pod,
    'k8s.container.name': 'web',
    'k8s.container.restart_count': 0,
    'container.image.name': 'web:1',
  });
});

test('spanAttributes() uses only names: no environment, command or credentials', () => {
  const request = {
    image: { image: 'app:1' },
    auth: { password: 'secret' },
    sandbox_config: { metadata: { name: 'pod' }, annotations: { a: 'secret' } },
  };
  assert.deepEqual(spanAttributes(engine, request, { image_ref: 'sha256:i' }), { 'k8s.pod.name': 'pod', ...image });
  assert.deepEqual(spanAttributes(engine, { container_id: 'gone', cmd: ['secret'] }, undefined), { 'container.id': 'gone' });
  for (const nothing of [undefined, null, {}, { config: null, sandbox_config: null, image: null }, { container_id: 7 }])
    assert.deepEqual(spanAttributes(engine, nothing, nothing), {});
});
