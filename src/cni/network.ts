/**
 * A sandbox's network by CNI: what the engine knows as `Network`.
 *
 * An attachment is on disk before its first plugin runs and until its last DEL has succeeded; undoing a failed ADD is the same DEL.
 * Never touches a namespace or an interface itself: `lo` is the engine's.
 */
import { statfs } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Network, NetworkAttachment, NetworkResult } from '../engine/state/spec.ts';
import { failedPrecondition, failedTo, notFound, reasonOf } from '../lib/errors.ts';
import type { Trace } from '../lib/spans.ts';
import { killByEnvironment } from '../sys/process/process-environment.ts';
import { type Cache, openCache, type StoredEntry } from './cache.ts';
import type { CacheEntry } from './cache-entry.ts';
import { addChain, checkChain, collectChain, deleteChain } from './chain.ts';
import { type Configuration, type Log, openConfiguration } from './config.ts';
import { createGate, type Gate } from './gate.ts';
import type { Deadline, PluginHost, PluginRun } from './invoke.ts';
import type { JsonObject, NetworkList } from './list.ts';
import { createProber, type Prober } from './probe.ts';
import { type Attachment, planAttachment } from './request.ts';
import { addressesOf } from './result.ts';

export type NetworkDeps = {
  readonly confDir: string;
  /** Searched in this order for plugins. */
  readonly binDirs: readonly string[];
  /** Berth's own, on disk: leases outlive a reboot. */
  readonly cacheDir: string;
  readonly log?: Log;
  /** For the whole chain. */
  readonly addTimeoutMs: number;
  readonly delTimeoutMs: number;
  /** Environment of plugins as `NAME=value`; the usual PATH when left out. */
  readonly environment?: readonly string[];
  /** For metrics: told of each run of a plugin when it ends. */
  readonly observe?: (run: PluginRun) => void;
  /** Each run of a plugin is a span. */
  readonly trace?: Trace;
};

/** What Status shows of the network when asked for details. */
export type NetworkStatus = {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  /** Undefined when there is no valid one. */
  readonly file?: string;
  readonly config?: JsonObject;
  /** Files before it, with what is wrong with them. */
  readonly skipped?: readonly string[];
  readonly notReadyReason: string | null;
};

export type CniNetwork = Network & {
  /** CNI CHECK of a sandbox's attachments. @throws {BerthError} NOT_FOUND for none; else what is wrong. */
  readonly check: (sandboxId: string, signal: AbortSignal) => Promise<void>;
  /** CNI GC, where the list is of 1.1.0 or newer. For the daemon's start. @throws {BerthError} what plugins could not clean up. */
  readonly collectGarbage: (liveSandboxIds: readonly string[]) => Promise<void>;
  readonly status: () => NetworkStatus;
  /** Stops watching. Plugins that run are left to end. */
  readonly close: () => void;
};

/** Plugins answer VERSION and STATUS in tens of milliseconds. */
const firstLookMs = 2000;

const orphanTimeoutMs = 5_000;

/** Several plugins run iptables or tc. */
const defaultEnvironment = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];

const silent: Log = { info: () => {}, warn: () => {} };

/** What the functions below work with. */
type Context = {
  readonly deps: NetworkDeps;
  readonly log: Log;
  readonly host: PluginHost;
  readonly cache: Cache;
  readonly prober: Prober;
  readonly configuration: Configuration;
  /** GC runs alone: the specification, section 3, "Lifecycle & Ordering". */
  readonly gate: Gate;
};

