/** Interactive exec sessions: streams, terminals, large amounts of data, and the end of the program or of the client. */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProcessStreams, WantedStreams } from '../../src/engine/exec/process-streams.ts';
import type { ContainerSpec } from '../../src/engine/state/spec.ts';
import { runProgram } from '../../src/sys/process/spawn.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from './support/engine.ts';

const pipes = { tty: false, stdin: true, stdout: true, stderr: true };
const terminal = { tty: true, stdin: true, stdout: true, stderr: false };
let host: TestEngine;
let id: string;
let fds: number;
const sessions: ProcessStreams[] = [];

before(async () => {
  host = await startEngine();
  id = await start(containerSpec(['sleep', '1000']));
  fds = openFds();
});
after(async () => {
  // As the streaming server does when the client has disconnected.
  for (const session of sessions) session.abandon();
  for (let tries = 0; tries < 100 && openFds() > fds; tries++) await sleep(20);
  const left = openFds();
  await host.end();
  assert.ok(left <= fds, `${left} open files, ${fds} before`);
});

/** Returns the number of open pipes, terminals and sockets of this process. */
const openFds = (): number => readdirSync('/proc/self/fd').filter((fd) => /^(pipe|socket):|ptmx$/.test(linkOf(fd))).length;

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    // The descriptor of the directory itself is closed.
    return '';
  }
}

async function start(spec: ContainerSpec): Promise<string> {
  const container = await host.engine.createContainer(await host.engine.runSandbox(sandboxSpec()), spec, host.image);
  await host.engine.startContainer(container);
  return container;
}

const exec = (script: string, wanted = pipes): Promise<ProcessStreams> => execIn(id, script, wanted);

async function execIn(container: string, script: string, wanted: WantedStreams): Promise<ProcessStreams> {
  const session = await host.engine.exec(container, { argv: ['sh', '-c', script], ...wanted });
  sessions.push(session);
  return session;
}

async function text(stream: Readable | undefined): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const bytes of stream as Readable) chunks.push(bytes);
  return Buffer.concat(chunks).toString();
}

/** Reads until the output matches the pattern. */
async function expectOutput(stream: Readable, pattern: RegExp): Promise<string> {
  let seen = '';
  for (;;) {
    const bytes = stream.read() as Buffer | null;
    if (bytes !== null) seen += bytes;
    if (pattern.test(seen)) return seen;
    if (stream.readableEnded) assert.fail(`ended with ${JSON.stringify(seen)}`);
    if (bytes === null) await new Promise((resolve) => stream.once('readable', resolve).once('end', resolve));
  }
}

async function processesIn(container: string): Promise<string> {
  return String((await host.engine.execSync(container, ['ps'], 10_000, new AbortController().signal)).stdout);
}

async function waitUntilGone(container: string, pattern: RegExp): Promise<void> {
  for (let tries = 0; tries < 500; tries++) {
    if (!pattern.test(await processesIn(container))) return;
    await sleep(50);
  }
  assert.fail(`still running: ${await processesIn(container)}`);
}

test('exec() connects stdin, separate stdout and stderr, and returns the exit code', async () => {
  const session = await exec('read line; echo "got $line"; echo error >&2; exit 42');
  session.stdin?.end('hello\n');
  const [out, err, exit] = await Promise.all([text(session.stdout), text(session.stderr), session.exited]);
  assert.deepEqual([out, err, exit.exitCode], ['got hello\n', 'error\n', 42]);
});

test('streams that are not requested are /dev/null', async () => {
  const session = await exec('cat; echo out; echo err >&2; exit 3', { tty: false, stdin: false, stdout: false, stderr: true });
  assert.deepEqual([session.stdin, session.stdout], [undefined, undefined]);
  assert.equal(await text(session.stderr), 'err\n');
  assert.equal((await session.exited).exitCode, 3);
});

test('a user other than root can open its streams again', async () => {
  const user = { uid: 1000, supplementalGroups: [], groupsPolicy: 'merge' } as const;
  const container = await start(containerSpec(['sleep', '1000'], { security: { ...security, user } }));
  const session = await execIn(container, 'cat /dev/stdin >/dev/stdout; echo error >/dev/stderr', pipes);
  session.stdin?.end('input');
  assert.deepEqual(await Promise.all([text(session.stdout), text(session.stderr)]), ['input', 'error\n']);
});

test('the end of the client’s input closes the program’s stdin', async () => {
  const session = await exec('cat; echo end');
  session.stdin?.write('some');
  session.stdin?.end(' text ');
  assert.equal(await text(session.stdout), 'some text end\n');
});

test('1 GiB arrives intact in each direction, and the memory of the daemon does not grow', async () => {
  // In a process with the daemon's Node flags, because they determine how much garbage may accumulate.
  const { stdout, stderr, exitCode } = await runProgram({
    path: process.execPath,
    argv: ['node', '--max-semi-space-size=1', join(import.meta.dirname, 'support/echo-through-exec.ts')],
    env: ['MALLOC_ARENA_MAX=2', `PATH=${process.env.PATH}`],
    stdin: Buffer.alloc(0),
    timeoutMs: 600_000,
    outputBytesMax: 10_000,
  });
  assert.equal(exitCode, 0, `${stdout}${stderr}`);
  const { bytes, isIntact, growthBytes } = JSON.parse(String(stdout)) as { bytes: number; isIntact: boolean; growthBytes: number };
  assert.deepEqual([bytes, isIntact], [1024 * 1024 * 1024, true]);
  assert.ok(growthBytes < 20 * 1024 * 1024, `grew by ${growthBytes >> 20} MiB`);
});

