/**
 * Runs one CNI plugin: finds the executable, passes its input, enforces the deadline, and turns a failure into a one-line error.
 *
 * Knows nothing about chains. Never runs a shell.
 */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, type ErrorCode, failedPrecondition, reasonOf } from '../lib/errors.ts';
import { type Trace, untraced } from '../lib/spans.ts';
import { type ProgramResult, runProgram } from '../sys/process/spawn.ts';
import type { NetworkList, PluginConfig } from './list.ts';
import { type Attachment, type Command, planConfig, planEnvironment } from './request.ts';
import { errorCode, excerpt, parseError } from './result.ts';

/** What all runs of plugins share. */
export type PluginHost = {
  /** Searched in this order. */
  readonly binDirs: readonly string[];
  /** `NAME=value`, in addition to the CNI variables. */
  readonly environment: readonly string[];
  /** Called at the end of each run, for metrics. */
  readonly observe?: (run: PluginRun) => void;
  /** Creates a span for each run. */
  readonly trace?: Trace;
};

/** `result`: `OK` or the error code. */
export type PluginRun = { readonly plugin: string; readonly command: Command; readonly result: ErrorCode | 'OK'; readonly seconds: number };

export type Invocation = {
  readonly command: Command;
  readonly list: NetworkList;
  readonly plugin: PluginConfig;
  readonly attachment?: Attachment;
  readonly prevResult?: unknown;
  readonly extras?: Readonly<Record<string, unknown>>;
  readonly deadline: Deadline;
};

/** When to stop: at `atMs`, a time of performance.now(), or earlier when `signal` is aborted. */
export type Deadline = { readonly atMs: number; readonly signal?: AbortSignal };

export type Outcome =
  | { readonly isOk: true; readonly stdout: string }
  /** `cniCode`: the code of the plugin's error object, or 0. */
  | { readonly isOk: false; readonly cniCode: number; readonly error: BerthError };

/** The limit of stdout and of stderr. Results have a few KiB; a faulty plugin must not exhaust memory. */
const outputBytesMax = 1024 * 1024;

/** The waits before the retries of a plugin that reports "try again later". */
const retryDelaysMs = [250, 500, 1000, 2000] as const;

/**
 * Runs a plugin. Retries a few times while it reports "try again later" and the deadline allows.
 * Never rejects because of the plugin.
 */
export async function invokePlugin(host: PluginHost, invocation: Invocation): Promise<Outcome> {
  for (const delayMs of [...retryDelaysMs, Number.POSITIVE_INFINITY]) {
    const outcome = await invokeObserved(host, invocation);
    const isTransient = !outcome.isOk && outcome.cniCode === errorCode.tryAgainLater;
    if (!isTransient || delayMs >= remainingMs(invocation.deadline)) return outcome;
    // An abort ends the wait; the next run then returns CANCELLED.
    await sleep(delayMs, undefined, invocation.deadline.signal ? { signal: invocation.deadline.signal } : {}).catch(() => {});
  }
  throw new Error('unreachable: the last delay is infinite');
}

function invokeObserved(host: PluginHost, invocation: Invocation): Promise<Outcome> {
  const { command, list, plugin } = invocation;
  return (host.trace ?? untraced)(`CNI ${command} ${plugin.type}`, async (span) => {
    span.set({ 'cni.command': command, 'cni.plugin': plugin.type, 'cni.network': list.name });
    const startedAtMs = performance.now();
    const outcome = await invokeOnce(host, invocation);
    const result = outcome.isOk ? 'OK' : outcome.error.code;
    host.observe?.({ plugin: plugin.type, command, result, seconds: (performance.now() - startedAtMs) / 1000 });
    if (!outcome.isOk) span.fail(outcome.error);
    return outcome;
  });
}

