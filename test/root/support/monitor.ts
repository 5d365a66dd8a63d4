/**
 * Shared code of the monitor tests: a directory, pipes, and a minimal container plan (the host's files, a new pid namespace).
 *
 * BERTH_MONITOR selects another build of the monitor, for example the one with sanitizers.
 */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  type ExitRecord,
  type MonitorDeps,
  openMonitorBinary,
  readExitRecord,
  type StartedMonitor,
  startMonitor,
} from '../../../src/engine/monitor/monitor.ts';
import { CLONE, MS, O } from '../../../src/engine/plan/abi.ts';
import type { Op, Plan, Supervise } from '../../../src/engine/plan/plan.ts';
import { close, pidfdOpen, pidfdSendSignal, pipe } from '../../../src/sys/call/syscalls.ts';
import { reap, whenReadable } from '../../../src/sys/process/processes.ts';

export const binaryPath = process.env.BERTH_MONITOR ?? fileURLToPath(new URL('../../../build/monitor', import.meta.url));

export type TestDeps = MonitorDeps & { readonly killAfter: (pid: number) => void };

/** Opens the monitor. `killAfter` kills a process after the test, whatever its result. */
export async function monitorDeps(t: TestContext): Promise<TestDeps> {
  const monitor = await openMonitorBinary(binaryPath);
  t.after(monitor.close);
  const killAfter = (pid: number) => {
    try {
      const pidfd = pidfdOpen(pid);
      t.after(() => {
        signalIfAlive(pidfd);
        close(pidfd);
      });
    } catch {
      // It has already exited.
    }
  };
  return { monitor, killAfter };
}

function signalIfAlive(pidfd: number): void {
  try {
    pidfdSendSignal(pidfd, 9);
  } catch {
    // It has exited, as expected.
  }
}

/** Creates a directory that is removed after the test. */
export function scratch(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'berth-monitor-'));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** Operations that make mounts private and mount /proc of the new pid namespace. */
export const ownProc: Op[] = [
  { call: 'mount', source: '', target: '/', type: '', flags: MS.REC | MS.PRIVATE, data: '', note: 'making mounts private' },
  { call: 'mount', source: 'proc', target: '/proc', type: 'proc', flags: MS.NOSUID, data: '', note: 'mounting /proc' },
];

export const stdio = (fd: string, to: number): Op => ({ call: 'dup3', fd, to, flags: 0, note: `setting fd ${to}` });
export const execve = (path: string, tolerate?: Op['tolerate']): Op => ({
  call: 'execve',
  path,
  note: `starting ${JSON.stringify(path)}`,
  ...(tolerate && { tolerate }),
});
export const shell = '/usr/bin/busybox';

export type ContainerPlan = {
  readonly script: string;
  readonly lineBytesMax?: number;
  /** Directory of the log. Default: the directory of the exit record. */
  readonly logDir?: string;
  readonly hasLog?: boolean;
  /** File that the monitor reads as memory.events of its cgroup. */
  readonly memoryEvents?: string;
};

/** Starts a container that runs a shell script. Its log `0.log`, exit record and control socket are in `dir`. */
export async function startContainer(deps: TestDeps, dir: string, options: ContainerPlan): Promise<StartedMonitor> {
  const [outReader, outWriter] = pipe();
  const [errReader, errWriter] = pipe();
  const fds = [outReader, errReader, outWriter, errWriter, openSync(dir, 'r'), openSync(options.logDir ?? dir, 'r')];
  if (options.memoryEvents !== undefined) fds.push(openSync(options.memoryEvents, 'r'));
  const log = options.hasLog === false ? {} : { log: { dir: 'logs', name: '0.log', lineBytesMax: options.lineBytesMax ?? 16384 } };
  const counted = options.memoryEvents === undefined ? {} : { memoryEvents: 'memory.events' };
  try {
    const plan: Plan = {
      fds: ['out', 'err', 'childOut', 'childErr', 'dir', 'logs', ...(options.memoryEvents === undefined ? [] : ['memory.events'])],
      parent: controlSocket,
      clone: { namespaces: CLONE.NEWPID | CLONE.NEWNS },
      child: [{ call: 'setsid', note: 'creating a session' }, ...ownProc, stdio('childOut', 1), stdio('childErr', 2), execve(shell)],
      process: { argv: ['sh', '-c', options.script], env: ['PATH=/usr/bin:/bin'] },
      supervise: { mode: 'container', stdout: 'out', stderr: 'err', hasTerminal: false, exitDir: 'dir', control: 'control', ...log, ...counted },
    };
    const started = await startMonitor(deps, { plan, fds, name: 'test' });
    deps.killAfter(started.pid);
    return started;
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** Binds the socket by a relative path, because a socket address is limited to 108 bytes. AF_UNIX = 1, SOCK_STREAM | SOCK_CLOEXEC. */
export const controlSocket: Op[] = [
  { call: 'fchdir', fd: 'dir', note: 'entering the directory' },
  { call: 'unlinkat', dir: 'cwd', path: 'control', flags: 0, tolerate: ['ENOENT'], note: 'removing an old socket' },
  { call: 'socket', family: 1, type: 1 | O.CLOEXEC, protocol: 0, out: 'control', note: 'creating the control socket' },
  { call: 'bind', socket: 'control', address: Buffer.from('\u0001\0control\0'), note: 'binding the control socket' },
  { call: 'listen', socket: 'control', backlog: 64, note: 'listening on the control socket' },
  { call: 'chdir', path: '/', note: 'leaving the directory' },
];

/** Waits until a child exits and reaps it. @returns the wait status. */
export async function ended(pid: number): Promise<number> {
  const pidfd = pidfdOpen(pid);
  await whenReadable(pidfd);
  close(pidfd);
  const status = reap(pid);
  assert.notEqual(status, null);
  return status as number;
}

/** Runs a container until it exits. */
export async function runContainer(deps: TestDeps, dir: string, options: ContainerPlan): Promise<{ record: ExitRecord; log: string; pid: number }> {
  const { monitorPid, pid } = await startContainer(deps, dir, options);
  assert.equal(await ended(monitorPid), 0);
  const record = await readExitRecord(dir);
  assert.ok(record);
  return { record, log: options.hasLog === false ? '' : readFileSync(join(options.logDir ?? dir, '0.log'), 'latin1'), pid };
}

/** Returns the lines of a log without timestamps, for example `stdout F text`. Checks the format and order of the timestamps. */
export function linesOf(log: string): string[] {
  const lines = log.split('\n');
  assert.equal(lines.pop(), '', 'the log ends with a newline');
  const times = lines.map((line) => line.slice(0, 30));
  for (const time of times) assert.match(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
  assert.deepEqual(times, [...times].sort(), 'timestamps increase');
  return lines.map((line) => line.slice(31));
}

/** Returns a plan without supervision, for tests that end before the process runs. */
export const barePlan = (child: readonly Op[], more: Partial<Plan> = {}): Plan => ({
  fds: [],
  parent: [],
  clone: { namespaces: 0 },
  child,
  process: { argv: ['sh'], env: [] },
  supervise: { mode: 'exec' } satisfies Supervise,
  ...more,
});
