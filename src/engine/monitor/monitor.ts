/**
 * Starts monitors, asks running ones for things, and reads the records they leave. The exchange is drawn in src/monitor/main.c.
 *
 * Knows plans and no containers. A report is (operation, errno); the plan's notes supply the words.
 */
import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { constants } from 'node:os';
import { join } from 'node:path';
import { BerthError, type ErrorCode, failedPrecondition, failedTo, internal, isExhaustion } from '../../lib/errors.ts';
import { isErrno, SyscallError } from '../../sys/call/ffi.ts';
import { memfd, O_CLOEXEC, O_DIRECTORY, O_PATH, pidfdOpen, pidfdSendSignal, pipe, sealMemfd } from '../../sys/call/syscalls.ts';
import { reap, whenReadable } from '../../sys/process/processes.ts';
import { spawnProcess } from '../../sys/process/spawn.ts';
import { encodePlan, type Op, type Plan } from '../plan/plan.ts';
import { kinds, phases, type Report, type Reports, readReports } from './monitor-reports.ts';
import { readRun, stampsBytes } from './plan-run.ts';

/** A private copy of the monitor's program: an upgrade of the file does not reach it, and no container can write it. */
export type MonitorBinary = { readonly path: string; readonly close: () => void };

export type MonitorDeps = { readonly monitor: MonitorBinary };

export type MonitorRequest = {
  readonly plan: Plan;
  /** The fds that `plan.fds` names, in that order. They stay the caller's, who closes its copies after the start. */
  readonly fds: readonly number[];
  /** Shown by ps(1) behind `berth-monitor`: a container's id. */
  readonly name: string;
  /** Told of the monitor's pid at once, while it reads its plan. Does not throw. */
  readonly spawned?: (monitorPid: number) => void;
  /** Told how the plan ran, also of a start that failed, unless the monitor was never started. Does not throw. */
  readonly ran?: (run: ReturnType<typeof readRun>) => void;
  /** For a plan with `hold`: told of the process that waits. It goes on when it gets its byte; when this rejects, it ends. */
  readonly held?: (pid: number) => Promise<void>;
  /** How long the plan may take, without the time it is held; default 60 s: longer than any healthy mount, shorter than the kubelet's patience of two minutes. */
  readonly timeoutMs?: number;
};

/** Pids as the daemon sees them. With supervise mode `none` the monitor is gone already. */
export type StartedMonitor = { readonly monitorPid: number; readonly pid: number };

/** The end of a process as a shell would tell it: `exitCode` is 128 + n for signal n, else `signal` is 0. */
export type Exit = { readonly exitCode: number; readonly signal: number };

const startTimeoutMs = 60_000;
const superviseSteps = ['opening the log', 'waiting for the terminal'];
/** enum refusal of src/monitor/monitor.h. */
const refusals = [
  '',
  'its length',
  'its header',
  'a string',
  'an operation record',
  'an unknown operation',
  'a register',
  'an argument',
  'the order of operations',
];

/**
 * Copies the monitor's program into a sealed memfd, which lives as long as the daemon and each monitor started from it.
 * @throws {BerthError} FAILED_PRECONDITION when the file cannot be read.
 */
export async function openMonitorBinary(path: string): Promise<MonitorBinary> {
  let program: Buffer;
  try {
    program = await readFile(path);
  } catch (error) {
    throw failedPrecondition(`reading the monitor's program: ${error instanceof Error ? error.message : error}`, error);
  }
  const writable = memfd('berth-monitor');
  for (let done = 0; done < program.length; ) done += writeSync(writable, program, done);
  sealMemfd(writable);
  // execve(2) refuses a file that somebody has open for writing.
  const fd = openSync(`/proc/self/fd/${writable}`, 'r');
  closeSync(writable);
  // By the daemon's pid: the path is opened in the child, whose own fds are others.
  return { path: `/proc/${process.pid}/fd/${fd}`, close: () => closeSync(fd) };
}

