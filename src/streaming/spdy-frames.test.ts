import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../lib/errors.ts';
import {
  encodeDataHead,
  encodeGoAway,
  encodePing,
  encodeRstStream,
  encodeSynReply,
  encodeWindowUpdate,
  type SpdyFrame,
  SpdyParser,
} from './spdy-frames.ts';

/** What client-go 0.36 sends first for an exec with stdin: SYN_STREAM 1 (streamType: error), SYN_STREAM 3 (streamType: stdin). */
const fromClientGo = Buffer.from(
  '80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff' +
    '800300010000001700000003000000000000c22e555c92929907000000ffff',
  'hex',
);

const parseAll = (bytes: Buffer, chunkBytes = bytes.length): SpdyFrame[] => {
  const parser = new SpdyParser();
  const frames: SpdyFrame[] = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) frames.push(...parser.parse(bytes.subarray(at, at + chunkBytes)));
  return frames;
};

const data = (streamId: number, payload: Buffer, isFin = false) => Buffer.concat([encodeDataHead(streamId, payload.length, isFin), payload]);

test('SpdyParser parses the streams that client-go opens, independent of chunk boundaries', () => {
  for (const chunkBytes of [1, 7, 50, 1000]) {
    const frames = parseAll(fromClientGo, chunkBytes);
    assert.deepEqual(frames, [
      { type: 'syn-stream', streamId: 1, headers: new Map([['streamtype', 'error']]), isFin: false, isUnidirectional: false },
      { type: 'syn-stream', streamId: 3, headers: new Map([['streamtype', 'stdin']]), isFin: false, isUnidirectional: false },
    ]);
  }
});

test('SpdyParser returns data in parts as they arrive, with the end on the last part', () => {
  const frames = parseAll(data(5, Buffer.from('abcdef'), true), 10);
  assert.deepEqual(frames, [
    { type: 'data', streamId: 5, bytes: Buffer.from('ab'), isFin: false },
    { type: 'data', streamId: 5, bytes: Buffer.from('cdef'), isFin: true },
  ]);
});

test('SpdyParser parses an empty last frame', () => {
  assert.deepEqual(parseAll(data(5, Buffer.alloc(0), true)), [{ type: 'data', streamId: 5, bytes: Buffer.alloc(0), isFin: true }]);
});

test('SpdyParser parses the frames that the server sends', () => {
  const bytes = Buffer.concat([
    encodeSynReply(1, true),
    encodeSynReply(3, false),
    encodeRstStream(1, 5),
    encodePing(7),
    encodeGoAway(3, 0),
    encodeWindowUpdate(3, 70_000),
  ]);
  assert.deepEqual(parseAll(bytes), [
    { type: 'headers', streamId: 1, isFin: false },
    { type: 'headers', streamId: 3, isFin: false },
    { type: 'rst-stream', streamId: 1, status: 5 },
    { type: 'ping', id: 7 },
    { type: 'go-away' },
    { type: 'window-update', streamId: 3, deltaBytes: 70_000 },
  ]);
});

test('SpdyParser reads the initial window from SETTINGS and ignores unknown frames', () => {
  const settings = Buffer.from('8003000400000014000000020000000400000064000000070001000 0'.replaceAll(' ', ''), 'hex');
  const unknown = Buffer.from('80030055000000021234', 'hex');
  assert.deepEqual(parseAll(Buffer.concat([unknown, settings])), [{ type: 'settings', initialWindowBytes: 65_536 }]);
});

test('SpdyParser refuses other versions, oversized and truncated control frames, and corrupt header blocks', () => {
  const refused = {
    'version 2': '800200060000000400000001',
    'control frame of 16 MiB': '8003000100ffffff',
    'PING without id': '8003000600000000',
    'SYN_STREAM without headers': '800300010000000400000001',
    'header block that is not zlib': '800300010000000e0000000100000000000011223344',
    'truncated SETTINGS': '800300040000000400000003',
  };
  for (const [name, hex] of Object.entries(refused)) assert.throws(() => parseAll(Buffer.from(hex, 'hex')), BerthError, name);
});
