/**
 * Finds criu, the program that saves processes, checks that it supports the kernel, and runs dumps. Checkpoints require it.
 */
import { accessSync, closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { BerthError, internal, reasonOf } from '../../lib/errors.ts';
import { packetSockets } from '../../sys/call/syscalls.ts';
import { collect, type ProgramResult, runProgram } from '../../sys/process/spawn.ts';
import { type DumpRequest, decodeDumpAnswer, dumpLogFile, encodeDumpRequest, errorsOfLog } from './criu-request.ts';

/** Path or name of the program, and the directories to search for a name, as in PATH. */
export type CriuSettings = { readonly program: string; readonly searchPath: string };

export type FoundCriu = { readonly path: string; readonly environment: readonly string[] };

const checkTimeoutMs = 30_000;
const outputBytesMax = 256 * 1024;
/** Only the end of a long log is read: it contains the cause. */
const logBytesMax = 1024 * 1024;

/** Returns criu, or why checkpoints do not work on this node and how to fix it. Not cached: criu can be installed or upgraded at any time. */
export async function findCriu({ program, searchPath }: CriuSettings): Promise<FoundCriu | { readonly lack: string }> {
  const path = candidates(program, searchPath).find(isExecutable);
  if (path === undefined) {
    return { lack: `${program} not found; install criu (Debian, Ubuntu, Fedora: package criu), or set criu to its path` };
  }
  const found = { path, environment: [`PATH=${searchPath}`] };
  const { exitCode, stdout, stderr, timedOut } = await run(found, ['check'], {}).catch(failedRun);
  if (exitCode === 0) return found;
  const reason = timedOut
    ? `timeout after ${checkTimeoutMs / 1000} s`
    : errorsOfLog(`${stdout}\n${stderr}`) || stderr.toString().trim().split('\n').pop();
  return {
    lack: `${path} does not support kernel ${release()}: ${reason || `exit code ${exitCode}`}; install a newer criu, and run criu check`,
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
  /** Directory for the images. */
  readonly imagesDir: string;
  /** Directory for the log and the statistics. */
  readonly workDir: string;
  /** Called with criu's pid before the request is sent. */
  readonly onStart: (pid: number) => void;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

/**
 * Saves a process tree. The processes keep running, even if criu is killed while it reads them: the code that criu injects into them removes itself when
 * its connection to criu closes. At the moment of the injection itself, a kill can break them.
 *
 * @throws {BerthError} INTERNAL with criu's error message, RESOURCE_EXHAUSTED if the disk is full. After an abort, the signal has the reason.
 */
export async function dumpProcesses(criu: FoundCriu, dump: Dump): Promise<void> {
  const opened: number[] = [];
  const open = (path: string): number => {
    const fd = openSync(path, 'r');
    opened.push(fd);
    return fd;
  };
  let answer: ReturnType<typeof collect> | undefined;
  try {
    const request = encodeDumpRequest({ ...dump, imagesDirFd: open(dump.imagesDir), workDirFd: open(dump.workDir) });
    const [ours, theirs] = packetSockets();
    opened.push(theirs);
    answer = collect(ours, outputBytesMax);
    const onStart = (pid: number) => {
      dump.onStart(pid);
      writeSync(ours, request);
    };
    const { exitCode, stderr } = await run(criu, ['swrk', '3'], { moreFds: [theirs], onStart, timeoutMs: dump.timeoutMs, signal: dump.signal });
    const response = decodeDumpAnswer(answer.finish());
    if (response?.isDone === true && exitCode === 0) return;
    const log = readEnd(join(dump.workDir, dumpLogFile));
    const reason = errorsOfLog(log) || response?.message || errorsOfLog(stderr.toString()) || `exit code ${exitCode}`;
    throw /No space left on device/.test(log) ? new BerthError('RESOURCE_EXHAUSTED', `criu: ${reason}`) : internal(`criu: ${reason}`);
  } finally {
    answer?.finish();
    for (const fd of opened) closeSync(fd);
  }
}

function readEnd(path: string): string {
  try {
    return readFileSync(path).subarray(-logBytesMax).toString();
  } catch {
    return '';
  }
}
