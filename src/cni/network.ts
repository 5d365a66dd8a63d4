/**
 * Implements the engine's `Network` with CNI plugins.
 *
 * An attachment is on disk before its first plugin runs and until its last DEL has succeeded; a failed ADD is undone by the same DEL.
 * Never touches a namespace or an interface itself: the engine brings up `lo`.
 */

import { statfs } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Network, NetworkAttachment, NetworkResult } from '../engine/state/spec.ts';
import { failedPrecondition, failedTo, notFound, reasonOf } from '../lib/errors.ts';
import type { JsonObject } from '../lib/go-json.ts';
import type { Trace } from '../lib/spans.ts';
import { killByEnvironment } from '../sys/process/process-environment.ts';
import { type Cache, openCache, type StoredEntry } from './cache.ts';
import type { CacheEntry } from './cache-entry.ts';
import { addChain, checkChain, collectChain, deleteChain } from './chain.ts';
import { type Configuration, type Log, openConfiguration } from './config.ts';
import { createGate, type Gate } from './gate.ts';
import type { Deadline, PluginHost, PluginRun } from './invoke.ts';
import type { NetworkList } from './list.ts';
import { createProber, type Prober } from './probe.ts';
import { type Attachment, planAttachment } from './request.ts';
import { addressesOf } from './result.ts';

export type NetworkDeps = {
  readonly confDir: string;
  /** Directories of plugins, searched in this order. */
  readonly binDirs: readonly string[];
  /** Used by berth alone. On disk, because address leases survive a reboot. */
  readonly cacheDir: string;
  readonly log?: Log;
  /** For the complete chain. */
  readonly addTimeoutMs: number;
  readonly delTimeoutMs: number;
  /** How long the network stays ready while STATUS fails, after it has succeeded. By default not at all. */
  readonly statusGraceMs?: number;
  /** Environment of plugins as `NAME=value`; by default the usual PATH. */
  readonly environment?: readonly string[];
  /** Called at the end of each run of a plugin, for metrics. */
  readonly observe?: (run: PluginRun) => void;
  /** Creates a span for each run of a plugin. */
  readonly trace?: Trace;
};

/** The network part of the verbose Status. */
export type NetworkStatus = {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  /** The file in use; undefined when there is no valid one. */
  readonly file?: string;
  readonly config?: JsonObject;
  /** Invalid files before it, each with the reason. */
  readonly skipped?: readonly string[];
  readonly notReadyReason: string | null;
};

export type CniNetwork = Network & {
  /** Runs CNI CHECK of a sandbox's attachments. @throws {BerthError} NOT_FOUND when there are none; else the failure of CHECK. */
  readonly check: (sandboxId: string, signal: AbortSignal) => Promise<void>;
  /** Runs CNI GC if the list is of version 1.1.0 or newer. Called at the daemon's start. @throws {BerthError} with the failures of all plugins. */
  readonly collectGarbage: (liveSandboxIds: readonly string[]) => Promise<void>;
  readonly status: () => NetworkStatus;
  /** Stops watching the configuration. Does not stop running plugins. */
  readonly close: () => void;
};

/** How long the daemon's start waits for VERSION and STATUS, which take plugins some tens of milliseconds. */
const startupProbeMs = 2000;

const orphanTimeoutMs = 5_000;

/** Several plugins run iptables or tc. */
const defaultEnvironment = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];

const silent: Log = { info: () => {}, warn: () => {} };

/** The dependencies of the functions below. */
type Context = {
  readonly deps: NetworkDeps;
  readonly log: Log;
  readonly host: PluginHost;
  readonly cache: Cache;
  readonly prober: Prober;
  readonly configuration: Configuration;
  /** GC runs exclusively. Source: the specification, section 3, "Lifecycle & Ordering". */
  readonly gate: Gate;
};

/** Creates the network, loads the configuration and probes its plugins. @throws {BerthError} INTERNAL when the cache directory cannot be created. */
export async function createNetwork(deps: NetworkDeps): Promise<CniNetwork> {
  const log = deps.log ?? silent;
  const host: PluginHost = {
    binDirs: deps.binDirs,
    environment: deps.environment ?? defaultEnvironment,
    ...(deps.observe ? { observe: deps.observe } : {}),
    ...(deps.trace ? { trace: deps.trace } : {}),
  };
  const cache = await openCache(deps.cacheDir).catch((error: unknown) => {
    throw failedTo(`open CNI cache ${deps.cacheDir}`, error);
  });
  await killOrphans(cache, log);
  const prober = createProber(host);
  const configuration = openConfiguration({ confDir: deps.confDir, log, onChange: () => readiness.refresh() });
  const readiness = createReadiness(configuration, prober, log, deps.statusGraceMs ?? 0);
  const context: Context = { deps, log, host, cache, prober, configuration, gate: createGate() };
  const removals = new Map<string, Promise<void>>();
  // A plugin that hangs must not block the daemon's start.
  await Promise.race([readiness.refresh(), sleep(startupProbeMs, undefined, { ref: false })]);
  return {
    notReadyReason: () => readiness.reason(),
    add: (request, signal) => context.gate.share(() => add(context, request, signal)),
    // The caller's signal is ignored: an interrupted DEL leaks, and DEL has its own timeout. A retry joins the running DEL.
    remove: (sandboxId) => joinRunning(removals, sandboxId, () => context.gate.share(() => remove(context, sandboxId))),
    attachedSandboxIds: async () => [...new Set((await cache.list()).map((stored) => stored.containerId))],
    check: (sandboxId, signal) => check(context, sandboxId, signal),
    collectGarbage: (liveSandboxIds) => context.gate.exclude(() => collectGarbage(context, liveSandboxIds)),
    status: () => status(deps, configuration, readiness.reason()),
    close: () => configuration.close(),
  };
}

