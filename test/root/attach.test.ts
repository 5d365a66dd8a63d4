/** Attach through the monitor: output, input, several clients, slow clients, restarts of the daemon, and the end of the container. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createEngine } from '../../src/engine/engine.ts';
import type { ProcessStreams } from '../../src/engine/exec/process-streams.ts';
import { recover } from '../../src/engine/recover.ts';
import type { ContainerSpec } from '../../src/engine/state/spec.ts';
import { openStore } from '../../src/engine/state/store.ts';
import { createWatches } from '../../src/engine/watches.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const all = { tty: false, stdin: true, stdout: true, stderr: true };
const outputs = { ...all, stdin: false };
let host: TestEngine;
let count = 0;

before(async () => {
  host = await startEngine();
});
after(async () => {
  await host.end();
});

type Started = { readonly id: string; readonly logPath: string };

async function start(script: string, changes: Partial<ContainerSpec> = {}): Promise<Started> {
  const logPath = join(host.directory, 'logs', `${count++}.log`);
  const spec = containerSpec(['sh', '-c', script], { logPath, ...changes });
  const id = await host.engine.createContainer(await host.engine.runSandbox(sandboxSpec()), spec, host.image);
  await host.engine.startContainer(id);
  return { id, logPath };
}

async function text(stream: Readable | undefined): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const bytes of stream as Readable) chunks.push(bytes);
  return Buffer.concat(chunks).toString();
}

/** Reads until the output matches the pattern. Also consumes the rest of the same chunk. */
async function expectOutput(stream: Readable | undefined, pattern: RegExp): Promise<string> {
  const source = stream as Readable;
  let seen = '';
  while (!pattern.test(seen)) {
    const bytes = source.read() as Buffer | null;
    if (bytes !== null) seen += bytes;
    else if (source.readableEnded) assert.fail(`ended with ${JSON.stringify(seen)}`);
    else await new Promise((resolve) => source.once('readable', resolve).once('end', resolve));
  }
  return seen;
}

const linesOf = (logPath: string): string[] => readFileSync(logPath, 'latin1').replace(/^\S+ /gm, '').split('\n').slice(0, -1);

async function untilLogged(logPath: string, line: string): Promise<void> {
  while (!existsSync(logPath) || !linesOf(logPath).includes(line)) await sleep(20);
}

/** Runs a program in the container and waits until it exits. */
async function runInside(id: string, script: string): Promise<string> {
  return String((await host.engine.execSync(id, ['sh', '-c', script], 20_000, new AbortController().signal)).stdout);
}

const untilGo = 'while [ ! -e /tmp/go ]; do sleep 0.02; done;';

test('attach() returns later output by stream until it ends, and the log has the complete output', async () => {
  const { id, logPath } = await start(`echo before; ${untilGo} echo out; echo err >&2; seq 1 20000; exit 7`);
  await untilLogged(logPath, 'stdout F before');
  const session = await host.engine.attach(id, outputs);
  await runInside(id, 'touch /tmp/go');
  const [out, err, exit] = await Promise.all([text(session.stdout), text(session.stderr), session.exited]);
  const lines = out.split('\n');
  assert.deepEqual([lines[0], lines[1], lines[20_000], lines.length], ['out', '1', '20000', 20_002]);
  assert.equal(err, 'err\n');
  assert.equal(exit.exitCode, 7);
  assert.equal(linesOf(logPath).length, 20_003);
});

test('several clients can attach at once, and one that disconnects does not affect the others', async () => {
  const { id } = await start(`${untilGo} seq 1 50000; echo err >&2`);
  const [one, two, three] = await Promise.all([outputs, outputs, { ...outputs, stdout: false }].map((wanted) => host.engine.attach(id, wanted)));
  two?.abandon();
  await runInside(id, 'touch /tmp/go');
  const [out, err] = await Promise.all([text(one?.stdout), text(three?.stderr), text(one?.stderr)]);
  assert.equal(out.split('\n').length, 50_001);
  assert.equal(err, 'err\n');
  assert.equal(three?.stdout, undefined);
});

test('input reaches the container, and stdin stays open between attaches', async () => {
  const { id, logPath } = await start('while read line; do echo "got $line"; done; echo over', { hasStdin: true });
  const first = await host.engine.attach(id, all);
  first.stdin?.write('one\n');
  await expectOutput(first.stdout, /got one\n/);
  first.stdin?.end('two\n');
  await expectOutput(first.stdout, /got two\n/);
  first.abandon();
  const second = await host.engine.attach(id, all);
  second.stdin?.write('three\n');
  await expectOutput(second.stdout, /got three\n/);
  assert.deepEqual(linesOf(logPath), ['stdout F got one', 'stdout F got two', 'stdout F got three']);
  await host.engine.stopContainer(id, 0);
  assert.equal((await second.exited).exitCode, 137);
});

