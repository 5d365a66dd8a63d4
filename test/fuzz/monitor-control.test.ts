/**
 * Fuzzes the control socket of live monitors, one with pipes and one with a terminal: clients send valid, modified, cut and random frames, attach, write
 * input, do not read, and hang up. Checks that the monitor still answers, that every line of the container is in the log, and that the exit is recorded.
 *
 * The monitor is the build with sanitizers (`scripts/build-monitor.mjs --sanitize`), which ends it at the first invalid access.
 */
import assert from 'node:assert/strict';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { openMonitorBinary, readExitRecord, reopenLog, startMonitor } from '../../src/engine/monitor/monitor.ts';
import { CLONE, IOCTL, MS, O } from '../../src/engine/plan/abi.ts';
import type { Op, Plan } from '../../src/engine/plan/plan.ts';
import { pipe } from '../../src/sys/call/syscalls.ts';
import { controlSocket, ended, execve, linesOf, ownProc, scratch, shell, stdio } from '../root/support/monitor.ts';
import { pick } from '../support/mutate.ts';
import { rounds } from './support/rounds.ts';

const monitorPath = fileURLToPath(new URL('../../build/monitor-asan', import.meta.url));
const isBuilt = existsSync(monitorPath);

type Target = { readonly directory: string; readonly monitorPid: number };

const [reopen, resize, attach] = [1, 2, 16];
/** Replies to complete frames: success, invalid argument, unknown operation, no terminal, no free slot for an attached client. */
const errnos = [0, 22, 95, 25, 16];
const exitCode = 7;

test('no client of the control socket disturbs the monitor, its log or its exit record', {
  skip: !isBuilt && `${monitorPath} is missing`,
}, async (t) => {
  const targets = [await startTarget(t, 'pipes'), await startTarget(t, 'terminal')];
  const count = await rounds(t, async (random) => {
    const { directory, monitorPid } = pick(random, targets);
    const clients = Array.from({ length: 1 + Math.floor(random() * 14) }, () => runClient(random, join(directory, 'control')));
    await Promise.all(clients);
    await reopenLog(directory);
    assert.deepEqual(sanitizerReport(monitorPid), '');
  });
  assert.ok(count > 10, `only ${count} rounds`);
  for (const { directory, monitorPid } of targets) {
    writeFileSync(join(directory, 'go'), '');
    assert.equal(await ended(monitorPid), 0, sanitizerReport(monitorPid));
    assert.equal((await readExitRecord(directory))?.exitCode, exitCode);
    const numbers = linesOf(readFileSync(join(directory, '0.log'), 'latin1')).flatMap((line) => /^stdout F line (\d+)\r?$/.exec(line)?.[1] ?? []);
    assert.ok(numbers.length > 10);
    assert.deepEqual(
      numbers,
      Array.from(numbers, (_, i) => String(i + 1)),
      'every line is in the log once, in order',
    );
  }
});

/** Starts a container that prints numbered lines, slowly and in bursts, and discards its input. */
async function startTarget(t: TestContext, kind: 'pipes' | 'terminal'): Promise<Target> {
  const directory = join(scratch(t), kind);
  mkdirSync(directory);
  const monitor = await openMonitorBinary(monitorPath);
  t.after(monitor.close);
  const printed = 'n=$((n + 1)); echo line $n';
  // Raw: no echo of the input between the lines, and no byte of the input stops the output.
  const script = `${kind === 'terminal' ? 'stty raw -echo;' : ''} exec 3<&0; cat <&3 >/dev/null & n=0; while [ ! -e ${directory}/go ]; do ${printed}; [ $((n % 100)) -lt 50 ] || sleep 0.01; done; exit ${exitCode}`;
  const [outReader, outWriter] = pipe();
  const [inReader, inWriter] = pipe();
  const hasTerminal = kind === 'terminal';
  const fds = [openSync(directory, 'r'), outReader, outWriter, inReader, inWriter];
  const child: readonly Op[] = hasTerminal ? terminal : [stdio('inReader', 0), stdio('outWriter', 1), stdio('outWriter', 2)];
  const plan: Plan = {
    fds: ['dir', 'outReader', 'outWriter', 'inReader', 'inWriter'],
    parent: controlSocket,
    clone: { namespaces: CLONE.NEWPID | CLONE.NEWNS },
    child: [{ call: 'setsid', note: 'create a session' }, ...ownProc, ...child, execve(shell)],
    process: { argv: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] },
    supervise: {
      mode: 'container',
      ...(hasTerminal ? {} : { stdout: 'outReader', stdin: 'inWriter' }),
      hasTerminal,
      exitDir: 'dir',
      control: 'control',
      log: { dir: 'dir', name: '0.log', lineBytesMax: 1000 },
    },
  };
  const { monitorPid, pid } = await startMonitor({ monitor }, { plan, fds, name: kind });
  for (const fd of fds) closeSync(fd);
  t.after(() => {
    rmSync(reportPath(monitorPid), { force: true });
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has exited, as expected.
    }
  });
  const log = join(directory, '0.log');
  while (!existsSync(log) || !readFileSync(log, 'latin1').includes('line 1')) await sleep(10);
  return { directory, monitorPid };
}

