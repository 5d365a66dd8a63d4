/** The monitor as parent of containers: logs, rotation, terminal, full disks, stuck clients, and the exit. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { readExitRecord, reopenLog, resizeTerminal, startMonitor } from '../../src/engine/monitor/monitor.ts';
import { CLONE, IOCTL, MS, O } from '../../src/engine/plan/abi.ts';
import type { Op, Plan } from '../../src/engine/plan/plan.ts';
import { close, pidfdOpen } from '../../src/sys/call/syscalls.ts';
import { whenReadable } from '../../src/sys/process/processes.ts';
import { runProgram } from '../../src/sys/process/spawn.ts';
import {
  barePlan,
  controlSocket,
  ended,
  execve,
  linesOf,
  monitorDeps,
  ownProc,
  runContainer,
  scratch,
  shell,
  startContainer,
  stdio,
} from './support/monitor.ts';

test('the log has each output line with its stream', async (t) => {
  const { log } = await runContainer(await monitorDeps(t), scratch(t), { script: 'echo one; echo two >&2; echo; printf three' });
  const lines = linesOf(log);
  assert.deepEqual(
    lines.filter((line) => line.startsWith('stdout')),
    ['stdout F one', 'stdout F ', 'stdout P three'],
  );
  assert.ok(lines.includes('stderr F two'));
  assert.equal(lines.length, 4);
});

test('the log preserves every byte of the output', async (t) => {
  const dir = scratch(t);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i).filter((byte) => byte !== 10));
  writeFileSync(join(dir, 'bytes'), bytes);
  const { log } = await runContainer(await monitorDeps(t), dir, { script: `cat ${dir}/bytes; echo` });
  assert.deepEqual(linesOf(log), [`stdout F ${bytes.toString('latin1')}`]);
});

test('lines longer than the limit are split, lines of exactly the limit are not', async (t) => {
  const line = (length: number) => `head -c ${length} /dev/zero | tr '\\0' x; echo;`;
  const script = `${line(16)} ${line(17)} ${line(40)} ${line(100000)}`;
  const { log } = await runContainer(await monitorDeps(t), scratch(t), { script, lineBytesMax: 16 });
  const sizes = linesOf(log).map((text) => `${text[7]}${text.length - 9}`);
  assert.deepEqual(sizes.slice(0, 6), ['F16', 'P16', 'F1', 'P16', 'P16', 'F8']);
  assert.deepEqual(sizes.slice(6), [...Array.from({ length: 6249 }, () => 'P16'), 'F16']);
});

test('no line is lost or split when the log is rotated repeatedly', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const { monitorPid } = await startContainer(deps, dir, { script: 'seq 1 100000; sleep 0.2; seq 100001 120000' });
  const isOver = ended(monitorPid);
  let rotations = 0;
  for (; rotations < 8; rotations++) {
    renameSync(join(dir, '0.log'), join(dir, `0.log.${rotations}`));
    await reopenLog(dir);
  }
  await isOver;
  const files = [...Array.from({ length: rotations }, (_, i) => `0.log.${i}`), '0.log'];
  const log = files.map((file) => readFileSync(join(dir, file), 'latin1')).join('');
  const numbers = linesOf(log).map((line) => line.slice(9));
  assert.equal(numbers.length, 120_000);
  assert.ok(numbers.every((number, i) => number === String(i + 1)));
});

test('if the log cannot be reopened, the old file stays in use and no new file is created', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const logDir = join(dir, 'logs');
  mkdirSync(logDir);
  const { monitorPid } = await startContainer(deps, dir, { script: `echo one; while [ ! -e ${dir}/go ]; do sleep 0.02; done; echo two`, logDir });
  renameSync(join(logDir, '0.log'), join(logDir, 'old'));
  mkdirSync(join(logDir, '0.log'));
  await assert.rejects(reopenLog(dir), { code: 'INTERNAL', message: /^reopen the log: .*EISDIR/ });
  writeFileSync(join(dir, 'go'), '');
  await ended(monitorPid);
  assert.deepEqual(linesOf(readFileSync(join(logDir, 'old'), 'latin1')), ['stdout F one', 'stdout F two']);
  assert.deepEqual(readdirSync(logDir).sort(), ['0.log', 'old']);
});

test('reopenLog() fails if no monitor is listening', async (t) => {
  const dir = scratch(t);
  await assert.rejects(reopenLog(dir), { code: 'FAILED_PRECONDITION' });
  await assert.rejects(reopenLog(join(dir, 'absent')), { code: 'FAILED_PRECONDITION' });
});

test('output without a log is drained', async (t) => {
  const dir = scratch(t);
  const { record } = await runContainer(await monitorDeps(t), dir, { script: 'seq 1 50000; exit 5', hasLog: false });
  assert.equal(record.exitCode, 5);
  assert.ok(!existsSync(join(dir, '0.log')));
});

test('the log file is writable by its owner and readable by its group', async (t) => {
  const dir = scratch(t);
  const mask = process.umask(0);
  t.after(() => process.umask(mask));
  await runContainer(await monitorDeps(t), dir, { script: 'echo' });
  assert.equal(statSync(join(dir, '0.log')).mode & 0o7777, 0o640);
  assert.equal(statSync(join(dir, 'exit.json')).mode & 0o7777, 0o600);
});

async function run(...argv: readonly string[]): Promise<void> {
  const { exitCode, stderr } = await runProgram({
    ...{ path: `/usr/bin/${argv[0]}`, argv, env: [], stdin: Buffer.alloc(0), timeoutMs: 5000, outputBytesMax: 1000 },
  });
  assert.equal(exitCode, 0, stderr.toString());
}

test('on a full disk only complete lines are written, lost lines are counted, and logging resumes when there is space', async (t) => {
  const deps = await monitorDeps(t);
  // Hooks run in the order of their registration: unmount first, then remove.
  let logDir = '';
  t.after(() => run('umount', '-l', logDir));
  const dir = scratch(t);
  logDir = join(dir, 'logs');
  mkdirSync(logDir);
  await run('mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', logDir);
  writeFileSync(join(logDir, 'filler'), Buffer.alloc(16384));
  const script = `seq 1 5000; touch ${dir}/full; while [ ! -e ${dir}/go ]; do sleep 0.02; done; echo again`;
  const { monitorPid } = await startContainer(deps, dir, { script, logDir });
  const isOver = ended(monitorPid);
  while (!existsSync(join(dir, 'full'))) await new Promise((resolve) => setTimeout(resolve, 10));
  // The monitor responds after it has written earlier output, so reopening flushes the log.
  await reopenLog(dir);
  writeFileSync(join(logDir, 'filler'), '');
  writeFileSync(join(dir, 'go'), '');
  await isOver;
  const numbers = linesOf(readFileSync(join(logDir, '0.log'), 'latin1')).map((line) => line.slice(9));
  assert.equal(numbers.pop(), 'again');
  assert.ok(numbers.length > 500 && numbers.length < 5000);
  for (const number of numbers) assert.match(number, /^\d{1,4}$/);
  const record = await readExitRecord(dir);
  const written = statSync(join(logDir, '0.log')).size;
  const frame = '2026-01-02T03:04:05.123456789Z stdout F \n'.length;
  const contents = [...Array.from({ length: 5000 }, (_, i) => String(i + 1)), 'again'];
  const whole = contents.reduce((sum, content) => sum + frame + content.length, 0);
  assert.equal((record?.droppedLogBytes ?? 0) + written, whole);
});

test('a monitor that cannot write its exit record reports it by its exit code', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const gone = join(dir, 'gone');
  mkdirSync(gone);
  const { monitorPid } = await startContainer(deps, gone, { script: `while [ ! -e ${dir}/go ]; do sleep 0.02; done`, hasLog: false });
  rmSync(gone, { recursive: true });
  writeFileSync(join(dir, 'go'), '');
  assert.equal((await ended(monitorPid)) >> 8, 3);
});

test('an invalid exit record is an error', async (t) => {
  const dir = scratch(t);
  assert.equal(await readExitRecord(dir), null);
  for (const text of ['', '{}', '{"version":1,"pid":1,"exitCode":"0"}']) {
    writeFileSync(join(dir, 'exit.json'), text);
    await assert.rejects(readExitRecord(dir), { code: 'INTERNAL', message: /^read the exit record in / });
  }
});

test('processes that keep the output open do not delay the exit', async (t) => {
  const deps = await monitorDeps(t);
  // Registered before the hook of scratch(), which removes the file.
  t.after(() => process.kill(Number(readFileSync(join(dir, 'noise'), 'latin1')), 'SIGKILL'));
  const dir = scratch(t);
  const childDir = openSync(dir, 'r');
  const script = `(while :; do echo noise; done) & echo $! > ${dir}/noise; exit 4`;
  // No pid namespace: background processes keep running and writing.
  const plan: Plan = {
    fds: ['dir'],
    parent: [
      { call: 'mknodat', dir: 'dir', path: 'fifo', mode: 0o10600, dev: 0, note: 'making a FIFO' },
      { call: 'openat', dir: 'dir', path: 'fifo', flags: O.RDWR | O.CLOEXEC, mode: 0, out: 'writer', note: 'opening its write end' },
      { call: 'openat', dir: 'dir', path: 'fifo', flags: O.RDONLY | O.CLOEXEC, mode: 0, out: 'reader', note: 'opening its read end' },
    ],
    clone: { namespaces: 0 },
    child: [stdio('writer', 1), execve(shell)],
    process: { argv: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] },
    supervise: { mode: 'container', stdout: 'reader', hasTerminal: false, exitDir: 'dir', log: { dir: 'dir', name: '0.log', lineBytesMax: 100 } },
  };
  const { monitorPid } = await startMonitor(deps, { plan, fds: [childDir], name: 'test' });
  closeSync(childDir);
  await ended(monitorPid);
  assert.equal((await readExitRecord(dir))?.exitCode, 4);
});

test('clients that send nothing or invalid data, or do not read, block neither other clients nor the exit', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const { monitorPid } = await startContainer(deps, dir, { script: `while [ ! -e ${dir}/go ]; do sleep 0.02; done; echo end` });
  const path = join(dir, 'control');
  const sockets = Array.from({ length: 12 }, (_, i) => {
    const socket = connect(path).on('error', () => {});
    if (i % 3 === 1) socket.write(Buffer.from('short'));
    if (i % 3 === 2) socket.write(Buffer.alloc(64 * 1024, 0xee));
    return socket;
  });
  await reopenLog(dir);
  await assert.rejects(resizeTerminal(dir, { rows: 24, columns: 80 }), /ENOTTY/);
  writeFileSync(join(dir, 'go'), '');
  await ended(monitorPid);
  for (const socket of sockets) socket.destroy();
  assert.deepEqual(linesOf(readFileSync(join(dir, '0.log'), 'latin1')), ['stdout F end']);
});

test('a terminal is logged as stdout, can be resized, and ends with its process', async (t) => {
  const deps = await monitorDeps(t);
  const dir = scratch(t);
  const zero = Buffer.alloc(4);
  const child: Op[] = [
    { call: 'setsid', note: 'making a session' },
    ...ownProc,
    {
      call: 'mount',
      source: 'devpts',
      target: '/dev/pts',
      type: 'devpts',
      flags: MS.NOSUID,
      data: 'newinstance,ptmxmode=0666',
      note: 'mounting devpts',
    },
    { call: 'openat', dir: 'cwd', path: '/dev/pts/ptmx', flags: O.RDWR | O.NOCTTY | O.CLOEXEC, mode: 0, out: 'master', note: 'opening a terminal' },
    { call: 'ioctl_struct', fd: 'master', request: IOCTL.TIOCSPTLCK, struct: zero, note: 'unlocking the terminal' },
    { call: 'ioctl', fd: 'master', request: IOCTL.TIOCGPTPEER, value: O.RDWR | O.NOCTTY | O.CLOEXEC, out: 'slave', note: 'opening its other side' },
    { call: 'ioctl', fd: 'slave', request: IOCTL.TIOCSCTTY, value: 0, note: 'making it the controlling terminal' },
    { call: 'sendterminal', master: 'master', note: 'giving the terminal to the monitor' },
    ...[0, 1, 2].map((to) => stdio('slave', to)),
    execve(shell),
  ];
  // The shell closes and reopens its terminal: that must not look like its end.
  const script = `tty; exec <&- >&- 2>&-; sleep 0.1; exec > /dev/tty 2>&1 < /dev/tty; echo err >&2; while [ ! -e ${dir}/go ]; do sleep 0.02; done; stty size; seq 1 2000; exit 6`;
  const plan: Plan = {
    fds: ['dir'],
    parent: controlSocket,
    clone: { namespaces: CLONE.NEWPID | CLONE.NEWNS },
    child,
    process: { argv: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] },
    supervise: { mode: 'container', hasTerminal: true, exitDir: 'dir', control: 'control', log: { dir: 'dir', name: '0.log', lineBytesMax: 1000 } },
  };
  const fd = openSync(dir, 'r');
  const { monitorPid, pid } = await startMonitor(deps, { plan, fds: [fd], name: 'test' });
  deps.killAfter(pid);
  closeSync(fd);
  await resizeTerminal(dir, { rows: 33, columns: 111 });
  await assert.rejects(resizeTerminal(dir, { rows: 70000, columns: 1 }), /EINVAL/);
  writeFileSync(join(dir, 'go'), '');
  await ended(monitorPid);
  const lines = linesOf(readFileSync(join(dir, '0.log'), 'latin1'));
  assert.deepEqual(lines.slice(0, 3), ['stdout F /dev/pts/0\r', 'stdout F err\r', 'stdout F 33 111\r']);
  assert.equal(lines.length, 2003);
  assert.equal(lines.at(-1), 'stdout F 2000\r');
  assert.equal((await readExitRecord(dir))?.exitCode, 6);
});

test('a plan with hasTerminal that sends no terminal fails', async (t) => {
  const deps = await monitorDeps(t);
  const fd = openSync(scratch(t), 'r');
  t.after(() => closeSync(fd));
  const plan = barePlan([execve(shell)], { fds: ['dir'], supervise: { mode: 'container', hasTerminal: true, exitDir: 'dir' } });
  await assert.rejects(startMonitor(deps, { plan, fds: [fd], name: 'test' }), /wait for the terminal/);
});

/** A program that starts a container and is then killed like a daemon. */
const standIn = `
  const [support, directory] = process.argv.slice(1);
  const { startContainer } = await import(support);
  const { openMonitorBinary } = await import(new URL('../../../src/engine/monitor/monitor.ts', support).href);
  const { binaryPath } = await import(support);
  const script = 'echo before; while [ ! -e ' + directory + '/go ]; do sleep 0.02; done; seq 1 20000; echo after >&2; exit 9';
  const { monitorPid, pid } = await startContainer({ monitor: await openMonitorBinary(binaryPath), killAfter() {} }, directory, { script });
  process.stdout.write(monitorPid + ' ' + pid + '\\n', () => process.kill(process.pid, 'SIGKILL'));
`;