test('stdin_once: the end of the first client’s input closes the container’s stdin', async () => {
  for (const leave of [(session: ProcessStreams) => session.stdin?.end(), (session: ProcessStreams) => session.abandon()]) {
    const { id, logPath } = await start('cat; echo over; sleep 0.2', { hasStdin: true, closesStdinAfterFirstAttach: true });
    const watcher = await host.engine.attach(id, outputs);
    const session = await host.engine.attach(id, { ...all, stdout: false });
    session.stdin?.write('all of it\n');
    await expectOutput(watcher.stdout, /all of it\n/);
    leave(session);
    await watcher.exited;
    assert.deepEqual(linesOf(logPath), ['stdout F all of it', 'stdout F over']);
  }
});

test('stdin_once with a terminal: a disconnecting client neither ends the input nor hangs up, and the next client continues, also after a restart of the daemon', async () => {
  const script = "trap 'echo hung up' HUP; while read line; do echo got $line; done; echo over";
  const { id, logPath } = await start(script, { hasStdin: true, hasTerminal: true, closesStdinAfterFirstAttach: true });
  const attached = { ...all, tty: true };
  for (const [word, leave] of [
    ['one', (session: ProcessStreams) => session.stdin?.end()],
    ['two', (session: ProcessStreams) => session.abandon()],
  ] as const) {
    const session = await host.engine.attach(id, attached);
    session.stdin?.write(`${word}\n`);
    await expectOutput(session.stdout, new RegExp(`got ${word}\r\n`));
    leave(session);
  }
  const deps = { ...host.deps, store: openStore(host.deps.settings.stateDir), watches: createWatches() };
  await recover(deps);
  const last = await createEngine(deps).attach(id, attached);
  last.stdin?.write('three\n');
  await expectOutput(last.stdout, /got three\r\n/);
  // The input of a terminal ends with a typed ^D.
  last.stdin?.write('\x04');
  await expectOutput(last.stdout, /over/);
  assert.ok(!linesOf(logPath).some((line) => line.includes('hung up')), 'no SIGHUP');
});

test('input that the container does not read at once is buffered and arrives completely', async () => {
  const { id } = await start(`${untilGo} head -c 3000000 | md5sum`, { hasStdin: true, closesStdinAfterFirstAttach: true });
  const session = await host.engine.attach(id, all);
  const stdin = session.stdin as Writable;
  let isTaken = false;
  const block = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
  stdin.write(block, () => {
    isTaken = true;
  });
  stdin.end();
  await sleep(200);
  assert.equal(isTaken, false, 'the container has not read it yet');
  await runInside(id, 'touch /tmp/go');
  const { createHash } = await import('node:crypto');
  assert.equal((await text(session.stdout)).split(' ')[0], createHash('md5').update(block).digest('hex'));
});

test('a container without stdin has no input stream', async () => {
  const { id } = await start('cat; echo over; sleep 1000');
  const session = await host.engine.attach(id, all);
  assert.equal(session.stdin, undefined);
  session.abandon();
});

test('a terminal: input, echo, size and signals', async () => {
  const { id } = await start('trap "stty size" WINCH; read line; echo "got $line"; while :; do sleep 0.1; done', {
    hasStdin: true,
    hasTerminal: true,
  });
  const session = await host.engine.attach(id, { tty: true, stdin: true, stdout: true, stderr: false });
  session.stdin?.write('hello\n');
  assert.equal(await expectOutput(session.stdout, /got hello\r\n/), 'hello\r\ngot hello\r\n');
  session.resize(100, 40);
  await expectOutput(session.stdout, /40 100\r\n/);
  session.stdin?.write('\x03');
  assert.equal((await session.exited).exitCode, 130);
});

