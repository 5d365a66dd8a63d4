/**
 * Checks that the plugins of a list are installed, which versions they support (VERSION) and whether they are ready (STATUS).
 *
 * Never attaches a sandbox. Caches the versions of a plugin until its file changes.
 */
import { stat } from 'node:fs/promises';
import { failedPrecondition, reasonOf } from '../lib/errors.ts';
import { statusChain } from './chain.ts';
import { findPlugin, invokePlugin, type PluginHost, requirePlugins } from './invoke.ts';
import { atVersion, type NetworkList, type PluginConfig } from './list.ts';
import { parseSupportedVersions } from './result.ts';

export type Prober = {
  /**
   * Returns the list at the highest version that it and all its plugins support.
   * @throws {BerthError} FAILED_PRECONDITION when a plugin is missing or there is no common version.
   */
  readonly negotiate: (list: NetworkList) => Promise<NetworkList>;
  /** Negotiates and runs STATUS. */
  readonly probe: (list: NetworkList) => Promise<Readiness>;
};

/** `reason`: why the list cannot serve ADD; null if it can. `isFromStatus`: a plugin said so, and may say otherwise soon. */
export type Readiness = { readonly reason: string | null; readonly isFromStatus: boolean };

/** For VERSION and STATUS, which plugins answer without work. */
const probeTimeoutMs = 10_000;

export function createProber(host: PluginHost): Prober {
  /** By path. `identity` changes with the file. `versions` is null when the plugin gave no valid answer. */
  const cache = new Map<string, { readonly identity: string; readonly versions: readonly string[] | null }>();

  const versionsOf = async (list: NetworkList, plugin: PluginConfig): Promise<readonly string[] | null> => {
    const path = await findPlugin(host.binDirs, plugin.type);
    if (path === null) return null;
    const { ino, mtimeMs, size } = await stat(path);
    const identity = `${ino}:${mtimeMs}:${size}`;
    const cached = cache.get(path);
    if (cached?.identity === identity) return cached.versions;
    const outcome = await invokePlugin(host, { command: 'VERSION', list, plugin, deadline: { atMs: performance.now() + probeTimeoutMs } });
    const versions = outcome.isOk ? parseSupportedVersions(outcome.stdout) : null;
    cache.set(path, { identity, versions });
    return versions;
  };
  const negotiate = async (list: NetworkList): Promise<NetworkList> => {
    await requirePlugins(host.binDirs, list);
    const answers = await Promise.all(list.plugins.map(async (plugin) => ({ plugin, versions: await versionsOf(list, plugin) })));
    // A plugin that does not answer VERSION may still work: the specification does not require the runtime to run it.
    const limiting = answers.filter(({ versions }) => versions !== null);
    const common = list.versions.filter((version) => limiting.every(({ versions }) => versions?.includes(version)));
    const highest = common.at(-1);
    if (highest === undefined) throw failedPrecondition(mismatchText(list, limiting));
    return atVersion(list, highest);
  };
  const probe = async (list: NetworkList): Promise<Readiness> => {
    const negotiated = await negotiate(list).catch(reasonOf);
    if (typeof negotiated === 'string') return { reason: negotiated, isFromStatus: false };
    return { reason: await statusChain(host, negotiated, probeTimeoutMs).then(() => null, reasonOf), isFromStatus: true };
  };
  return { negotiate, probe };
}

function mismatchText(list: NetworkList, answers: readonly { plugin: PluginConfig; versions: readonly string[] | null }[]): string {
  const configured = list.versions.join(', ');
  const limiting = answers.find(({ versions }) => !list.versions.some((version) => versions?.includes(version)));
  if (limiting === undefined) return `network ${list.name}: no CNI version of ${configured} is supported by all plugins`;
  return `network ${list.name}: plugin ${limiting.plugin.type} supports CNI ${limiting.versions?.join(', ')}, but not ${configured}`;
}
