/**
 * Runs a list's plugins for one command, in the order and with the results that the CNI specification wants (1.1.0, section 3).
 *
 * Knows neither files nor the cache.
 */
import { BerthError } from '../lib/errors.ts';
import { type Deadline, type Invocation, invokePlugin, type PluginHost, remainingMs } from './invoke.ts';
import type { JsonObject, NetworkList } from './list.ts';
import type { Attachment } from './request.ts';
import { errorCode, parseResult } from './result.ts';
import { isAtLeast } from './version.ts';

/**
 * ADD: first to last, each with the result of the one before. Ends at the first failure.
 *
 * @param onResult awaited after each plugin but the last, so that a DEL after a crash has what the plugins left behind.
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
    const stdout = await succeed(host, { command: 'ADD', list, plugin, attachment, prevResult: result, deadline });
    result = named(list, plugin.type, 'ADD', () => parseResult(stdout, list.version));
  }
  return result as JsonObject;
}

/**
 * DEL: last to first, every plugin whatever the others do, each with a fair part of the time that is left.
 *
 * @param result of ADD, or of the last plugin that got so far.
 * @throws {BerthError} that joins the failures' messages.
 */
export async function deleteChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly attachment: Attachment; readonly result: JsonObject | undefined; readonly timeoutMs: number },
): Promise<void> {
  const { list, attachment } = request;
  // 0.4.0 introduced it.
  const prevResult = isAtLeast(list.version, '0.4.0') ? request.result : undefined;
  const end: Deadline = { atMs: performance.now() + request.timeoutMs };
  const errors: BerthError[] = [];
  for (const [i, plugin] of [...list.plugins.entries()].reverse()) {
    // One that hangs must not cost the others their turn; the first plugin, which has most to do, is last and gets all that is left.
    const deadline = { atMs: performance.now() + remainingMs(end) / (i + 1) };
    const outcome = await invokePlugin(host, { command: 'DEL', list, plugin, attachment, prevResult, deadline });
    // "Container unknown" means, by the specification, that nothing is left to clean up.
    if (!outcome.isOk && outcome.cniCode !== errorCode.containerUnknown) errors.push(outcome.error);
  }
  if (errors.length > 0) throw joined(errors);
}

/** CHECK: first to last, each with the result of ADD. Does nothing where the list forbids it or is older than CHECK. */
export async function checkChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly attachment: Attachment; readonly result: JsonObject | undefined; readonly deadline: Deadline },
): Promise<void> {
  const { list, attachment, result, deadline } = request;
  if (list.isCheckDisabled || !isAtLeast(list.version, '0.4.0')) return;
  for (const plugin of list.plugins) await succeed(host, { command: 'CHECK', list, plugin, attachment, prevResult: result, deadline });
}

/** STATUS: first to last. Does nothing for lists older than it. @throws {BerthError} of the first plugin that cannot serve ADD. */
export async function statusChain(host: PluginHost, list: NetworkList, timeoutMs: number): Promise<void> {
  if (!isAtLeast(list.version, '1.1.0')) return;
  const deadline = { atMs: performance.now() + timeoutMs };
  for (const plugin of list.plugins) await succeed(host, { command: 'STATUS', list, plugin, deadline });
}

/**
 * GC: every plugin, told which attachments are still valid. Does nothing where the list forbids it or is older than GC.
 *
 * @throws {BerthError} that joins the failures' messages.
 */
export async function collectChain(
  host: PluginHost,
  request: { readonly list: NetworkList; readonly valid: readonly { containerID: string; ifname: string }[]; readonly timeoutMs: number },
): Promise<void> {
  const { list, valid } = request;
  if (list.isGcDisabled || !isAtLeast(list.version, '1.1.0')) return;
  const deadline = { atMs: performance.now() + request.timeoutMs };
  // The second key is what the reference library wrote before the specification's name was settled; plugins read either.
  const extras = { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid };
  const errors: BerthError[] = [];
  for (const plugin of list.plugins) {
    const outcome = await invokePlugin(host, { command: 'GC', list, plugin, extras, deadline });
    if (!outcome.isOk) errors.push(outcome.error);
  }
  if (errors.length > 0) throw joined(errors);
}

async function succeed(host: PluginHost, invocation: Invocation): Promise<string> {
  const outcome = await invokePlugin(host, invocation);
  if (!outcome.isOk) throw outcome.error;
  return outcome.stdout;
}

function named<T>(list: NetworkList, type: string, command: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof BerthError)) throw error;
    throw new BerthError(error.code, `CNI plugin ${type} (network ${list.name}): ${command} failed: ${error.message}`, error);
  }
}

function joined(errors: readonly BerthError[]): BerthError {
  const [first] = errors as readonly [BerthError];
  return errors.length === 1 ? first : new BerthError(first.code, errors.map((error) => error.message).join('; '), new AggregateError(errors));
}
