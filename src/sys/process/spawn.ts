/**
 * Starts programs with posix_spawn(3), whose cost does not depend on the daemon's size. Node's spawn copies its page tables and blocks the event loop.
 *
 * A child gets only the given fds, default signal dispositions, an empty signal mask, and its own session.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { internal } from '../../lib/errors.ts';
import { isErrno, libc, SyscallError } from '../call/ffi.ts';
import { close, memfd, pidfdOpen, pidfdSendSignal, pipe } from '../call/syscalls.ts';
import { onReadable, reap, whenReadable } from './processes.ts';

const c_spawn = libc.func('int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)');
const c_actionsInit = libc.func('int posix_spawn_file_actions_init(void *actions)');
const c_actionsDestroy = libc.func('int posix_spawn_file_actions_destroy(void *actions)');
const c_addDup2 = libc.func('int posix_spawn_file_actions_adddup2(void *actions, int fd, int newfd)');
const c_addCloseFrom = libc.func('int posix_spawn_file_actions_addclosefrom_np(void *actions, int from)');
const c_addChdir = libc.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)');
const c_attrInit = libc.func('int posix_spawnattr_init(void *attributes)');
const c_attrDestroy = libc.func('int posix_spawnattr_destroy(void *attributes)');
const c_attrFlags = libc.func('int posix_spawnattr_setflags(void *attributes, short flags)');
const c_attrDefaults = libc.func('int posix_spawnattr_setsigdefault(void *attributes, void *set)');
const c_attrMask = libc.func('int posix_spawnattr_setsigmask(void *attributes, void *set)');

const POSIX_SPAWN_SETSIGDEF = 0x04;
const POSIX_SPAWN_SETSIGMASK = 0x08;
const POSIX_SPAWN_SETSID = 0x80;
/** glibc's opaque structs have 80 and 336 bytes on 64-bit machines; these sizes leave room. */
const actionsBytes = 256;
const attributesBytes = 512;
const signalSetBytes = 128;

export type SpawnRequest = {
  /** Absolute path of the program. */
  readonly path: string;
  readonly argv: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** The child's fd i is a copy of fds[i]. It has no others. */
  readonly fds: readonly number[];
  readonly cwd?: string;
};

/**
 * Starts a program. The caller must reap it.
 * @returns its pid.
 * @throws {SyscallError} with the errno of posix_spawn, e.g. ENOENT for the program.
 */
export function spawnProcess(request: SpawnRequest): number {
  const actions = Buffer.alloc(actionsBytes);
  const attributes = Buffer.alloc(attributesBytes);
  c_actionsInit(actions);
  c_attrInit(attributes);
  try {
    planFds(actions, request.fds);
    if (request.cwd !== undefined) c_addChdir(actions, request.cwd);
    c_attrDefaults(attributes, Buffer.alloc(signalSetBytes, 0xff));
    c_attrMask(attributes, Buffer.alloc(signalSetBytes));
    c_attrFlags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    const pid = [0];
    const errno: number = c_spawn(pid, request.path, actions, attributes, [...request.argv, null], [...request.env, null]);
    if (errno !== 0) throw new SyscallError(`start ${request.path}`, errno);
    return pid[0] as number;
  } finally {
    c_actionsDestroy(actions);
    c_attrDestroy(attributes);
  }
}

/** Copies the fds above all numbers in use, then down to their targets, so that no copy overwrites an fd that is still needed. */
function planFds(actions: Buffer, fds: readonly number[]): void {
  const above = Math.max(fds.length, ...fds.map((fd) => fd + 1));
  fds.forEach((fd, i) => {
    c_addDup2(actions, fd, above + i);
  });
  fds.forEach((_, i) => {
    c_addDup2(actions, above + i, i);
  });
  c_addCloseFrom(actions, fds.length);
}

export type ProgramRequest = {
  readonly path: string;
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly stdin: Uint8Array;
  /** Its fds from 3 on. The caller closes them. */
  readonly moreFds?: readonly number[];
  /** Called as soon as the program is started. */
  readonly onStart?: (pid: number) => void;
  readonly timeoutMs: number;
  /** Limit for each of stdout and stderr. Output beyond it is discarded. */
  readonly outputBytesMax: number;
  /** Kills the program when aborted. */
  readonly signal?: AbortSignal;
};

export type ProgramResult = {
  /** Null if it was killed by a signal. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** True if it was killed because of the timeout or the abort signal. */
  readonly timedOut: boolean;
};

/**
 * Runs a program and waits for its end. Its input is in memory. After the timeout it is killed with its process group.
 * @throws {SyscallError} if it cannot be started.
 */