test('a client that does not read blocks the program and loses nothing', async () => {
  const session = await exec('dd if=/dev/zero bs=64k count=160 2>/dev/null; echo done >&2');
  await sleep(300);
  assert.equal(session.stderr?.read(), null, 'the program is blocked');
  let bytes = 0;
  for await (const chunk of session.stdout as Readable) bytes += (chunk as Buffer).length;
  assert.equal(bytes, 160 * 65536);
  assert.equal(await text(session.stderr), 'done\n');
});

test('input after the program has closed stdin is not an error', async () => {
  const session = await exec('exec <&-; echo closed; sleep 0.3; exit 5');
  const stdin = session.stdin as Writable;
  stdin.on('error', () => {});
  stdin.write(Buffer.alloc(1024 * 1024));
  assert.equal(await text(session.stdout), 'closed\n');
  assert.equal((await session.exited).exitCode, 5);
});

test('background processes do not keep the session open, even if they write output', async () => {
  const quiet = await exec('sleep 600 & echo main; exit 6');
  assert.equal(await text(quiet.stdout), 'main\n');
  assert.equal((await quiet.exited).exitCode, 6);
  const noisy = await exec('(while :; do echo noise; done) & echo main; exit 7');
  assert.match(await text(noisy.stdout), /^main$/m);
  assert.equal((await noisy.exited).exitCode, 7);
  const inTerminal = await exec('sleep 601 & echo main; exit 8', terminal);
  assert.equal(await text(inTerminal.stdout), 'main\r\n');
  assert.equal((await inTerminal.exited).exitCode, 8);
});

test('a terminal is the controlling terminal, has the size of the client’s window, and turns ^C into a signal', async () => {
  const session = await exec('trap "stty size" WINCH; tty; test -t 0 && test -t 2 && echo all; echo $TERM; while :; do sleep 0.1; done', terminal);
  const stdout = session.stdout as Readable;
  assert.match(await expectOutput(stdout, /xterm\r\n/), /^\/dev\/pts\/\d+\r\nall\r\nxterm\r\n$/);
  session.resize(111, 33);
  await expectOutput(stdout, /33 111\r\n/);
  session.stdin?.write('\x03');
  assert.equal((await session.exited).exitCode, 130);
});

test('a terminal echoes input, and delivers all output before the exit', async () => {
  const session = await exec('read line; seq 1 20000; exit 9', terminal);
  session.stdin?.write('go\n');
  const lines = (await text(session.stdout)).split('\r\n');
  assert.deepEqual([lines[0], lines[1], lines[20000], lines.length], ['go', '1', '20000', 20002]);
  assert.equal((await session.exited).exitCode, 9);
});

test('a missing command is an error, with a terminal too', async () => {
  for (const wanted of [pipes, terminal])
    await assert.rejects(host.engine.exec(id, { argv: ['/bin/none'], ...wanted }), { code: 'FAILED_PRECONDITION', message: /\/bin\/none/ });
  const other = await host.engine.createContainer(await host.engine.runSandbox(sandboxSpec()), containerSpec(['sleep', '1']), host.image);
  await assert.rejects(host.engine.exec(other, { argv: ['true'], ...pipes }), { code: 'FAILED_PRECONDITION' });
});

test('a program gets SIGHUP when its client disconnects', async () => {
  const session = await exec('trap "echo hup > /tmp/hup; exit 0" HUP; echo ready; while :; do sleep 0.1; done');
  await expectOutput(session.stdout as Readable, /ready/);
  session.abandon();
  await session.exited;
  assert.equal(await text((await exec('cat /tmp/hup')).stdout), 'hup\n');
  const inTerminal = await exec('echo ready; exec sleep 602', terminal);
  await expectOutput(inTerminal.stdout as Readable, /ready/);
  inTerminal.abandon();
  assert.equal((await inTerminal.exited).exitCode, 129);
});

test('a program that ignores SIGHUP is killed with its descendants', async () => {
  const session = await exec('trap "" HUP; setsid sleep 603 & echo ready; while :; do sleep 0.1; done');
  await expectOutput(session.stdout as Readable, /ready/);
  session.abandon();
  assert.equal((await session.exited).exitCode, 137);
  await waitUntilGone(id, /sleep 603/);
});

test('the session ends when the container exits', async () => {
  const other = await start(containerSpec(['sleep', '1000']));
  for (const wanted of [pipes, terminal]) {
    const container = wanted === pipes ? other : await start(containerSpec(['sleep', '1000']));
    const session = await execIn(container, 'echo ready; exec sleep 604', wanted);
    await expectOutput(session.stdout as Readable, /ready/);
    await host.engine.stopContainer(container, 0);
    assert.equal((await session.exited).exitCode, 137);
  }
});
