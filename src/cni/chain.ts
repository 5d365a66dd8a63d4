/**
 * Runs the plugins of a list for one command, in the order and with the results that the CNI specification requires (1.1.0, section 3).
 *
 * Knows neither files nor the cache.
 */

import { BerthError } from '../lib/errors.ts';
import type { JsonObject } from '../lib/go-json.ts';
import { type Deadline, type Invocation, invokePlugin, type PluginHost, remainingMs } from './invoke.ts';
import type { NetworkList } from './list.ts';
import type { Attachment } from './request.ts';
import { errorCode, parseResult } from './result.ts';
import { isAtLeast } from './version.ts';

/**
 * Runs ADD: first to last, each plugin with the result of the previous one. Stops at the first failure.
 *
 * @param request.onResult awaited after each plugin except the last, so that a DEL after a crash has the result of the plugins that ran.
 * @returns the last plugin's result.
 * @throws {BerthError} of the plugin that failed.
 */
export async function addChain(
  host: PluginHost,
  request: {
    readonly list: NetworkList;
    readonly attachment: Attachment;
    readonly deadline: Deadline;
    readonly onResult: (result: JsonObject) => Promise<void>;
  },
): Promise<JsonObject> {
  const { list, attachment, deadline } = request;
  let result: JsonObject | undefined;
  for (const plugin of list.plugins) {
    if (result !== undefined) await request.onResult(result);
    const stdout = await invokeOrThrow(host, { command: 'ADD', list, plugin, attachment, prevResult: result, deadline });
    result = withPluginName(list, plugin.type, 'ADD', () => parseResult(stdout, list.version));
  }
  return result as JsonObject;
}

/**
 * Runs DEL: last to first. A failure does not stop the others; each plugin gets an equal share of the remaining time.
 *
 * @param request.result the result of ADD, or of the last plugin that succeeded.
 * @throws {BerthError} with the joined messages of all failures.
 */
export async function deleteChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly attachment: Attachment; readonly result: JsonObject | undefined; readonly timeoutMs: number },
): Promise<void> {
  const { list, attachment } = request;
  // Introduced by 0.4.0.
  const prevResult = isAtLeast(list.version, '0.4.0') ? request.result : undefined;
  const end: Deadline = { atMs: performance.now() + request.timeoutMs };
  const errors: BerthError[] = [];
  for (const [i, plugin] of [...list.plugins.entries()].reverse()) {
    // A plugin that hangs must not use the time of the others. The first plugin has most to do: it runs last and gets all remaining time.
    const deadline = { atMs: performance.now() + remainingMs(end) / (i + 1) };
    const outcome = await invokePlugin(host, { command: 'DEL', list, plugin, attachment, prevResult, deadline });
    // By the specification, "container unknown" means that nothing is left to clean up.
    if (!outcome.isOk && outcome.cniCode !== errorCode.containerUnknown) errors.push(outcome.error);
  }
  if (errors.length > 0) throw joinErrors(errors);
}

/** Runs CHECK: first to last, each with the result of ADD. Does nothing when the list disables CHECK or its version has none. */
export async function checkChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly attachment: Attachment; readonly result: JsonObject | undefined; readonly deadline: Deadline },
): Promise<void> {
  const { list, attachment, result, deadline } = request;
  if (list.isCheckDisabled || !isAtLeast(list.version, '0.4.0')) return;
  for (const plugin of list.plugins) await invokeOrThrow(host, { command: 'CHECK', list, plugin, attachment, prevResult: result, deadline });
}

/** Runs STATUS: first to last. Does nothing when the version of the list has no STATUS. @throws {BerthError} of the first plugin that is not ready. */
export async function statusChain(host: PluginHost, list: NetworkList, timeoutMs: number): Promise<void> {
  if (!isAtLeast(list.version, '1.1.0')) return;
  const deadline = { atMs: performance.now() + timeoutMs };
  for (const plugin of list.plugins) await invokeOrThrow(host, { command: 'STATUS', list, plugin, deadline });
}

/**
 * Runs GC of every plugin with the list of valid attachments. Does nothing when the list disables GC or its version has none.
 *
 * @throws {BerthError} with the joined messages of all failures.
 */
export async function collectChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly valid: readonly { containerID: string; ifname: string }[]; readonly timeoutMs: number },
): Promise<void> {
  const { list, valid } = request;
  if (list.isGcDisabled || !isAtLeast(list.version, '1.1.0')) return;
  const deadline = { atMs: performance.now() + request.timeoutMs };
  // The second key is the one that libcni wrote before the specification chose the first; plugins read either.
  const extras = { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid };
  const errors: BerthError[] = [];
  for (const plugin of list.plugins) {
    const outcome = await invokePlugin(host, { command: 'GC', list, plugin, extras, deadline });
    if (!outcome.isOk) errors.push(outcome.error);
  }
  if (errors.length > 0) throw joinErrors(errors);
}

async function invokeOrThrow(host: PluginHost, invocation: Invocation): Promise<string> {
  const outcome = await invokePlugin(host, invocation);
  if (!outcome.isOk) throw outcome.error;
  return outcome.stdout;
}

function withPluginName<T>(list: NetworkList, type: string, command: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof BerthError)) throw error;
    throw new BerthError(error.code, `CNI plugin ${type} (network ${list.name}): ${command} failed: ${error.message}`, error);
  }
}

function joinErrors(errors: readonly BerthError[]): BerthError {
  const [first] = errors as readonly [BerthError];
  return errors.length === 1 ? first : new BerthError(first.code, errors.map((error) => error.message).join('; '), new AggregateError(errors));
}
