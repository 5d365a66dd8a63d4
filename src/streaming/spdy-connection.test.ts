import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SpdyConnection, type SpdyStream } from './spdy-connection.ts';
import { encodeDataHead, encodePing, encodeRstStream, encodeWindowUpdate, type SpdyFrame, SpdyParser } from './spdy-frames.ts';

/** SYN_STREAM 1 and 3 as client-go sends them. */
const synStreams = Buffer.from(
  '80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff' +
    '800300010000001700000003000000000000c22e555c92929907000000ffff',
  'hex',
);

function open() {
  const sent: SpdyFrame[] = [];
  const parser = new SpdyParser();
  const state = { isPaused: false, isEnded: false, isClosed: false };
  const take = (parts: readonly Buffer[]) => {
    for (const part of parts)
      for (const frame of parser.parse(part)) sent.push('bytes' in frame ? { ...frame, bytes: Buffer.from(frame.bytes) } : frame);
  };
  const link = {
    send: async (parts: readonly Buffer[]) => {
      take(parts);
      return true;
    },
    sendNow: take,
    setPaused: (isPaused: boolean) => {
      state.isPaused = isPaused;
    },
    end: () => {
      state.isEnded = true;
    },
  };
  const streams: SpdyStream[] = [];
  const connection = new SpdyConnection(link, {
    onStream: (stream) => void streams.push(stream),
    onClose: () => {
      state.isClosed = true;
    },
  });
  connection.receive(synStreams);
  const [first, second] = streams as [SpdyStream, SpdyStream];
  return { connection, sent, state, first, second, types: () => sent.splice(0).map(({ type }) => type) };
}

const data = (streamId: number, bytes: Buffer, isFin = false) => Buffer.concat([encodeDataHead(streamId, bytes.length, isFin), bytes]);
const settle = () => new Promise((resolve) => setImmediate(resolve));
const windowOf = (bytes: number) => {
  const frame = Buffer.from('8003000400000014000000020000000400000064000000070000 0000'.replace(' ', ''), 'hex');
  frame.writeUInt32BE(bytes, 24);
  return frame;
};
const sentBytes = (sent: readonly SpdyFrame[]) => sent.reduce((sum, frame) => sum + (frame.type === 'data' ? frame.bytes.length : 0), 0);

test('every stream gets a reply, and a ping an answer', () => {
  const { connection, types } = open();
  connection.receive(encodePing(7));
  connection.receive(encodePing(2));
  assert.deepEqual(types(), ['headers', 'headers', 'ping']);
});

test('an even or decreasing stream id is reset; other streams continue', () => {
  const { connection, sent } = open();
  const again = Buffer.from('80030001000000180000000300000000000000040 0fbff00000000000000ffff'.replace(' ', ''), 'hex');
  connection.receive(again);
  assert.deepEqual(sent.at(-1), { type: 'rst-stream', streamId: 3, status: 1 });
  connection.receive(data(9, Buffer.from('x')));
  assert.deepEqual(sent.at(-1), { type: 'rst-stream', streamId: 9, status: 2 });
});

test('data is sent beyond the window to a client without flow control', async () => {
  const { first, sent } = open();
  assert.equal(await first.write(Buffer.alloc(300_000)), true);
  assert.equal(sentBytes(sent), 300_000);
});

test('a client with flow control gets data within the windows of the stream and the connection', async () => {
  const { connection, first, sent } = open();
  connection.receive(windowOf(100_000));
  const written = first.write(Buffer.alloc(200_000));
  await settle();
  // SETTINGS does not change the connection's window.
  assert.equal(sentBytes(sent), 65_536);
  connection.receive(encodeWindowUpdate(0, 1_000_000));
  await settle();
  assert.equal(sentBytes(sent), 100_000);
  connection.receive(encodeWindowUpdate(1, 100_000));
  assert.equal(await written, true);
  assert.equal(sentBytes(sent), 200_000);
});

test('a writer that waits for the window returns on a reset and on the end of the connection', async () => {
  const { connection, first, second } = open();
  connection.receive(windowOf(0));
  const written = [first.write(Buffer.from('x')), second.write(Buffer.from('x'))];
  await settle();
  connection.receive(encodeRstStream(1, 5));
  connection.lost();
  assert.deepEqual(await Promise.all(written), [false, false]);
});

test('the client gets window updates as its data is processed', async () => {
  const { connection, second, types } = open();
  types();
  connection.receive(data(3, Buffer.alloc(40_000)));
  await second.inbound.next();
  assert.deepEqual(types(), []);
  void second.inbound.next();
  assert.deepEqual(types(), ['window-update', 'window-update']);
});

test('data received before the end of a stream can still be read', async () => {
  const { connection, second } = open();
  connection.receive(data(3, Buffer.from('last'), true));
  assert.equal((await second.inbound.next())?.toString(), 'last');
  assert.equal(await second.inbound.next(), null);
});

test('after GOAWAY the connection closes with its last stream', () => {
  const { connection, first, second, state } = open();
  connection.receive(Buffer.from('8003000700000008 0000000000000000'.replace(' ', ''), 'hex'));
  connection.receive(data(1, Buffer.alloc(0), true));
  first.end();
  assert.equal(state.isEnded, false);
  second.reset();
  assert.deepEqual([state.isEnded, state.isClosed], [true, true]);
});

test('invalid data ends the connection with GOAWAY, and its streams', async () => {
  const { connection, first, sent, state } = open();
  connection.receive(Buffer.from('800200060000000400000001', 'hex'));
  assert.deepEqual([state.isEnded, state.isClosed, sent.at(-1)?.type], [true, true, 'go-away']);
  await first.broken;
  assert.equal(await first.inbound.next(), null);
});
