/**
 * Starts monitors, sends requests to running ones, and reads their exit records. The protocol is drawn in src/monitor/main.c.
 *
 * Knows plans, but not containers. A report contains an operation and an errno; the operation's note supplies the text of the error.
 */
import assert from 'node:assert/strict';
import { closeSync, fchmodSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { constants } from 'node:os';
import { join } from 'node:path';
import { BerthError, type ErrorCode, failedPrecondition, failedTo, internal, isExhaustion, reasonOf } from '../../lib/errors.ts';
import { isErrno, SyscallError } from '../../sys/call/ffi.ts';
import { memfd, O_CLOEXEC, O_DIRECTORY, O_PATH, pidfdOpen, pidfdSendSignal, pipe, sealMemfd } from '../../sys/call/syscalls.ts';
import { reap, whenReadable } from '../../sys/process/processes.ts';
import { spawnProcess } from '../../sys/process/spawn.ts';
import { encodePlan, type Op, type Plan } from '../plan/plan.ts';
import { kinds, phases, type Report, type Reports, readReports } from './monitor-reports.ts';
import { readRun, stampsBytes } from './plan-run.ts';

/** A private copy of the monitor's executable: replacing the file does not affect it, and no container can write to it. */
export type MonitorBinary = { readonly path: string; readonly close: () => void };

export type MonitorDeps = { readonly monitor: MonitorBinary };

export type MonitorRequest = {
  readonly plan: Plan;
  /** The fds of `plan.fds`, in that order. The caller keeps them, and closes them after the start. */
  readonly fds: readonly number[];
  /** Argument that ps(1) shows after `berth-monitor`: the id of the container. */
  readonly name: string;
  /** Called with the monitor's pid right after the spawn, while it reads its plan. Must not throw. */
  readonly spawned?: (monitorPid: number) => void;
  /** Called with how the plan ran, also after a failed start, unless the monitor could not be spawned. Must not throw. */
  readonly ran?: (run: ReturnType<typeof readRun>) => void;
  /** For a plan with `hold`: called with the pid of the waiting process, which continues when it receives a byte. If this rejects, it is killed. */
  readonly held?: (pid: number) => Promise<void>;
  /** Timeout of the plan without the time it is held. Default 60 s: longer than any healthy mount, shorter than the kubelet's timeout of 2 minutes. */
  readonly timeoutMs?: number;
};

/** Pids in the daemon's pid namespace. With supervise mode `none` the monitor has already exited. */
export type StartedMonitor = { readonly monitorPid: number; readonly pid: number };

/** The exit status of a process as in a shell: `exitCode` is 128 + n for signal n; otherwise `signal` is 0. */
export type Exit = { readonly exitCode: number; readonly signal: number };

const startTimeoutMs = 60_000;
const superviseSteps = ['open the log', 'wait for the terminal', 'confine the monitor', 'set up the process, which was killed'];
/** enum refusal of src/monitor/monitor.h. */
const refusals = [
  '',
  'invalid length',
  'invalid header',
  'invalid string',
  'invalid operation record',
  'unknown operation',
  'invalid register',
  'invalid argument',
  'invalid order of operations',
];

/**
 * Copies the monitor's executable into a sealed memfd, which exists as long as the daemon or a monitor that was started from it.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the file cannot be read, or the node forbids programs in memory.
 */
export async function openMonitorBinary(path: string): Promise<MonitorBinary> {
  let program: Buffer;
  try {
    program = await readFile(path);
  } catch (error) {
    throw failedPrecondition(`read the monitor binary: ${reasonOf(error)}`, error);
  }
  const writable = programFile('berth-monitor');
  for (let done = 0; done < program.length; ) done += writeSync(writable, program, done);
  // As `#!/proc/self/exe`, an image can execute it in a container: not as another user, and never so that it can be read or changed.
  fchmodSync(writable, 0o500);
  sealMemfd(writable);
  // execve(2) fails with ETXTBSY while the file is open for writing.
  const fd = openSync(`/proc/self/fd/${writable}`, 'r');
  closeSync(writable);
  // Not /proc/self: the path is opened in the child, which has other fds.
  return { path: `/proc/${process.pid}/fd/${fd}`, close: () => closeSync(fd) };
}

function programFile(name: string): number {
  try {
    return memfd(name, 'program');
  } catch (error) {
    if (!isErrno(error, 'EACCES')) throw error;
    throw failedPrecondition(
      'copy the monitor binary to memory: the sysctl vm.memfd_noexec is 2, which forbids programs there; set it to 1 or 0',
      error,
    );
  }
}

/**
 * Runs a plan with supervise mode `container` or `none`. The caller must reap the monitor of a container, which exits after writing the exit record.
 *
 * @returns after execve or `reap` has succeeded.
 * @throws {BerthError} `<note of the operation>: <errno text>`, with a SyscallError as its cause: FAILED_PRECONDITION for execve and for paths in the
 *   container's root, RESOURCE_EXHAUSTED if a resource is exhausted, else INTERNAL; DEADLINE_EXCEEDED after `timeoutMs`. Neither monitor nor process
 *   is left.
 */
export async function startMonitor(deps: MonitorDeps, request: MonitorRequest): Promise<StartedMonitor> {
  assert(request.plan.supervise.mode !== 'exec', 'use startExec() for supervise mode exec');
  const monitor = spawnMonitor(deps, request);
  try {
    const pid = await started(monitor, request);
    if (request.plan.supervise.mode === 'none') await ended(monitor.pid);
    return { monitorPid: monitor.pid, pid };
  } finally {
    monitor.reports.close();
    reportRun(monitor, request);
  }
}

/**
 * Runs a plan with supervise mode `exec`, and reaps its monitor.
 *
 * @returns after execve has succeeded. `exited` resolves when the process exits. It has no timeout: the caller kills a process that takes too long.
 *   It rejects with INTERNAL if the monitor is killed first.
 * @throws {BerthError} as startMonitor().
 */
export async function startExec(deps: MonitorDeps, request: MonitorRequest): Promise<StartedMonitor & { readonly exited: Promise<Exit> }> {
  assert(request.plan.supervise.mode === 'exec', 'use startMonitor() for other supervise modes');
  const monitor = spawnMonitor(deps, request);
  let pid: number;
  try {
    pid = await started(monitor, request);
  } catch (error) {
    monitor.reports.close();
    throw error;
  } finally {
    reportRun(monitor, request);
  }
  const exited = awaitExit(monitor, request.name);
  // The caller may stop waiting, which must not cause an unhandled rejection.
  exited.catch(() => {});
  return { monitorPid: monitor.pid, pid, exited };
}

async function awaitExit(monitor: Monitor, name: string): Promise<Exit> {
  try {
    const report = await monitor.reports.next();
    await ended(monitor.pid);
    if (report?.kind !== kinds.exited) throw internal(`wait for ${name}: the monitor exited before the process`);
    return toExit(report.a);
  } finally {
    monitor.reports.close();
  }
}

/** Converts a status of waitpid(2): the low seven bits are the signal, the second byte is the exit code. */
function toExit(status: number): Exit {
  const signal = status & 0x7f;
  return { exitCode: signal === 0 ? (status >> 8) & 0xff : 128 + signal, signal };
}

function reportRun({ stamps }: Monitor, { plan, ran }: MonitorRequest): void {
  if (stamps === undefined) return;
  const bytes = Buffer.alloc(stampsBytes(plan));
  readSync(stamps, bytes, 0, bytes.length, 0);
  closeSync(stamps);
  ran?.(readRun(plan, bytes));
}

/** `stamps`: an fd of the memory in which the monitor records how the plan runs. reportRun() closes it. */
type Monitor = { readonly pid: number; readonly reports: Reports; readonly stamps: number | undefined };

function spawnMonitor(deps: MonitorDeps, request: MonitorRequest): Monitor {
  assert.equal(request.fds.length, request.plan.fds.length, 'one fd for each inherited register');
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
      throw failedTo(`start the monitor of ${request.name}`, error);
    }
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/** Waits for the report that the process has started. @returns the pid of the process. */
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
  if (report === 'late') throw new BerthError('DEADLINE_EXCEEDED', `start ${request.name}: timeout after ${timeoutMs} ms`);
  if (report === null) throw internal(`start ${request.name}: the monitor exited without a report`);
  throw errorOf(request, report);
}

