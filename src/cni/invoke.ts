/**
 * Runs one CNI plugin once: finds it, feeds it, waits no longer than allowed, and says in one line what went wrong.
 *
 * Knows nothing of chains. Never runs a shell.
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

/** What every run of a plugin needs. */
export type PluginHost = {
  /** Searched in this order. */
  readonly binDirs: readonly string[];
  /** `NAME=value`, besides the CNI variables. */
  readonly environment: readonly string[];
  /** For metrics: told of each run of a plugin when it ends. */
  readonly observe?: (run: PluginRun) => void;
  /** Each run is a span. */
  readonly trace?: Trace;
};

/** `result`: `OK`, or the code of the failure. */
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

/** When to give up: at a time of performance.now(), or earlier, when the caller does. */
export type Deadline = { readonly atMs: number; readonly signal?: AbortSignal };

export type Outcome =
  | { readonly isOk: true; readonly stdout: string }
  /** `cniCode`: of the plugin's own error, or 0. */
  | { readonly isOk: false; readonly cniCode: number; readonly error: BerthError };

/** Of each output of a plugin: results are a few KiB, and a plugin gone wrong must not fill memory. */
const outputBytesMax = 1024 * 1024;

/** Waits before asking again a plugin that said "try again later". */
const retryDelaysMs = [250, 500, 1000, 2000] as const;

/**
 * Runs a plugin, and again a few times while it says "try again later" and the deadline allows.
 * Never rejects for what the plugin does.
 */
export async function invokePlugin(host: PluginHost, invocation: Invocation): Promise<Outcome> {
  for (const delayMs of [...retryDelaysMs, Number.POSITIVE_INFINITY]) {
    const outcome = await invokeObserved(host, invocation);
    const isTransient = !outcome.isOk && outcome.cniCode === errorCode.tryAgainLater;
    if (!isTransient || delayMs >= remainingMs(invocation.deadline)) return outcome;
    // An abort ends the wait; the next run then says so.
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
  if (deadline.signal?.aborted) return failed(invocation, 'CANCELLED', 'the caller gave up');
  if (timeoutMs <= 0) return failed(invocation, 'DEADLINE_EXCEEDED', 'no time left');
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
  if (run.timedOut && invocation.deadline.signal?.aborted) return failed(invocation, 'CANCELLED', 'the caller gave up');
  if (run.timedOut) return failed(invocation, 'DEADLINE_EXCEEDED', `no answer within ${Math.round(timeoutMs)} ms${tail(run)}`);
  // runProgram() drops what is above the bound.
  if (run.stdout.length >= outputBytesMax) return failed(invocation, 'INTERNAL', `its output is longer than ${outputBytesMax} bytes`);
  const stdout = run.stdout.toString();
  if (run.exitCode === 0) return { isOk: true, stdout };
  const error = parseError(stdout);
  if (error === null) return failed(invocation, 'INTERNAL', `${ending(run)}${tail(run)}`);
  const text = [excerpt(error.msg), error.details === '' ? '' : `(${excerpt(error.details)})`].filter((part) => part !== '').join(' ');
  const code = error.code === errorCode.tryAgainLater ? 'UNAVAILABLE' : 'INTERNAL';
  return { ...failed(invocation, code, text || `error code ${error.code}${tail(run)}`), cniCode: error.code };
}

function ending({ exitCode, signal }: ProgramResult): string {
  return exitCode === null ? `killed by ${signal}` : `exit code ${exitCode}`;
}

/** Plugins that fail without an error object say why on stderr, or as text on stdout. */
function tail({ stderr, stdout }: ProgramResult): string {
  const said = excerpt(stderr.toString()) || excerpt(stdout.toString());
  return said === '' ? '' : `: ${said}`;
}

function failed({ command, list, plugin }: Invocation, code: ErrorCode, reason: string, cause?: unknown): Outcome & { isOk: false } {
  const error = new BerthError(code, `CNI plugin ${plugin.type} (network ${list.name}): ${command} failed: ${reason}`, cause);
  return { isOk: false, cniCode: 0, error };
}

/** Milliseconds until the deadline; not above zero when it has passed. */
export function remainingMs(deadline: Deadline): number {
  return deadline.atMs - performance.now();
}

/** The path of the first executable file of that name, or null. */
export async function findPlugin(binDirs: readonly string[], type: string): Promise<string | null> {
  for (const dir of binDirs) {
    const path = join(dir, type);
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return path;
    } catch {
      // Not here: the next directory may have it.
    }
  }
  return null;
}

/** @throws {BerthError} FAILED_PRECONDITION naming the first plugin of the list that is not installed. */
export async function requirePlugins(binDirs: readonly string[], list: NetworkList): Promise<void> {
  for (const type of list.plugins.flatMap((plugin) => [plugin.type, plugin.ipamType])) {
    if (type !== '' && (await findPlugin(binDirs, type)) === null) throw failedPrecondition(missingText(binDirs, type));
  }
}

function missingText(binDirs: readonly string[], type: string): string {
  return `no executable "${type}" in ${binDirs.join(', ')}`;
}