/**
 * Runs a plan of supervise mode `container` or `none`. The caller reaps a container's monitor (it ends after writing the exit record).
 *
 * @returns when execve or `reap` has succeeded.
 * @throws {BerthError} `<note of the operation>: <errno's text>`, its cause a SyscallError: FAILED_PRECONDITION for execve, RESOURCE_EXHAUSTED when something
 *   is full, else INTERNAL; DEADLINE_EXCEEDED after `timeoutMs`. Then neither monitor nor process is left.
 */
export async function startMonitor(deps: MonitorDeps, request: MonitorRequest): Promise<StartedMonitor> {
  assert(request.plan.supervise.mode !== 'exec', 'startExec() is for these');
  const monitor = spawnMonitor(deps, request);
  try {
    const pid = await started(monitor, request);
    if (request.plan.supervise.mode === 'none') await ended(monitor.pid);
    return { monitorPid: monitor.pid, pid };
  } finally {
    monitor.reports.close();
    tellRun(monitor, request);
  }
}

/**
 * Runs a plan of supervise mode `exec`; its monitor is reaped here.
 *
 * @returns when execve has succeeded. `exited` has no deadline of its own: it ends with the process, which the caller kills when it is late;
 *   it rejects with INTERNAL when the monitor is killed first.
 * @throws {BerthError} as startMonitor().
 */
export async function startExec(deps: MonitorDeps, request: MonitorRequest): Promise<StartedMonitor & { readonly exited: Promise<Exit> }> {
  assert(request.plan.supervise.mode === 'exec', 'startMonitor() is for these');
  const monitor = spawnMonitor(deps, request);
  let pid: number;
  try {
    pid = await started(monitor, request);
  } catch (error) {
    monitor.reports.close();
    throw error;
  } finally {
    tellRun(monitor, request);
  }
  const exited = awaitExit(monitor, request.name);
  // A caller may give up before the end; that is no unhandled rejection.
  exited.catch(() => {});
  return { monitorPid: monitor.pid, pid, exited };
}

async function awaitExit(monitor: Monitor, name: string): Promise<Exit> {
  try {
    const report = await monitor.reports.next();
    await ended(monitor.pid);
    if (report?.kind !== kinds.exited) throw internal(`waiting for ${name}: its monitor ended before it`);
    return toExit(report.a);
  } finally {
    monitor.reports.close();
  }
}

/** waitpid(2): the low seven bits are the signal, the second byte the code. */
function toExit(status: number): Exit {
  const signal = status & 0x7f;
  return { exitCode: signal === 0 ? (status >> 8) & 0xff : 128 + signal, signal };
}

function tellRun({ stamps }: Monitor, { plan, ran }: MonitorRequest): void {
  if (stamps === undefined) return;
  const bytes = Buffer.alloc(stampsBytes(plan));
  readSync(stamps, bytes, 0, bytes.length, 0);
  closeSync(stamps);
  ran?.(readRun(plan, bytes));
}

/** `stamps`: an fd of the memory in which the monitor writes how the plan runs; whoever takes it closes it. */
type Monitor = { readonly pid: number; readonly reports: Reports; readonly stamps: number | undefined };

