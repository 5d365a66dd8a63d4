import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerView, imageView, sandboxView } from '../../../test/support/cri-fakes.ts';
import { loadContract } from '../contract.ts';
import { EncodedMessage, encodedChunks } from './encoded.ts';
import { createItemBytes } from './item-bytes.ts';
import { container, image, podSandbox } from './to-response.ts';

const { runtime, image: imageService, encoders } = loadContract();
const items = createItemBytes(encoders);
const sandboxes = [sandboxView('s1'), sandboxView('s2', {}, { stoppedAtNs: '9' })];
const containers = [containerView('c1'), containerView('c2', {}, { startedAtNs: '5' })];

test('a list of cached items equals the list encoded as a whole, also when streamed', () => {
  const whole = (rpc: string, message: object) => ({ ...runtime, ...imageService })[rpc]?.responseSerialize(message).toString('hex');
  const pieces = (buffers: readonly Buffer[]) => new EncodedMessage(buffers).bytes.toString('hex');
  const ofSandboxes = pieces(sandboxes.map(items.sandboxes));
  assert.equal(ofSandboxes, whole('ListPodSandbox', { items: sandboxes.map(podSandbox) }));
  assert.equal(ofSandboxes, whole('StreamPodSandboxes', { pod_sandboxes: sandboxes.map(podSandbox) }));
  const ofContainers = pieces(containers.map(items.containers));
  assert.equal(ofContainers, whole('ListContainers', { containers: containers.map(container) }));
  assert.equal(ofContainers, whole('StreamContainers', { containers: containers.map(container) }));
  const ofImages = pieces([items.images(imageView)]);
  assert.equal(ofImages, whole('ListImages', { images: [image(imageView)] }));
  assert.equal(ofImages, whole('StreamImages', { images: [image(imageView)] }));
});

test('bytes are cached while record and status are the same objects, and re-encoded after a new status', () => {
  const before = containerView('c1');
  const bytes = items.containers(before);
  assert.equal(items.containers({ ...before }), bytes);
  assert.equal(bytes.buffer.byteLength, bytes.length);
  const after = { record: before.record, status: { ...before.status, startedAtNs: '5' } };
  assert.notDeepEqual(items.containers(after), bytes);
  assert.deepEqual(items.containers(after), encoders.container(container(after)));
});

test('encodedChunks() splits between items at 1 MiB, and returns nothing for an empty list', () => {
  const piece = (letter: string, bytes: number) => Buffer.alloc(bytes, letter);
  const chunks = [...encodedChunks([piece('a', 600_000), piece('b', 448_576), piece('c', 1), piece('d', 3_000_000), piece('e', 1)])];
  assert.deepEqual(
    chunks.map(({ bytes }) => bytes.length),
    [1_048_576, 1, 3_000_000, 1],
  );
  assert.deepEqual([...encodedChunks([])], []);
});
