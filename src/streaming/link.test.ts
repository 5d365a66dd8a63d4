import assert from 'node:assert/strict';
import { Duplex } from 'node:stream';
import { test } from 'node:test';
import { Wire } from './link.ts';

/** A connection whose client reads only in readAll(). */
function open() {
  const written: string[] = [];
  let pending: (() => void)[] = [];
  const socket = new Duplex({
    highWaterMark: 10,
    read: () => {},
    write: (chunk, _encoding, done) => {
      written.push(String(chunk));
      pending.push(() => done());
    },
  });
  const state = { closes: 0, received: '' };
  const wire = new Wire(socket, {
    onBytes: (chunk) => {
      state.received += chunk;
    },
    onClose: () => {
      state.closes += 1;
    },
    onHeartbeat: () => {},
  });
  wire.start(Buffer.from('head '));
  const readAll = async () => {
    while (pending.length > 0) {
      for (const done of pending.splice(0)) done();
      await new Promise((resolve) => setImmediate(resolve));
    }
    pending = [];
  };
  return { wire, socket, written, state, readAll };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

test('send() waits while the client does not read, and keeps the order', async () => {
  const { wire, written, readAll, socket } = open();
  assert.equal(await wire.send([Buffer.from('0123456789')]), true);
  const second = wire.send([Buffer.from('second')]);
  const third = wire.send([Buffer.from('third')]);
  await settle();
  assert.deepEqual(written, ['0123456789']);
  await readAll();
  assert.deepEqual(await Promise.all([second, third]), [true, true]);
  assert.equal(written.join(' '), '0123456789 second third');
  socket.destroy();
});

test('end() lets waiting senders finish, and refuses later ones', async () => {
  const { wire, written, readAll, state, socket } = open();
  void wire.send([Buffer.from('0123456789')]);
  const waiting = wire.send([Buffer.from('waiting')]);
  wire.end();
  assert.equal(await wire.send([Buffer.from('late')]), false);
  await readAll();
  assert.equal(await waiting, true);
  assert.equal(written.join(' '), '0123456789 waiting');
  assert.equal(socket.writableEnded, true);
  socket.push(null);
  await settle();
  assert.equal(state.closes, 1);
});

test('reading pauses while the client does not read its replies', async () => {
  const { wire, socket, readAll, state } = open();
  await settle();
  socket.push('ask ');
  await settle();
  assert.equal(state.received, 'head ask ');
  for (let i = 0; i < 1100; i += 1) wire.sendNow([Buffer.alloc(1024)]);
  assert.equal(socket.isPaused(), true);
  await readAll();
  assert.equal(socket.isPaused(), false);
  socket.destroy();
});

test('a broken connection is closed once, and releases waiting senders', async () => {
  const { wire, socket, state } = open();
  void wire.send([Buffer.from('0123456789')]);
  const waiting = wire.send([Buffer.from('x')]);
  socket.destroy(new Error('broken'));
  assert.equal(await waiting, false);
  assert.equal(await wire.send([Buffer.from('y')]), false);
  assert.equal(state.closes, 1);
});
