/**
 * Asks a list's plugins whether they are there, which versions they speak (VERSION), and whether they can work (STATUS).
 *
 * Never attaches anything. Remembers a plugin's versions until its file changes.
 */
import { stat } from 'node:fs/promises';
import { failedPrecondition } from '../lib/errors.ts';
import { statusChain } from './chain.ts';
import { findPlugin, invokePlugin, type PluginHost, requirePlugins } from './invoke.ts';
import { atVersion, type NetworkList, type PluginConfig } from './list.ts';
import { parseSupportedVersions } from './result.ts';

export type Prober = {
  /**
   * The list at the highest version that it and all its plugins know.
   * @throws {BerthError} FAILED_PRECONDITION: a plugin is missing, or there is no common version.
   */
  readonly negotiate: (list: NetworkList) => Promise<NetworkList>;
  /** Runs STATUS too. @throws {BerthError} why the list cannot serve ADD. */
  readonly requireReady: (list: NetworkList) => Promise<void>;
};

/** For questions that plugins answer from memory. */
const questionTimeoutMs = 10_000;

export function createProber(host: PluginHost): Prober {
  /** By path and identity of the file; null: it gave no usable answer. */
  const known = new Map<string, { readonly identity: string; readonly versions: readonly string[] | null }>();

  const versionsOf = async (list: NetworkList, plugin: PluginConfig): Promise<readonly string[] | null> => {
    const path = await findPlugin(host.binDirs, plugin.type);
    if (path === null) return null;
    const { ino, mtimeMs, size } = await stat(path);
    const identity = `${ino}:${mtimeMs}:${size}`;
    const before = known.get(path);
    if (before?.identity === identity) return before.versions;
    const outcome = await invokePlugin(host, { command: 'VERSION', list, plugin, deadline: { atMs: performance.now() + questionTimeoutMs } });
    const versions = outcome.isOk ? parseSupportedVersions(outcome.stdout) : null;
    known.set(path, { identity, versions });
    return versions;
  };
  const negotiate = async (list: NetworkList): Promise<NetworkList> => {
    await requirePlugins(host.binDirs, list);
    const answers = await Promise.all(list.plugins.map(async (plugin) => ({ plugin, versions: await versionsOf(list, plugin) })));
    // A plugin that does not answer may still work: asking is the runtime's own wish.
    const limiting = answers.filter(({ versions }) => versions !== null);
    const common = list.versions.filter((version) => limiting.every(({ versions }) => versions?.includes(version)));
    const highest = common.at(-1);
    if (highest === undefined) throw failedPrecondition(mismatchText(list, limiting));
    return atVersion(list, highest);
  };
  const requireReady = async (list: NetworkList): Promise<void> => statusChain(host, await negotiate(list), questionTimeoutMs);
  return { negotiate, requireReady };
}

function mismatchText(list: NetworkList, answers: readonly { plugin: PluginConfig; versions: readonly string[] | null }[]): string {
  const wanted = list.versions.join(', ');
  const limiting = answers.find(({ versions }) => !list.versions.some((version) => versions?.includes(version)));
  if (limiting === undefined) return `network ${list.name}: its plugins have none of the CNI versions ${wanted} in common`;
  return `network ${list.name}: plugin ${limiting.plugin.type} speaks CNI ${limiting.versions?.join(', ')}, not ${wanted}`;
}
