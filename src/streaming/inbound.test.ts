import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Inbound } from './inbound.ts';

test('Inbound returns chunks in order, and counts one as processed when the next is requested', async () => {
  const taken: number[] = [];
  const inbound = new Inbound((bytes) => taken.push(bytes));
  inbound.push(Buffer.from('ab'));
  inbound.push(Buffer.from('c'));
  assert.equal((await inbound.next())?.toString(), 'ab');
  assert.deepEqual(taken, []);
  assert.equal((await inbound.next())?.toString(), 'c');
  assert.deepEqual(taken, [2]);
  inbound.end();
  assert.equal(await inbound.next(), null);
  assert.deepEqual(taken, [2, 1]);
  assert.equal(inbound.heldBytes, 0);
});

test('Inbound resolves a pending next() with a chunk or the end', async () => {
  const inbound = new Inbound(() => {});
  const first = inbound.next();
  inbound.push(Buffer.from('x'));
  assert.equal((await first)?.toString(), 'x');
  const second = inbound.next();
  inbound.end();
  assert.equal(await second, null);
});

test('Inbound counts the overhead of tiny chunks', () => {
  const inbound = new Inbound(() => {});
  for (let i = 0; i < 1000; i += 1) inbound.push(Buffer.from('x'));
  assert.ok(inbound.heldBytes > 100_000, `${inbound.heldBytes}`);
});

test('Inbound holds nothing after discard()', async () => {
  let takenBytes = 0;
  const inbound = new Inbound((bytes) => {
    takenBytes += bytes;
  });
  inbound.push(Buffer.from('ab'));
  inbound.push(Buffer.from('cd'));
  await inbound.next();
  inbound.discard();
  inbound.push(Buffer.from('ef'));
  assert.equal(takenBytes, 6);
  assert.equal(inbound.heldBytes, 0);
  assert.equal(await inbound.next(), null);
});