async function invokeOnce(host: PluginHost, invocation: Invocation): Promise<Outcome> {
  const { command, list, plugin, attachment, deadline } = invocation;
  const timeoutMs = remainingMs(deadline);
  if (deadline.signal?.aborted) return failed(invocation, 'CANCELLED', 'canceled by the caller');
  if (timeoutMs <= 0) return failed(invocation, 'DEADLINE_EXCEEDED', 'not started: deadline exceeded');
  const path = await findPlugin(host.binDirs, plugin.type);
  if (path === null) return failed(invocation, 'FAILED_PRECONDITION', missingText(host.binDirs, plugin.type));
  try {
    const run = await runProgram({
      path,
      argv: [path],
      env: planEnvironment(host.environment, command, host.binDirs, attachment),
      stdin: Buffer.from(command === 'VERSION' ? JSON.stringify({ cniVersion: list.version }) : planConfig(list, plugin, invocation)),
      timeoutMs,
      outputBytesMax,
      ...(deadline.signal === undefined ? {} : { signal: deadline.signal }),
    });
    return outcomeOf(invocation, run, timeoutMs);
  } catch (error) {
    return failed(invocation, 'INTERNAL', reasonOf(error), error);
  }
}

function outcomeOf(invocation: Invocation, run: ProgramResult, timeoutMs: number): Outcome {
  if (run.timedOut && invocation.deadline.signal?.aborted) return failed(invocation, 'CANCELLED', 'canceled by the caller');
  if (run.timedOut) return failed(invocation, 'DEADLINE_EXCEEDED', `no answer within ${Math.round(timeoutMs)} ms${outputText(run)}`);
  // runProgram() truncates the output to the limit.
  if (run.stdout.length >= outputBytesMax) return failed(invocation, 'INTERNAL', `stdout exceeds ${outputBytesMax} bytes`);
  const stdout = run.stdout.toString();
  if (run.exitCode === 0) return { isOk: true, stdout };
  const error = parseError(stdout);
  if (error === null) return failed(invocation, 'INTERNAL', `${exitText(run)}${outputText(run)}`);
  const text = [excerpt(error.msg), error.details === '' ? '' : `(${excerpt(error.details)})`].filter((part) => part !== '').join(' ');
  const code = error.code === errorCode.tryAgainLater ? 'UNAVAILABLE' : 'INTERNAL';
  return { ...failed(invocation, code, text || `error code ${error.code}${outputText(run)}`), cniCode: error.code };
}

function exitText({ exitCode, signal }: ProgramResult): string {
  return exitCode === null ? `killed by ${signal}` : `exit code ${exitCode}`;
}

/** Plugins that fail without an error object print the reason to stderr, or as text to stdout. */
function outputText({ stderr, stdout }: ProgramResult): string {
  const output = excerpt(stderr.toString()) || excerpt(stdout.toString());
  return output === '' ? '' : `: ${output}`;
}

function failed({ command, list, plugin }: Invocation, code: ErrorCode, reason: string, cause?: unknown): Outcome & { isOk: false } {
  const error = new BerthError(code, `CNI plugin ${plugin.type} (network ${list.name}): ${command} failed: ${reason}`, cause);
  return { isOk: false, cniCode: 0, error };
}

/** Returns the milliseconds until the deadline; zero or less when it has passed. */
export function remainingMs(deadline: Deadline): number {
  return deadline.atMs - performance.now();
}

/** Returns the path of the first executable file named `type`, or null. */
export async function findPlugin(binDirs: readonly string[], type: string): Promise<string | null> {
  for (const dir of binDirs) {
    const path = join(dir, type);
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return path;
    } catch {
      // Not here: try the next directory.
    }
  }
  return null;
}

/** Checks that all plugins of the list are installed. @throws {BerthError} FAILED_PRECONDITION with the first missing one. */
export async function requirePlugins(binDirs: readonly string[], list: NetworkList): Promise<void> {
  for (const type of list.plugins.flatMap((plugin) => [plugin.type, plugin.ipamType])) {
    if (type !== '' && (await findPlugin(binDirs, type)) === null) throw failedPrecondition(missingText(binDirs, type));
  }
}

function missingText(binDirs: readonly string[], type: string): string {
  return `no executable "${type}" in ${binDirs.join(', ')}`;
}