const terminal: readonly Op[] = [
  { call: 'mount', source: 'devpts', target: '/dev/pts', type: 'devpts', flags: MS.NOSUID, data: 'newinstance,ptmxmode=0666', note: 'mount devpts' },
  { call: 'openat', dir: 'cwd', path: '/dev/pts/ptmx', flags: O.RDWR | O.NOCTTY | O.CLOEXEC, mode: 0, out: 'master', note: 'open a terminal' },
  { call: 'ioctl_struct', fd: 'master', request: IOCTL.TIOCSPTLCK, struct: Buffer.alloc(4), note: 'unlock the terminal' },
  { call: 'ioctl', fd: 'master', request: IOCTL.TIOCGPTPEER, value: O.RDWR | O.NOCTTY | O.CLOEXEC, out: 'slave', note: 'open its other side' },
  { call: 'sendterminal', master: 'master', note: 'pass the terminal to the monitor' },
  ...[0, 1, 2].map((to) => stdio('slave', to)),
];

const reportPath = (monitorPid: number): string => `/tmp/berth-monitor-asan.${monitorPid}`;

function sanitizerReport(monitorPid: number): string {
  return existsSync(reportPath(monitorPid)) ? readFileSync(reportPath(monitorPid), 'utf8').slice(0, 4000) : '';
}

/** One client: a few writes, then an orderly end, a hangup, or a pause without reading. */
async function runClient(random: () => number, path: string): Promise<void> {
  const socket = connect(path);
  socket.on('error', () => {});
  const isReader = random() < 0.7;
  const received: Buffer[] = [];
  if (isReader) socket.on('data', (bytes) => received.push(bytes));
  const frames = Array.from({ length: 1 + Math.floor(random() * 6) }, () => randomFrame(random));
  for (const frame of frames) {
    await write(socket, random, frame);
    if (random() < 0.3) await sleep(Math.floor(random() * 4));
  }
  const end = random();
  if (end < 0.3) socket.end();
  await sleep(Math.floor(random() * (end < 0.9 ? 4 : 40)));
  socket.destroy();
  const [first] = frames;
  const reply = Buffer.concat(received);
  // The monitor may have dropped the client before it replied: only the newest clients are kept.
  if (first === undefined || first.length < 16 || reply.length < 8) return;
  assert.equal(reply.readUInt32LE(0), first.readUInt32LE(0), 'the reply names the operation');
  assert.ok(errnos.includes(reply.readInt32LE(4)), `operation ${first.readUInt32LE(0)}: errno ${reply.readInt32LE(4)}`);
}

/** Writes the bytes at once, or in two parts. */
async function write(socket: Socket, random: () => number, bytes: Buffer): Promise<void> {
  const cut = random() < 0.2 ? Math.floor(random() * bytes.length) : bytes.length;
  socket.write(bytes.subarray(0, cut));
  if (cut === bytes.length) return;
  await sleep(1);
  socket.write(bytes.subarray(cut));
}

function randomFrame(random: () => number): Buffer {
  const word = () => pick(random, [0, 0, 1, 2, 7, 15, 16, 80, 65_535, 65_536, 0x7fff_ffff, 0xffff_ffff, Math.floor(random() * 2 ** 32)]);
  const frame = Buffer.alloc(16);
  const valid = pick(random, [[reopen], [resize, 24, 80], [attach, 1 + Math.floor(random() * 15)], [attach, 7], [word(), word(), word(), word()]]);
  for (const [i, value] of valid.entries()) frame.writeUInt32LE(value, 4 * i);
  const kind = random();
  if (kind < 0.6) return frame;
  if (kind < 0.7) return frame.subarray(0, Math.floor(random() * 16));
  if (kind < 0.8) {
    frame[Math.floor(random() * 16)] = Math.floor(random() * 256);
    return frame;
  }
  const bytes = Buffer.alloc(Math.floor(random() * pick(random, [40, 5000, 200_000])));
  for (let i = 0; i < bytes.length; i += 97) bytes[i] = Math.floor(random() * 256);
  return kind < 0.9 ? bytes : Buffer.concat([frame, bytes]);
}
