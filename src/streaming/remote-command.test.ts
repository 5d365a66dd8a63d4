import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChannelParser, checkFlags, chooseProtocol, encodeChannelMessage, encodeStatus, expectedStreams, ResizeParser } from './remote-command.ts';

const flags = { tty: false, stdin: true, stdout: true, stderr: true };

test('checkFlags() refuses stderr with a terminal, and a request without streams', () => {
  assert.doesNotThrow(() => checkFlags(flags));
  assert.throws(() => checkFlags({ ...flags, tty: true }), { code: 'INVALID_ARGUMENT' });
  assert.throws(() => checkFlags({ tty: false, stdin: false, stdout: false, stderr: false }), { code: 'INVALID_ARGUMENT' });
});

test("chooseProtocol() takes the client's most preferred known protocol", () => {
  assert.equal(
    chooseProtocol('v9.channel.k8s.io, v2.channel.k8s.io,v4.channel.k8s.io', ['v4.channel.k8s.io', 'v2.channel.k8s.io']),
    'v2.channel.k8s.io',
  );
  assert.equal(chooseProtocol('v9.channel.k8s.io', ['v4.channel.k8s.io']), undefined);
  assert.equal(chooseProtocol('', ['']), undefined);
});

test('expectedStreams() has a resize stream only with a terminal and since version 3', () => {
  const tty = { tty: true, stdin: true, stdout: true, stderr: false };
  assert.deepEqual(expectedStreams(flags, 4), ['error', 'stdin', 'stdout', 'stderr']);
  assert.deepEqual(expectedStreams(tty, 2), ['error', 'stdin', 'stdout']);
  assert.deepEqual(expectedStreams(tty, 3), ['error', 'stdin', 'stdout', 'resize']);
});

test('encodeStatus() returns JSON since version 4, and text for failures only before it', () => {
  assert.deepEqual(JSON.parse(encodeStatus({ exitCode: 0 }, 4).toString()), { metadata: {}, status: 'Success' });
  const failed = JSON.parse(encodeStatus({ exitCode: 42 }, 5).toString());
  assert.equal(failed.reason, 'NonZeroExitCode');
  assert.deepEqual(failed.details, { causes: [{ reason: 'ExitCode', message: '42' }] });
  const broken = JSON.parse(encodeStatus({ failure: 'no such file' }, 4).toString());
  assert.deepEqual([broken.reason, broken.message, broken.code], ['InternalError', 'no such file', 500]);
  assert.equal(encodeStatus({ exitCode: 0 }, 3).length, 0);
  assert.match(encodeStatus({ exitCode: 42 }, 1).toString(), /42/);
});

test('ResizeParser parses sizes independent of chunk boundaries, and skips invalid ones', () => {
  const parser = new ResizeParser();
  const text = '{"Width":80,"Height":24}\n{"Width":0,"Height":5}{"nothing":1}{"Width":70000,"Height":5}{ "height": 40, "width": 100 }';
  const sizes = [...text].flatMap((character) => [...parser.parse(Buffer.from(character))]);
  assert.deepEqual(sizes, [
    { columns: 80, rows: 24 },
    { columns: 100, rows: 40 },
  ]);
});

test('ResizeParser drops an object that does not end', () => {
  const parser = new ResizeParser();
  for (let i = 0; i < 10; i += 1) assert.deepEqual([...parser.parse(Buffer.alloc(1000, '{'))], []);
  assert.deepEqual([...parser.parse(Buffer.from('{"Width":80,"Height":24}'))].length, 1);
});

test('ChannelParser takes the channel from the first byte of a fragmented message', () => {
  const parser = new ChannelParser(false);
  const parts = [
    { bytes: Buffer.from([0]), isFirst: true, isLast: false },
    { bytes: Buffer.from('ab'), isFirst: false, isLast: false },
    { bytes: Buffer.from('c'), isFirst: false, isLast: true },
    { bytes: Buffer.alloc(0), isFirst: true, isLast: true },
    { bytes: Buffer.from([255, 0]), isFirst: true, isLast: true },
  ];
  const seen = parts.flatMap((part) => [...parser.parse(part)]).map(({ channel, bytes }) => [channel, bytes.toString('latin1')]);
  assert.deepEqual(seen, [
    [0, 'ab'],
    [0, 'c'],
    [255, '\0'],
  ]);
});

test('ChannelParser decodes base64 independent of chunk boundaries, and refuses invalid base64', () => {
  const message = Buffer.concat(encodeChannelMessage(0, Buffer.from('hello, world'), true));
  for (let cut = 0; cut <= message.length; cut += 1) {
    const parser = new ChannelParser(true);
    const parts = [
      { bytes: message.subarray(0, cut), isFirst: true, isLast: false },
      { bytes: message.subarray(cut), isFirst: false, isLast: true },
    ];
    const text = parts.flatMap((part) => [...parser.parse(part)]).map(({ channel, bytes }) => `${channel}:${bytes}`);
    assert.equal(text.join('').replaceAll('0:', ''), 'hello, world', `cut at ${cut}`);
  }
  const broken = { bytes: Buffer.from('0*+='), isFirst: true, isLast: true };
  assert.throws(() => [...new ChannelParser(true).parse(broken)], { code: 'INVALID_ARGUMENT' });
});
