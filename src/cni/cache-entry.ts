/**
 * The text of one attachment's cache file, in the shape that libcni gives it (`cniCacheV1`), so that tools which read those can read ours.
 *
 * Pure.
 */
import { internal, reasonOf } from '../lib/errors.ts';
import { isObject, type JsonObject, type NetworkList, parseList } from './list.ts';
import type { Attachment } from './request.ts';

export type CacheEntry = {
  /** As it was at ADD; what the configuration directory holds by now does not matter. */
  readonly list: NetworkList;
  readonly attachment: Attachment;
  /** Of the last plugin that succeeded; undefined before the first. */
  readonly result: JsonObject | undefined;
};

/** File names are unambiguous: neither a container id nor an interface name of ours has a hyphen. */
export function entryName(networkName: string, { containerId, ifName }: Attachment): string {
  return `${networkName}-${containerId}-${ifName}`;
}

/** @returns null for a name that is not one of entryName(). */
export function parseEntryName(name: string): { networkName: string; containerId: string; ifName: string } | null {
  const [, networkName, containerId, ifName] = /^([^.].*)-([^-]+)-([^-]+)$/.exec(name) ?? [];
  if (networkName === undefined || containerId === undefined || ifName === undefined) return null;
  return { networkName, containerId, ifName };
}

export function encodeEntry({ list, attachment, result }: CacheEntry): string {
  return JSON.stringify({
    kind: 'cniCacheV1',
    containerId: attachment.containerId,
    config: Buffer.from(JSON.stringify(list.raw)).toString('base64'),
    ifName: attachment.ifName,
    networkName: list.name,
    netns: attachment.netns,
    cniArgs: attachment.cniArgs,
    capabilityArgs: attachment.capabilityArgs,
    ...(result === undefined ? {} : { result }),
  });
}

/** @throws {BerthError} INTERNAL with the reason alone. */
export function parseEntry(text: string): CacheEntry {
  const entry = parseJson(text);
  if (!isObject(entry) || entry.kind !== 'cniCacheV1') throw internal('not of kind cniCacheV1');
  const list = parseList(Buffer.from(textOf(entry, 'config'), 'base64').toString(), true);
  const attachment: Attachment = {
    containerId: textOf(entry, 'containerId'),
    ifName: textOf(entry, 'ifName'),
    netns: typeof entry.netns === 'string' ? entry.netns : '',
    cniArgs: pairsOf(entry.cniArgs),
    capabilityArgs: isObject(entry.capabilityArgs) ? entry.capabilityArgs : {},
  };
  return { list, attachment, result: isObject(entry.result) ? entry.result : undefined };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw internal(`not JSON: ${reasonOf(error)}`);
  }
}

function textOf(entry: JsonObject, key: string): string {
  const value = entry[key];
  if (typeof value !== 'string' || value === '') throw internal(`no "${key}"`);
  return value;
}

function pairsOf(value: unknown): readonly (readonly [string, string])[] {
  if (!Array.isArray(value)) return [];
  return value.filter((pair): pair is [string, string] => Array.isArray(pair) && typeof pair[0] === 'string' && typeof pair[1] === 'string');
}