export async function runProgram(request: ProgramRequest): Promise<ProgramResult> {
  const stdin = inputFile(request.stdin);
  const [out, outEnd] = pipe();
  const [err, errEnd] = pipe();
  let pid: number;
  try {
    pid = spawnProcess({ path: request.path, argv: request.argv, env: request.env, fds: [stdin, outEnd, errEnd, ...(request.moreFds ?? [])] });
  } catch (error) {
    for (const fd of [out, err]) close(fd);
    throw error;
  } finally {
    for (const fd of [stdin, outEnd, errEnd]) close(fd);
  }
  request.onStart?.(pid);
  const stdout = collect(out, request.outputBytesMax);
  const stderr = collect(err, request.outputBytesMax);
  const { status, timedOut } = await ended(pid, request);
  // A grandchild may keep the pipes open, but everything that the program wrote is in them now.
  return { ...decodeWaitStatus(status), stdout: stdout.finish(), stderr: stderr.finish(), timedOut };
}

function inputFile(bytes: Uint8Array): number {
  if (bytes.length === 0) return openSync('/dev/null', 'r');
  const fd = memfd('stdin');
  writeSync(fd, bytes);
  // A new open file description, which is read-only and starts at offset 0.
  const reader = openSync(`/proc/self/fd/${fd}`, 'r');
  close(fd);
  return reader;
}

async function ended(pid: number, request: ProgramRequest): Promise<{ status: number; timedOut: boolean }> {
  const pidfd = pidfdOpen(pid);
  let timedOut = false;
  const kill = () => {
    timedOut = true;
    try {
      // It is a session leader, so its pid is also the id of its process group, which exists until it is reaped.
      process.kill(-pid, 'SIGKILL');
      pidfdSendSignal(pidfd, constants.signals.SIGKILL);
    } catch (error) {
      if (!isErrno(error, 'ESRCH')) throw error;
    }
  };
  const timer = setTimeout(kill, request.timeoutMs);
  request.signal?.addEventListener('abort', kill, { once: true });
  if (request.signal?.aborted) kill();
  try {
    await whenReadable(pidfd);
    const status = reap(pid);
    if (status === null) throw internal(`wait for ${request.path}: process ${pid} was already reaped`);
    return { status, timedOut };
  } finally {
    clearTimeout(timer);
    request.signal?.removeEventListener('abort', kill);
    close(pidfd);
  }
}

const blockBytes = 65_536;
/** Where output beyond a limit is read to. Never read. */
const discarded = Buffer.allocUnsafe(blockBytes);

/**
 * Collects data from a non-blocking pipe, up to a limit. `finish` reads the remaining data and closes the pipe.
 *
 * In blocks: a program that writes its output byte by byte would otherwise cost a buffer object, of some hundred bytes, for each of them.
 */
export function collect(fd: number, bytesMax: number): { finish: () => Buffer; ended: Promise<void> } {
  const full: Buffer[] = [];
  let block = Buffer.allocUnsafe(blockBytes);
  let used = 0;
  let kept = 0;
  let result: Buffer | undefined;
  let isClosed = false;
  let stop = () => {};
  let resolveEnded = () => {};
  const ended = new Promise<void>((resolve) => {
    resolveEnded = resolve;
  });

  /** @returns false at the end of the pipe. */
  const drain = (): boolean => {
    for (;;) {
      let count: number;
      try {
        count = readSync(fd, kept < bytesMax ? block.subarray(used) : discarded);
      } catch (error) {
        if (isErrno(error, 'EAGAIN')) return true;
        throw error;
      }
      if (count === 0) return false;
      const taken = Math.min(count, bytesMax - kept);
      used += taken;
      kept += taken;
      if (used < blockBytes) continue;
      full.push(block);
      block = Buffer.allocUnsafe(blockBytes);
      used = 0;
    }
  };
  const finish = (): Buffer => {
    if (!isClosed) {
      isClosed = true;
      stop();
      drain();
      closeSync(fd);
      resolveEnded();
    }
    result ??= Buffer.concat([...full, block.subarray(0, used)]);
    return result;
  };
  const watch = () => {
    stop = onReadable(fd, () => {
      if (isClosed) return;
      if (drain()) watch();
      else resolveEnded();
    });
  };
  watch();
  return { finish, ended };
}

const signalNames = new Map(Object.entries(constants.signals).map(([name, number]) => [number as number, name]));

/** Decodes a wait status of waitpid(2) to an exit code or signal name. */
function decodeWaitStatus(status: number): { exitCode: number | null; signal: string | null } {
  const signal = status & 0x7f;
  if (signal === 0) return { exitCode: (status >> 8) & 0xff, signal: null };
  return { exitCode: null, signal: signalNames.get(signal) ?? `signal ${signal}` };
}