function spawnMonitor(deps: MonitorDeps, request: MonitorRequest): Monitor {
  assert.equal(request.fds.length, request.plan.fds.length, 'an fd for each inherited register');
  const bytes = encodePlan(request.plan);
  const opened: number[] = [];
  try {
    const plan = memfd('plan');
    opened.push(plan);
    writeSync(plan, bytes);
    const nothing = openSync('/dev/null', 'r+');
    opened.push(nothing);
    const [reader, writer] = pipe();
    opened.push(writer);
    const reports = readReports(reader);
    let stamps: number | undefined;
    try {
      if (request.ran !== undefined) {
        stamps = memfd('stamps');
        ftruncateSync(stamps, stampsBytes(request.plan));
      }
      const fds = [nothing, nothing, nothing, plan, writer, stamps ?? nothing, ...request.fds];
      const pid = spawnProcess({ path: deps.monitor.path, argv: ['berth-monitor', request.name], env: [], fds });
      request.spawned?.(pid);
      return { pid, reports, stamps };
    } catch (error) {
      reports.close();
      if (stamps !== undefined) closeSync(stamps);
      throw failedTo(`starting the monitor of ${request.name}`, error);
    }
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/** Waits for the first report. @returns the pid of the process. */
async function started(monitor: Monitor, request: MonitorRequest): Promise<number> {
  const timeoutMs = request.timeoutMs ?? startTimeoutMs;
  let report = await within(monitor.reports.next(), timeoutMs);
  if (report !== 'late' && report?.kind === kinds.held) {
    await whileHeld(monitor, request, report.a);
    report = await within(monitor.reports.next(), timeoutMs);
  }
  if (report !== 'late' && report?.kind === kinds.started) return report.a;
  if (report === 'late') kill(monitor.pid);
  await ended(monitor.pid);
  if (report === 'late') throw new BerthError('DEADLINE_EXCEEDED', `starting ${request.name}: not done within ${timeoutMs} ms`);
  if (report === null) throw internal(`starting ${request.name}: its monitor ended without a report`);
  throw errorOf(request, report);
}

async function whileHeld(monitor: Monitor, { held }: MonitorRequest, pid: number): Promise<void> {
  assert(held !== undefined, 'a plan that holds has somebody to wait for');
  try {
    await held(pid);
  } catch (error) {
    kill(monitor.pid);
    await ended(monitor.pid);
    throw error;
  }
}

function errorOf(request: MonitorRequest, report: Report): BerthError {
  const { plan, name } = request;
  if (report.kind === kinds.refused)
    return internal(`starting ${name}: the monitor refuses the plan: ${refusals[report.a] ?? report.a} (operation ${report.b})`);
  if (report.kind !== kinds.failed) return internal(`starting ${name}: unknown report ${report.kind} of the monitor`);
  const op = operationOf(plan, report);
  const cause = new SyscallError(op?.note ?? stepOf(report, name), report.c);
  return new BerthError(codeOf(op, cause), `${cause.message}${hintOf(op, cause)}`, cause);
}

/** What the kernel's error says only to those who know. */
function hintOf(op: Op | undefined, cause: SyscallError): string {
  if (op?.call === 'move_mount' && cause.code === 'EINVAL') return '; is one a directory and the other a file?';
  // FUSE: the latter when it came about during the call.
  if (isErrno(cause, 'ENOTCONN', 'ECONNABORTED')) return '; the process that serves the file system has ended';
  return '';
}

function operationOf(plan: Plan, report: Report): Op | undefined {
  if (report.a === phases.parent) return plan.parent[report.b];
  return report.a === phases.child ? plan.child[report.b] : undefined;
}

const stepOf = (report: Report, name: string): string =>
  report.a === phases.supervise ? (superviseSteps[report.b] ?? 'supervising') : `making the namespaces of ${name}`;

/** Places in the container's root, and what is wrong with one that image and pod have made so: trying again does not mend it. */
const placeCalls: readonly string[] = ['openat2', 'mkdirat', 'mknodat', 'move_mount'];
const placeErrors: readonly string[] = ['ELOOP', 'ENOTDIR', 'EISDIR', 'ENOENT', 'EINVAL', 'EROFS', 'ENAMETOOLONG'];

function codeOf(op: Op | undefined, cause: SyscallError): ErrorCode {
  if (op?.call === 'execve') return 'FAILED_PRECONDITION';
  if (op !== undefined && placeCalls.includes(op.call) && placeErrors.includes(cause.code)) return 'FAILED_PRECONDITION';
  return isExhaustion(cause) ? 'RESOURCE_EXHAUSTED' : 'INTERNAL';
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T | 'late'> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function kill(pid: number): void {
  const pidfd = pidfdOpen(pid);
  pidfdSendSignal(pidfd, constants.signals.SIGKILL);
  closeSync(pidfd);
}

/** Waits for the end of a child of the daemon, and reaps it. */
async function ended(pid: number): Promise<void> {
  const pidfd = pidfdOpen(pid);
  try {
    await whenReadable(pidfd);
    reap(pid);
  } finally {
    closeSync(pidfd);
  }
}

/** A monitor answers at once or never. */
const controlTimeoutMs = 5_000;
const frameBytes = 16;
const replyBytes = 8;
/** The requests of src/monitor/supervise.c. */
const controlOperations = { reopenLog: 1, resize: 2 } as const;

/**
 * Makes a container's monitor write to a new log file of the same name.
 *
 * @param directory holds the monitor's socket `control`.
 * @throws {BerthError} FAILED_PRECONDITION when no monitor listens; INTERNAL when the file cannot be made (the old one stays in use).
 */
export async function reopenLog(directory: string): Promise<void> {
  await control(directory, [controlOperations.reopenLog, 0, 0, 0], 'reopening the log');
}

/** Sets the size of a container's terminal. @throws {BerthError} as reopenLog(); INTERNAL also when there is no terminal. */
export async function resizeTerminal(directory: string, size: { readonly rows: number; readonly columns: number }): Promise<void> {
  await control(directory, [controlOperations.resize, size.rows, size.columns, 0], 'resizing the terminal');
}

async function control(directory: string, words: readonly number[], attempt: string): Promise<void> {
  const frame = Buffer.alloc(frameBytes);
  words.forEach((word, i) => {
    frame.writeUInt32LE(word, 4 * i);
  });
  const errno = (await exchange(directory, frame, attempt)).readInt32LE(4);
  if (errno === 0) return;
  const cause = new SyscallError(attempt, errno);
  throw internal(cause.message, cause);
}

/** One frame there, eight bytes back. */
async function exchange(directory: string, frame: Buffer, attempt: string): Promise<Buffer> {
  let dir: number;
  try {
    dir = openSync(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  } catch (error) {
    throw failedPrecondition(`${attempt}: ${error instanceof Error ? error.message : error}`, error);
  }
  try {
    // Through the fd: a socket's address holds 108 bytes, unix(7).
    return await converse(`/proc/self/fd/${dir}/control`, frame, attempt);
  } finally {
    closeSync(dir);
  }
}

function converse(path: string, frame: Buffer, attempt: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let reply: Buffer = Buffer.alloc(0);
    const socket = connect(path);
    const give = (error: BerthError) => {
      socket.destroy();
      reject(error);
    };
    socket.setTimeout(controlTimeoutMs, () => give(new BerthError('DEADLINE_EXCEEDED', `${attempt}: no answer within ${controlTimeoutMs} ms`)));
    socket.on('error', (error) => give(failedPrecondition(`${attempt}: the container's monitor does not listen: ${error.message}`, error)));
    socket.on('close', () => give(failedPrecondition(`${attempt}: the container's monitor ended`)));
    socket.on('data', (bytes: Buffer) => {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < replyBytes) return;
      resolve(reply);
      socket.destroy();
    });
    socket.write(frame);
  });
}

/** What a monitor leaves of its container. */
export type ExitRecord = Exit & {
  readonly pid: number;
  readonly finishedAtNs: bigint;
  readonly droppedLogBytes: number;
  /** Processes of its cgroup that the kernel had killed for want of memory; null where the plan named no file that counts them. */
  readonly oomKills: number | null;
};

/**
 * Reads `exit.json` of a directory.
 * @returns null when there is none (yet).
 * @throws {BerthError} INTERNAL when the file is no exit record.
 */
export async function readExitRecord(directory: string): Promise<ExitRecord | null> {
  let text: string;
  try {
    text = await readFile(join(directory, 'exit.json'), 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    throw failedTo(`reading the exit record in ${directory}`, error);
  }
  try {
    return parseExitRecord(text);
  } catch (error) {
    throw failedTo(`reading the exit record in ${directory}`, error);
  }
}

function parseExitRecord(text: string): ExitRecord {
  const record = JSON.parse(text) as Record<string, unknown>;
  if (record.version !== 1) throw internal(`unknown version ${record.version}`);
  const number = (name: string): number => {
    const value = record[name];
    if (!Number.isSafeInteger(value)) throw internal(`no number ${name}`);
    return value as number;
  };
  return {
    pid: number('pid'),
    exitCode: number('exitCode'),
    signal: number('signal'),
    finishedAtNs: BigInt(String(record.finishedAtNs)),
    droppedLogBytes: number('droppedLogBytes'),
    oomKills: record.oomKills === undefined ? null : number('oomKills'),
  };
}