test('a client that does not read blocks neither the container, its log nor other clients, and is told that it lost output', async () => {
  const { id, logPath } = await start(`${untilGo} seq 1 400000; echo end >&2; exit 3`);
  const slow = await host.engine.attach(id, { ...outputs, stderr: false });
  const quick = await host.engine.attach(id, outputs);
  const rejected = assert.rejects(slow.exited, { code: 'RESOURCE_EXHAUSTED', message: /output was dropped; the container's log is complete/ });
  await runInside(id, 'touch /tmp/go');
  const [out] = await Promise.all([text(quick.stdout), text(quick.stderr)]);
  assert.equal((await quick.exited).exitCode, 3);
  const lines = linesOf(logPath);
  assert.equal(lines.length, 400_001);
  assert.ok(lines.slice(0, 400_000).every((line) => line.startsWith('stdout F ')));
  assert.equal(out.split('\n').length, 400_001);
  const got = await text(slow.stdout);
  assert.ok(got.length < out.length && out.startsWith(got.slice(0, 100_000)), `${got.length} of ${out.length} bytes`);
  await rejected;
});

test('with a terminal, a slow client misses part of the output and stays attached', async () => {
  const { id, logPath } = await start(`${untilGo} seq 1 400000; while read line; do echo "got $line"; done`, { hasStdin: true, hasTerminal: true });
  const session = await host.engine.attach(id, { tty: true, stdin: true, stdout: true, stderr: false });
  await runInside(id, 'touch /tmp/go');
  await untilLogged(logPath, 'stdout F 400000\r');
  // Output that arrives before the client has read its buffer is also dropped.
  const typing = setInterval(() => session.stdin?.write('hello\n'), 50);
  const seen = await expectOutput(session.stdout, /got hello\r\n/);
  clearInterval(typing);
  assert.match(seen, /^1\r\n2\r\n/);
  assert.ok(!seen.includes('\n399999\r'), 'part of the output is missing');
  session.abandon();
});

test('clients beyond the limit are rejected until another one disconnects', async () => {
  const { id } = await start('sleep 1000');
  const sessions = await Promise.all(Array.from({ length: 16 }, () => host.engine.attach(id, outputs)));
  await assert.rejects(host.engine.attach(id, outputs), { code: 'RESOURCE_EXHAUSTED' });
  sessions[3]?.abandon();
  let again: ProcessStreams | undefined;
  for (let tries = 0; again === undefined && tries < 100; tries++) again = await host.engine.attach(id, outputs).catch(() => sleep(10, undefined));
  assert.ok(again);
  for (const session of [...sessions, again]) session.abandon();
});

test('clients that send invalid data or disconnect during blocked input do not affect others', async () => {
  const { id } = await start(`${untilGo} md5sum | head -c 5; sleep 1000`, { hasStdin: true });
  // A socket address is limited to 108 bytes.
  const directory = openSync(host.deps.store.containers.directory(id), 'r');
  const path = `/proc/self/fd/${directory}/control`;
  const frame = (...words: number[]) => {
    const bytes = Buffer.alloc(16);
    words.forEach((word, i) => {
      bytes.writeUInt32LE(word, 4 * i);
    });
    return bytes;
  };
  const refused = await Promise.all([frame(16, 0), frame(16, 16), frame(16, 1, 1), frame(16, 0xffffffff)].map((bytes) => errnoOf(path, bytes)));
  assert.deepEqual(refused, [22, 22, 22, 22]);
  const flood = connect(path);
  flood.on('error', () => {});
  flood.write(Buffer.concat([frame(16, 1), Buffer.alloc(4_000_000)]));
  await sleep(100);
  flood.destroy();
  closeSync(directory);
  const session = await host.engine.attach(id, outputs);
  await host.engine.reopenLog(id);
  session.abandon();
});

function errnoOf(path: string, frame: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(path);
    socket.on('error', reject).on('data', (bytes: Buffer) => {
      resolve(bytes.readInt32LE(4));
      socket.destroy();
    });
    socket.write(frame);
  });
}

test('attach() works after a restart of the daemon', async () => {
  const { id } = await start('while read line; do echo "got $line"; done', { hasStdin: true });
  const before = await host.engine.attach(id, all);
  const deps = { ...host.deps, store: openStore(host.deps.settings.stateDir), watches: createWatches() };
  await recover(deps);
  const session = await createEngine(deps).attach(id, all);
  session.stdin?.write('again\n');
  await Promise.all([expectOutput(session.stdout, /got again\n/), expectOutput(before.stdout, /got again\n/)]);
  session.abandon();
  before.abandon();
});

test('attach() fails if the container is not running', async () => {
  const { id } = await start('exit 0');
  await host.deps.watches.of(id)?.exited;
  await assert.rejects(host.engine.attach(id, outputs), { code: 'FAILED_PRECONDITION', message: /the container is exited/ });
});

// Sanitizers need shadow memory.
const isSanitized = process.env.BERTH_MONITOR?.endsWith('-asan') === true;

test('an idle monitor uses little memory, also after serving clients', { skip: isSanitized }, async () => {
  const { id, logPath } = await start(`${untilGo} seq 1 200000; sleep 1000`, { hasStdin: true });
  const slow = await host.engine.attach(id, all);
  await runInside(id, 'touch /tmp/go');
  await untilLogged(logPath, 'stdout F 200000');
  slow.abandon();
  const pid = host.engine.container(id).status.monitor?.pid;
  const pss = () => Number(/^Pss: +(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]);
  for (let tries = 0; pss() > 32 && tries < 100; tries++) await sleep(50);
  assert.ok(pss() <= 32, `${pss()} KiB`);
});
