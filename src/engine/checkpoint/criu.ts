/**
 * criu, the program that saves processes: found on the node, tried on its kernel, and asked for a dump. Without it there are no checkpoints.
 */
import { accessSync, closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { BerthError, internal, reasonOf } from '../../lib/errors.ts';
import { packetSockets } from '../../sys/call/syscalls.ts';
import { collect, type ProgramResult, runProgram } from '../../sys/process/spawn.ts';
import { type DumpRequest, decodeDumpAnswer, dumpLogFile, encodeDumpRequest, errorsOfLog } from './criu-request.ts';

/** The program's path or name, and where a name is looked for, as in PATH. */
export type CriuSettings = { readonly program: string; readonly searchPath: string };

export type FoundCriu = { readonly path: string; readonly environment: readonly string[] };

const checkTimeoutMs = 30_000;
const outputBytesMax = 256 * 1024;
/** Of a log that can be long only the end says why. */
const logBytesMax = 1024 * 1024;

/** @returns criu, or why there are no checkpoints on this node and what to do. It is asked anew each time: it may be installed or upgraded any day. */
export async function findCriu({ program, searchPath }: CriuSettings): Promise<FoundCriu | { readonly lack: string }> {
  const path = candidates(program, searchPath).find(isExecutable);
  if (path === undefined) {
    return { lack: `the program ${program} is not on this node; install criu (Debian, Ubuntu, Fedora: package criu), or set criu to where it is` };
  }
  const found = { path, environment: [`PATH=${searchPath}`] };
  const { exitCode, stdout, stderr, timedOut } = await run(found, ['check'], {}).catch(failedRun);
  if (exitCode === 0) return found;
  const reason = timedOut
    ? `no answer within ${checkTimeoutMs / 1000} s`
    : errorsOfLog(`${stdout}\n${stderr}`) || stderr.toString().trim().split('\n').pop();
  return {
    lack: `${path} cannot save processes on kernel ${release()}: ${reason || `exit code ${exitCode}`}; install a newer criu, and see criu check`,
  };
}

const failedRun = (error: unknown): ProgramResult => ({
  exitCode: null,
  signal: null,
  stdout: Buffer.alloc(0),
  stderr: Buffer.from(reasonOf(error)),
  timedOut: false,
});

function candidates(program: string, searchPath: string): string[] {
  if (program.includes('/')) return [program];
  return searchPath.split(':').flatMap((directory) => (directory === '' ? [] : [join(directory, program)]));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

type RunOptions = {
  readonly moreFds?: readonly number[];
  readonly onStart?: (pid: number) => void;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
};

function run({ path, environment }: FoundCriu, args: readonly string[], options: RunOptions): Promise<ProgramResult> {
  return runProgram({
    path,
    argv: ['criu', ...args],
    env: environment,
    stdin: Buffer.alloc(0),
    timeoutMs: checkTimeoutMs,
    outputBytesMax,
    ...options,
  });
}

export type Dump = Omit<DumpRequest, 'imagesDirFd' | 'workDirFd'> & {
  /** Get the images; the log and the counts. */
  readonly imagesDir: string;
  readonly workDir: string;
  /** Told of criu's pid before anything is asked of it. */
  readonly onStart: (pid: number) => void;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

/**
 * Saves a tree of processes, which runs on. When criu is killed in the middle, it does too: what criu put into the processes ends with their connection to it.
 *
 * @throws {BerthError} INTERNAL with criu's own words, RESOURCE_EXHAUSTED when the disk is full. An abort has its reason in the signal.
 */
export async function dumpProcesses(criu: FoundCriu, dump: Dump): Promise<void> {
  const directories = [openSync(dump.imagesDir, 'r'), openSync(dump.workDir, 'r')] as const;
  const [ours, theirs] = packetSockets();
  const answer = collect(ours, outputBytesMax);
  try {
    const request = encodeDumpRequest({ ...dump, imagesDirFd: directories[0], workDirFd: directories[1] });
    const onStart = (pid: number) => {
      dump.onStart(pid);
      writeSync(ours, request);
    };
    const { exitCode, stderr } = await run(criu, ['swrk', '3'], { moreFds: [theirs], onStart, timeoutMs: dump.timeoutMs, signal: dump.signal });
    const answered = decodeDumpAnswer(answer.finish());
    if (answered?.isDone === true && exitCode === 0) return;
    const log = readEnd(join(dump.workDir, dumpLogFile));
    const reason = errorsOfLog(log) || answered?.message || errorsOfLog(stderr.toString()) || `criu ended with ${exitCode}`;
    throw /No space left on device/.test(log) ? new BerthError('RESOURCE_EXHAUSTED', `criu: ${reason}`) : internal(`criu: ${reason}`);
  } finally {
    answer.finish();
    for (const fd of [theirs, ...directories]) closeSync(fd);
  }
}

function readEnd(path: string): string {
  try {
    return readFileSync(path).subarray(-logBytesMax).toString();
  } catch {
    return '';
  }
}