async function whileHeld(monitor: Monitor, { held }: MonitorRequest, pid: number): Promise<void> {
  assert(held !== undefined, 'a plan with hold requires request.held');
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
    return internal(`start ${name}: the monitor rejected the plan: ${refusals[report.a] ?? report.a} (operation ${report.b})`);
  if (report.kind !== kinds.failed) return internal(`start ${name}: unknown report ${report.kind} from the monitor`);
  const op = operationOf(plan, report);
  const cause = new SyscallError(op?.note ?? stepOf(report, name), report.c);
  return new BerthError(codeOf(op, cause), `${cause.message}${hintOf(op, cause)}`, cause);
}

/** Returns a hint for errors whose text does not show the usual cause. */
function hintOf(op: Op | undefined, cause: SyscallError): string {
  if (op?.call === 'move_mount' && cause.code === 'EINVAL') return '; source and mount point must both be directories or both be files';
  // FUSE. ECONNABORTED if the process exited during the call.
  if (isErrno(cause, 'ENOTCONN', 'ECONNABORTED')) return '; the process that serves the file system has exited';
  return '';
}

function operationOf(plan: Plan, report: Report): Op | undefined {
  if (report.a === phases.parent) return plan.parent[report.b];
  return report.a === phases.child ? plan.child[report.b] : undefined;
}

