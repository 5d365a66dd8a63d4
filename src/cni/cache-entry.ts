/**
 * Encodes and parses the cache file of an attachment, in libcni's format (`cniCacheV1`), so that tools for libcni can read it.
 *
 * Pure.
 */

import { internal, reasonOf } from '../lib/errors.ts';
import type { JsonObject } from '../lib/go-json.ts';
import { isObject, type NetworkList, parseList } from './list.ts';
import type { Attachment } from './request.ts';

export type CacheEntry = {
  /** The list used by ADD. Later changes of the configuration directory do not matter. */
  readonly list: NetworkList;
  readonly attachment: Attachment;
  /** The result of the last plugin that succeeded; undefined before the first. */
  readonly result: JsonObject | undefined;
};

/** Returns the file name. It is unambiguous: berth's container ids and interface names contain no hyphen. */
export function entryName(networkName: string, { containerId, ifName }: Attachment): string {
  return `${networkName}-${containerId}-${ifName}`;
}

/** Parses a file name. @returns null for a name that entryName() does not produce. */
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

/** Parses the content of a cache file. @throws {BerthError} INTERNAL with the reason only. */
export function parseEntry(text: string): CacheEntry {
  const entry = parseJson(text);
  if (!isObject(entry) || entry.kind !== 'cniCacheV1') throw internal('kind is not cniCacheV1');
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