/** Makes the network and looks at the configuration for the first time. @throws {BerthError} INTERNAL when the cache directory cannot be made. */
export async function createNetwork(deps: NetworkDeps): Promise<CniNetwork> {
  const log = deps.log ?? silent;
  const host: PluginHost = {
    binDirs: deps.binDirs,
    environment: deps.environment ?? defaultEnvironment,
    ...(deps.observe ? { observe: deps.observe } : {}),
    ...(deps.trace ? { trace: deps.trace } : {}),
  };
  const cache = await openCache(deps.cacheDir).catch((error: unknown) => {
    throw failedTo(`opening the CNI cache ${deps.cacheDir}`, error);
  });
  await endOrphans(cache, log);
  const prober = createProber(host);
  const configuration = openConfiguration({ confDir: deps.confDir, log, onChange: () => readiness.look() });
  const readiness = createReadiness(configuration, prober);
  const context: Context = { deps, log, host, cache, prober, configuration, gate: createGate() };
  const removals = new Map<string, Promise<void>>();
  // A plugin that hangs must not hold up the daemon's start.
  await Promise.race([readiness.look(), sleep(firstLookMs, undefined, { ref: false })]);
  return {
    notReadyReason: () => readiness.reason(),
    add: (request, signal) => context.gate.share(() => add(context, request, signal)),
    // The caller's signal is not passed on: a DEL that is cut short leaks, and it has a deadline of its own. A retry joins it.
    remove: (sandboxId) => join(removals, sandboxId, () => context.gate.share(() => remove(context, sandboxId))),
    attachedSandboxIds: async () => [...new Set((await cache.list()).map((stored) => stored.containerId))],
    check: (sandboxId, signal) => check(context, sandboxId, signal),
    collectGarbage: (liveSandboxIds) => context.gate.exclude(() => collectGarbage(context, liveSandboxIds)),
    status: () => status(deps, configuration, readiness.reason()),
    close: () => configuration.close(),
  };
}

/** Plugins that an earlier daemon started and did not live to see the end of: an ADD must not go on after the DEL that undoes it. */
async function endOrphans(cache: Cache, log: Log): Promise<void> {
  const ids = (await cache.list()).map(({ containerId }) => `CNI_CONTAINERID=${containerId}`);
  const count = ids.length === 0 ? 0 : await killByEnvironment(new Set(ids), orphanTimeoutMs);
  if (count > 0) log.warn({ count }, 'ended CNI plugins that an earlier daemon left');
}

type Readiness = { readonly reason: () => string | null; readonly look: () => Promise<void> };

/** The plugins are asked in the background: a question of the kubelet gets the last answer, and causes the next. */
function createReadiness(configuration: Configuration, prober: Prober): Readiness {
  let answer: { readonly list: NetworkList | null; readonly reason: string | null } = { list: null, reason: null };
  let running: Promise<void> | undefined;

  const ask = async (): Promise<void> => {
    const { list } = configuration.current();
    if (list === null) return;
    const reason = await prober.requireReady(list).then(() => null, reasonOf);
    answer = { list, reason };
  };
  const look = (): Promise<void> => {
    running ??= ask().finally(() => {
      running = undefined;
    });
    return running;
  };
  const reason = (): string | null => {
    const loaded = configuration.current();
    if (loaded.list === null) return loaded.reason;
    const isSettled = answer.list === loaded.list && answer.reason === null && !loaded.list.versions.includes('1.1.0');
    if (!isSettled) void look();
    return answer.list === loaded.list ? answer.reason && `${loaded.file}: ${answer.reason}` : null;
  };
  return { reason, look };
}

async function add(context: Context, request: NetworkAttachment, signal: AbortSignal): Promise<NetworkResult> {
  const { deps, cache, host } = context;
  const loaded = context.configuration.current();
  if (loaded.list === null) throw failedPrecondition(`network is not ready: ${loaded.reason}`);
  const list = await context.prober.negotiate(loaded.list);
  const attachment = planAttachment(list, request);
  const deadline: Deadline = { atMs: performance.now() + deps.addTimeoutMs, signal };
  // The specification forbids a second ADD without a DEL between.
  await remove(context, request.sandboxId);
  await cache.put({ list, attachment, result: undefined }, { survivesPowerLoss: true });
  try {
    // For a crash of the daemon only: a power cut takes with it all that a DEL needs these results for, rules and interfaces.
    const onResult = (result: JsonObject) => cache.put({ list, attachment, result }, { survivesPowerLoss: false });
    const result = await addChain(host, { list, attachment, deadline, onResult });
    const ips = addresses(list, attachment, result);
    await cache.put({ list, attachment, result }, { survivesPowerLoss: true });
    return { ips, cniResult: result };
  } catch (error) {
    // What is left after this stays on disk, for the sandbox's removal; the caller needs the first error.
    await remove(context, request.sandboxId).catch((leftover: unknown) =>
      context.log.warn({ sandboxId: request.sandboxId, reason: reasonOf(leftover) }, 'a failed CNI ADD is not undone yet'),
    );
    throw error;
  }
}