const stepOf = (report: Report, name: string): string =>
  report.a === phases.supervise ? (superviseSteps[report.b] ?? 'supervise') : `clone the process of ${name}`;

/** Calls on paths in the container's root, and errors of these that image or pod cause: a retry does not help. */
const pathCalls: readonly string[] = ['openat2', 'mkdirat', 'mknodat', 'move_mount', 'expect_fs', 'refuse_fs', 'expect_device', 'expect_inside'];
const pathErrors: readonly string[] = ['ELOOP', 'ENOTDIR', 'EISDIR', 'ENOENT', 'EINVAL', 'EROFS', 'ENAMETOOLONG', 'EXDEV', 'ENODEV', 'EAGAIN'];

function codeOf(op: Op | undefined, cause: SyscallError): ErrorCode {
  if (op?.call === 'execve') return 'FAILED_PRECONDITION';
  if (op !== undefined && pathCalls.includes(op.call) && pathErrors.includes(cause.code)) return 'FAILED_PRECONDITION';
  if (op !== undefined && setsSysctl(op) && ['EINVAL', 'ERANGE'].includes(cause.code)) return 'INVALID_ARGUMENT';
  return isExhaustion(cause) ? 'RESOURCE_EXHAUSTED' : 'INTERNAL';
}

/** The value is the caller's; those of other writes are ours. */
const setsSysctl = (op: Op): boolean => op.call === 'setdomainname' || (op.call === 'write' && op.note.startsWith('set sysctl '));

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

/** Waits until a child of the daemon has exited, and reaps it. */
async function ended(pid: number): Promise<void> {
  const pidfd = pidfdOpen(pid);
  try {
    await whenReadable(pidfd);
    reap(pid);
  } finally {
    closeSync(pidfd);
  }
}

/** Timeout of a control request. A healthy monitor replies at once. */
const controlTimeoutMs = 5_000;
const frameBytes = 16;
const replyBytes = 8;
/** enum control of src/monitor/supervise.c. */
const controlOperations = { reopenLog: 1, resize: 2 } as const;