test('a container, its log, control socket and exit record survive the daemon that started it', async (t) => {
  const dir = scratch(t);
  const support = new URL('./support/monitor.ts', import.meta.url).href;
  const env = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
  const argv = [process.execPath, '--input-type=module', '-e', standIn, '--', support, dir];
  const { stdout, signal, stderr } = await runProgram({
    path: process.execPath,
    argv,
    env,
    stdin: Buffer.alloc(0),
    timeoutMs: 20000,
    outputBytesMax: 10000,
  });
  assert.equal(signal, 'SIGKILL', stderr.toString());
  const [monitorPid, pid] = stdout.toString().trim().split(' ').map(Number);
  (await monitorDeps(t)).killAfter(pid as number);
  const pidfd = pidfdOpen(monitorPid as number);
  renameSync(join(dir, '0.log'), join(dir, 'old'));
  await reopenLog(dir);
  writeFileSync(join(dir, 'go'), '');
  await whenReadable(pidfd);
  close(pidfd);
  assert.equal((await readExitRecord(dir))?.exitCode, 9);
  assert.deepEqual(linesOf(readFileSync(join(dir, 'old'), 'latin1')), ['stdout F before']);
  assert.equal(linesOf(readFileSync(join(dir, '0.log'), 'latin1')).length, 20001);
});