/** Kills plugins that a previous daemon started and that still run: an ADD must not continue after the DEL that undoes it. */
async function killOrphans(cache: Cache, log: Log): Promise<void> {
  const ids = (await cache.list()).map(({ containerId }) => `CNI_CONTAINERID=${containerId}`);
  const count = ids.length === 0 ? 0 : await killByEnvironment(new Set(ids), orphanTimeoutMs);
  if (count > 0) log.warn({ count }, 'killed CNI plugins of a previous daemon');
}

type Readiness = { readonly reason: () => string | null; readonly refresh: () => Promise<void> };

/**
 * Probes the plugins in the background: reason() returns the last result and starts the next probe.
 *
 * @param graceMs how long a STATUS that fails is ignored, after one that succeeded.
 */
function createReadiness(configuration: Configuration, prober: Prober, log: Log, graceMs: number): Readiness {
  let latest: { readonly list: NetworkList | null; readonly reason: string | null } = { list: null, reason: null };
  let readyAtMs = Number.NEGATIVE_INFINITY;
  let running: Promise<void> | undefined;

  const probe = async (): Promise<void> => {
    const { list } = configuration.current();
    if (list === null) return;
    const startedMs = performance.now();
    const { reason, isFromStatus } = await prober.probe(list);
    if (reason === null) readyAtMs = startedMs;
    const wasReady = latest.list === list && latest.reason === null;
    if (reason !== null && isFromStatus && wasReady && startedMs - readyAtMs < graceMs) {
      log.warn({ reason, graceMs }, 'CNI STATUS failed, the network stays ready for now');
      return;
    }
    latest = { list, reason };
  };
  const refresh = (): Promise<void> => {
    running ??= probe().finally(() => {
      running = undefined;
    });
    return running;
  };
  const reason = (): string | null => {
    const loaded = configuration.current();
    if (loaded.list === null) return loaded.reason;
    const isSettled = latest.list === loaded.list && latest.reason === null && !loaded.list.versions.includes('1.1.0');
    if (!isSettled) void refresh();
    return latest.list === loaded.list ? latest.reason && `${loaded.file}: ${latest.reason}` : null;
  };
  return { reason, refresh };
}

async function add(context: Context, request: NetworkAttachment, signal: AbortSignal): Promise<NetworkResult> {
  const { deps, cache, host } = context;
  const loaded = context.configuration.current();
  if (loaded.list === null) throw failedPrecondition(`network is not ready: ${loaded.reason}`);
  const list = await context.prober.negotiate(loaded.list);
  const attachment = planAttachment(list, request);
  const deadline: Deadline = { atMs: performance.now() + deps.addTimeoutMs, signal };
  // The specification forbids a second ADD without a DEL in between.
  await remove(context, request.sandboxId);
  await cache.put({ list, attachment, result: undefined }, { survivesPowerLoss: true });
  try {
    // No sync: this is for a crash of the daemon. DEL needs these results for rules and interfaces, which do not survive a power loss.
    const onResult = (result: JsonObject) => cache.put({ list, attachment, result }, { survivesPowerLoss: false });
    const result = await addChain(host, { list, attachment, deadline, onResult });
    const ips = addresses(list, attachment, result);
    await cache.put({ list, attachment, result }, { survivesPowerLoss: true });
    return { ips, cniResult: result };
  } catch (error) {
    // If DEL fails, the entry stays on disk for the sandbox's removal; the caller needs the first error.
    await remove(context, request.sandboxId).catch((leftover: unknown) =>
      context.log.warn({ sandboxId: request.sandboxId, reason: reasonOf(leftover) }, 'failed to run CNI DEL after a failed CNI ADD'),
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
      const attachment = { ...entry.attachment, netns: await existingNetns(entry.attachment.netns) };
      await deleteChain(context.host, { ...entry, attachment, timeoutMs: context.deps.delTimeoutMs });
    }
    // Last: an entry means that a DEL is still due.
    await context.cache.remove(stored.fileName);
  }
}

async function entriesOf({ cache }: Context, sandboxId: string): Promise<readonly StoredEntry[]> {
  return (await cache.list()).filter((stored) => stored.containerId === sandboxId);
}

/**
 * Reads an entry for DEL. An unreadable one (after a power loss) still names its network: a DEL without a result releases the addresses.
 *
 * @returns null when that network is no longer configured: no DEL is possible, and keeping the sandbox would not change that.
 */
async function readForRemoval(context: Context, stored: StoredEntry): Promise<CacheEntry | null> {
  try {
    return await context.cache.read(stored);
  } catch (error) {
    const { list } = context.configuration.current();
    const { containerId, ifName, networkName, fileName } = stored;
    const isSame = list?.name === networkName;
    context.log.warn({ fileName, reason: reasonOf(error), isDeletedByCurrentList: isSame }, 'unreadable CNI attachment');
    return isSame ? { list, attachment: { containerId, ifName, netns: '', cniArgs: [], capabilityArgs: {} }, result: undefined } : null;
  }
}

/** The file system type of a pinned namespace. Source: linux/magic.h, NSFS_MAGIC. */
const nsfsMagic = 0x6e736673;

/** Returns the path, or '' when it is no longer a namespace: plugins fail on a regular file, but clean up the rest without a path. */
async function existingNetns(path: string): Promise<string> {
  if (path === '') return '';
  const found = await statfs(path).catch(() => null);
  return found?.type === nsfsMagic ? path : '';
}

/** Runs a task, or joins the running task of the same key. */
function joinRunning(running: Map<string, Promise<void>>, key: string, task: () => Promise<void>): Promise<void> {
  const current = running.get(key);
  if (current !== undefined) return current;
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

/** Attachments with a DEL still due count as valid: GC does not replace DEL. */
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
