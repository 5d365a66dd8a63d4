/**
 * Parses the output of plugins: results of every CNI version, errors and version lists.
 *
 * Pure. The input is untrusted: every field may be missing or of another type.
 */

import { type BerthError, internal } from '../lib/errors.ts';
import { goFields, type JsonObject, withExactKeys } from '../lib/go-json.ts';
import { ipVersionOf } from './address.ts';
import { isObject } from './list.ts';
import { type CniVersion, cniVersions, isAtLeast, isCniVersion } from './version.ts';

/** A plugin's error object. Codes: section "Error" of the CNI specification. */
export type PluginError = { readonly code: number; readonly msg: string; readonly details: string };

/** The well-known error codes that berth handles. */
export const errorCode = { containerUnknown: 3, tryAgainLater: 11 } as const;

/**
 * Parses the result of ADD and sets its `cniVersion`.
 *
 * @param version the requested version, which an absent `cniVersion` means.
 * @throws {BerthError} INTERNAL with the reason only.
 */
export function parseResult(text: string, version: CniVersion): JsonObject {
  const parsed = parseObject(text);
  if (parsed === null) throw malformed(text.trim() === '' ? 'no result on stdout' : `stdout is not a CNI result: ${excerpt(text)}`);
  const result = withExactKeys(parsed, ['cniVersion', 'interfaces', 'ips', 'ip4', 'ip6']);
  const { cniVersion } = result;
  if (cniVersion === undefined || cniVersion === '') return { ...result, cniVersion: version };
  if (!isCniVersion(cniVersion))
    throw malformed(`unsupported cniVersion ${excerpt(JSON.stringify(cniVersion))} in the result; supported are ${cniVersions.join(', ')}`);
  return result;
}

/** Parses an error object. @returns null when `text` is not an error object of the specification. */
export function parseError(text: string): PluginError | null {
  const error = goFields(parseObject(text) ?? {}, ['code', 'msg', 'details']);
  if (typeof error.code !== 'number' || error.code === 0) return null;
  return { code: error.code, msg: textOf(error.msg), details: textOf(error.details) };
}

/** Returns the versions in a reply to VERSION, or null when `text` is not such a reply. */
export function parseSupportedVersions(text: string): readonly string[] | null {
  const answer = parseObject(text);
  if (answer === null) return null;
  const { supportedVersions } = goFields(answer, ['supportedVersions']);
  // Plugins of 0.1.0 do not list versions.
  if (supportedVersions === undefined) return ['0.1.0'];
  return Array.isArray(supportedVersions) ? supportedVersions.filter((version) => typeof version === 'string') : null;
}

/**
 * Returns the addresses of the interface `ifName` inside the sandbox, without prefix length: the first IPv4 address, then all others in their order.
 *
 * @throws {BerthError} INTERNAL when there is no address or a malformed one; the message is the reason only.
 */
export function addressesOf(result: JsonObject, ifName: string): readonly string[] {
  const version = isCniVersion(result.cniVersion) ? result.cniVersion : '0.1.0';
  const networks = isAtLeast(version, '0.3.0') ? fromList(result, ifName) : fromFields(result);
  const addresses = [...new Set(networks.map(withoutPrefix))];
  if (addresses.length === 0) throw malformed(`no address on ${ifName} in the result`);
  const primary = addresses.find((address) => ipVersionOf(address) === 4);
  return primary === undefined ? addresses : [primary, ...addresses.filter((address) => address !== primary)];
}

/** 0.1.0 and 0.2.0 have one field for each address family. */
function fromFields(result: JsonObject): readonly unknown[] {
  return [result.ip4, result.ip6].filter(isObject).map((family) => goFields(family, ['ip']).ip);
}

/** Since 0.3.0: `ips`, each with an optional index into `interfaces`. */
function fromList(result: JsonObject, ifName: string): readonly unknown[] {
  const ips = listOf(result.ips)
    .filter(isObject)
    .map((ip) => goFields(ip, ['address', 'interface']));
  const interfaces = listOf(result.interfaces).map((each) => goFields(isObject(each) ? each : {}, ['name', 'sandbox']));
  const sameName = interfaces.filter((candidate) => candidate.name === ifName);
  // Host and sandbox may have interfaces of the same name: prefer the sandbox's. Some plugins omit the field `sandbox`.
  const inSandbox = sameName.filter((candidate) => typeof candidate.sandbox === 'string' && candidate.sandbox !== '');
  const matching = new Set<unknown>(inSandbox.length > 0 ? inSandbox : sameName);
  return ips.filter((ip) => isUnbound(ip.interface) || matching.has(interfaces[Number(ip.interface)])).map((ip) => ip.address);
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function isUnbound(index: unknown): boolean {
  return index === undefined || index === null || index === -1;
}

function withoutPrefix(network: unknown): string {
  const [address = '', prefix, ...rest] = String(network).split('/');
  const bitsMax = { 0: -1, 4: 32, 6: 128 }[ipVersionOf(address)];
  const isPrefixValid = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bitsMax);
  if (typeof network !== 'string' || bitsMax < 0 || !isPrefixValid || rest.length > 0)
    throw malformed(`invalid address ${excerpt(JSON.stringify(network))} in the result`);
  return address;
}

function parseObject(text: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Bounds of an excerpt: plugins may print anything, and a message is one short line. */
const excerptHeadChars = 300;
const excerptTailChars = 700;

/** Returns a text on one line. Of a long text it keeps the beginning, where a crash prints its cause, and the end, where most programs do. */
export function excerpt(text: string | undefined): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: replaces control characters
  const line = (text ?? 'undefined').replace(/[\s\u0000-\u001f\u007f]+/g, ' ').trim();
  return line.length <= excerptHeadChars + excerptTailChars ? line : `${line.slice(0, excerptHeadChars)}...${line.slice(-excerptTailChars)}`;
}

function malformed(reason: string): BerthError {
  return internal(reason);
}