/**
 * Makes a container's monitor reopen its log file.
 *
 * @param directory contains the monitor's socket `control`.
 * @throws {BerthError} FAILED_PRECONDITION if no monitor listens; INTERNAL if the file cannot be opened (the old one stays in use).
 */
export async function reopenLog(directory: string): Promise<void> {
  await control(directory, [controlOperations.reopenLog, 0, 0, 0], 'reopen the log');
}

/** Sets the size of a container's terminal. @throws {BerthError} as reopenLog(); INTERNAL also if there is no terminal. */
export async function resizeTerminal(directory: string, size: { readonly rows: number; readonly columns: number }): Promise<void> {
  await control(directory, [controlOperations.resize, size.rows, size.columns, 0], 'resize the terminal');
}

async function control(directory: string, words: readonly number[], attempt: string): Promise<void> {
  const frame = Buffer.alloc(frameBytes);
  words.forEach((word, i) => {
    frame.writeUInt32LE(word, 4 * i);
  });
  const errno = (await sendRequest(directory, frame, attempt)).readInt32LE(4);
  if (errno === 0) return;
  const cause = new SyscallError(attempt, errno);
  throw internal(cause.message, cause);
}

/** Sends a frame and returns the reply of eight bytes. */
async function sendRequest(directory: string, frame: Buffer, attempt: string): Promise<Buffer> {
  let dir: number;
  try {
    dir = openSync(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  } catch (error) {
    throw failedPrecondition(`${attempt}: ${reasonOf(error)}`, error);
  }
  try {
    // Through the fd, because a socket path has at most 108 bytes: unix(7).
    return await exchange(`/proc/self/fd/${dir}/control`, frame, attempt);
  } finally {
    closeSync(dir);
  }
}

function exchange(path: string, frame: Buffer, attempt: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let reply: Buffer = Buffer.alloc(0);
    const socket = connect(path);
    const fail = (error: BerthError) => {
      socket.destroy();
      reject(error);
    };
    socket.setTimeout(controlTimeoutMs, () =>
      fail(new BerthError('DEADLINE_EXCEEDED', `${attempt}: no reply from the monitor within ${controlTimeoutMs} ms`)),
    );
    socket.on('error', (error) => fail(failedPrecondition(`${attempt}: connect to the monitor: ${error.message}`, error)));
    socket.on('close', () => fail(failedPrecondition(`${attempt}: the monitor exited`)));
    socket.on('data', (bytes: Buffer) => {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < replyBytes) return;
      resolve(reply);
      socket.destroy();
    });
    socket.write(frame);
  });
}

/** The record that a monitor writes when its container has exited. */
export type ExitRecord = Exit & {
  readonly pid: number;
  readonly finishedAtNs: bigint;
  readonly droppedLogBytes: number;
  /** Number of processes of its cgroup that the OOM killer has killed; null: the plan named no memory.events. */
  readonly oomKills: number | null;
};

/**
 * Reads `exit.json` in a directory.
 *
 * @returns null if it does not exist (yet).
 * @throws {BerthError} INTERNAL if the file cannot be read or is not an exit record.
 */
export async function readExitRecord(directory: string): Promise<ExitRecord | null> {
  let text: string;
  try {
    text = await readFile(join(directory, 'exit.json'), 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    throw failedTo(`read the exit record in ${directory}`, error);
  }
  try {
    return parseExitRecord(text);
  } catch (error) {
    throw failedTo(`read the exit record in ${directory}`, error);
  }
}

function parseExitRecord(text: string): ExitRecord {
  const record = JSON.parse(text) as Record<string, unknown>;
  if (record.version !== 1) throw internal(`unknown version ${record.version}`);
  const number = (name: string): number => {
    const value = record[name];
    if (!Number.isSafeInteger(value)) throw internal(`invalid or missing number ${name}`);
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