function addresses(list: NetworkList, { ifName }: Attachment, result: JsonObject): readonly string[] {
  try {
    return addressesOf(result, ifName);
  } catch (error) {
    throw failedTo(`CNI network ${list.name}: ADD failed`, error);
  }
}

async function remove(context: Context, sandboxId: string): Promise<void> {
  for (const stored of await entriesOf(context, sandboxId)) {
    const entry = await readForRemoval(context, stored);
    if (entry !== null) {
      const attachment = { ...entry.attachment, netns: await presentNetns(entry.attachment.netns) };
      await deleteChain(context.host, { ...entry, attachment, timeoutMs: context.deps.delTimeoutMs });
    }
    // Only now: an entry is the promise of a DEL to come.
    await context.cache.remove(stored.fileName);
  }
}

async function entriesOf({ cache }: Context, sandboxId: string): Promise<readonly StoredEntry[]> {
  return (await cache.list()).filter((stored) => stored.containerId === sandboxId);
}

/**
 * An entry that cannot be read (a disk that lost power) still names its network: a DEL without result gives addresses back.
 * Null when not even that can be done; keeping the sandbox for ever would not change it.
 */
async function readForRemoval(context: Context, stored: StoredEntry): Promise<CacheEntry | null> {
  try {
    return await context.cache.read(stored);
  } catch (error) {
    const { list } = context.configuration.current();
    const { containerId, ifName, networkName, fileName } = stored;
    const isSame = list?.name === networkName;
    context.log.warn({ fileName, reason: reasonOf(error), isDeletedByCurrentList: isSame }, 'CNI attachment is unreadable');
    return isSame ? { list, attachment: { containerId, ifName, netns: '', cniArgs: [], capabilityArgs: {} }, result: undefined } : null;
  }
}

/** Of a namespace's pinned file. Source: linux/magic.h, NSFS_MAGIC. */
const nsfsMagic = 0x6e736673;

/** '' when the path is no namespace any more: plugins fail on a plain file, and do what is left to do without a path. */
async function presentNetns(path: string): Promise<string> {
  if (path === '') return '';
  const found = await statfs(path).catch(() => null);
  return found?.type === nsfsMagic ? path : '';
}

/** A second caller for the same key gets the first one's outcome. */
function join(running: Map<string, Promise<void>>, key: string, task: () => Promise<void>): Promise<void> {
  const before = running.get(key);
  if (before !== undefined) return before;
  const started = task().finally(() => running.delete(key));
  running.set(key, started);
  return started;
}

async function check(context: Context, sandboxId: string, signal: AbortSignal): Promise<void> {
  const stored = await entriesOf(context, sandboxId);
  if (stored.length === 0) throw notFound(`sandbox ${sandboxId} has no CNI attachment`);
  const deadline = { atMs: performance.now() + context.deps.addTimeoutMs, signal };
  for (const each of stored) await checkChain(context.host, { ...(await context.cache.read(each)), deadline });
}

/** What still has a DEL to come counts as valid: GC is no substitute for it. */
async function collectGarbage(context: Context, liveSandboxIds: readonly string[]): Promise<void> {
  const { list: configured } = context.configuration.current();
  if (configured === null) return;
  const list = await context.prober.negotiate(configured);
  const attached = (await context.cache.list()).filter((stored) => stored.networkName === list.name).map((stored) => stored.containerId);
  const valid = [...new Set([...liveSandboxIds, ...attached])].map((containerID) => ({ containerID, ifname: 'eth0' }));
  await collectChain(context.host, { list, valid, timeoutMs: context.deps.delTimeoutMs });
}

function status(deps: NetworkDeps, configuration: Configuration, notReadyReason: string | null): NetworkStatus {
  const loaded = configuration.current();
  const found = loaded.list === null ? {} : { file: loaded.file, config: loaded.list.raw, skipped: loaded.skipped };
  return { confDir: deps.confDir, binDirs: deps.binDirs, ...found, notReadyReason };
}
