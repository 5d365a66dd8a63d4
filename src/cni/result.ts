/**
 * What plugins print: results of every CNI version, errors, version lists. Made into addresses and words.
 *
 * Pure. Takes nothing on trust: every field may be missing or of another type.
 */
import { type BerthError, internal } from '../lib/errors.ts';
import { ipVersionOf } from './address.ts';
import { isObject, type JsonObject } from './list.ts';
import { type CniVersion, cniVersions, isAtLeast, isCniVersion } from './version.ts';

/** An error as CNI specifies it. Codes: section "Error" of the specification. */
export type PluginError = { readonly code: number; readonly msg: string; readonly details: string };

/** Well-known error codes that berth acts upon. */
export const errorCode = { containerUnknown: 3, tryAgainLater: 11 } as const;

/**
 * The result of ADD in `text`, with the version it is in filled in.
 *
 * @param version what was asked for; an absent `cniVersion` means this one.
 * @throws {BerthError} INTERNAL with the reason alone.
 */
export function parseResult(text: string, version: CniVersion): JsonObject {
  const result = parseObject(text);
  if (result === null) throw malformed(text.trim() === '' ? 'no result on its output' : `its output is not a result: ${excerpt(text)}`);
  const { cniVersion } = result;
  if (cniVersion === undefined || cniVersion === '') return { ...result, cniVersion: version };
  if (!isCniVersion(cniVersion))
    throw malformed(`its result is of version ${excerpt(JSON.stringify(cniVersion))}, which is none of ${cniVersions.join(', ')}`);
  return result;
}

/** The error in `text`, or null when that is not what the specification calls one. */
export function parseError(text: string): PluginError | null {
  const error = parseObject(text);
  if (error === null || typeof error.code !== 'number' || error.code === 0) return null;
  return { code: error.code, msg: textOf(error.msg), details: textOf(error.details) };
}

/** Versions that a plugin's answer to VERSION lists, or null when it is no such answer. */
export function parseSupportedVersions(text: string): readonly string[] | null {
  const answer = parseObject(text);
  if (answer === null) return null;
  const { supportedVersions } = answer;
  // 0.1.0 had no such list.
  if (supportedVersions === undefined) return ['0.1.0'];
  return Array.isArray(supportedVersions) ? supportedVersions.filter((version) => typeof version === 'string') : null;
}

/**
 * Addresses without prefix length, of the interface `ifName` inside the sandbox: the first IPv4 address first, then all others in their order.
 *
 * @throws {BerthError} INTERNAL when there is none, or one is malformed; the message is the reason alone.
 */
export function addressesOf(result: JsonObject, ifName: string): readonly string[] {
  const version = isCniVersion(result.cniVersion) ? result.cniVersion : '0.1.0';
  const networks = isAtLeast(version, '0.3.0') ? fromList(result, ifName) : fromFields(result);
  const addresses = [...new Set(networks.map(withoutPrefix))];
  if (addresses.length === 0) throw malformed(`the result has no address on ${ifName}`);
  const primary = addresses.find((address) => ipVersionOf(address) === 4);
  return primary === undefined ? addresses : [primary, ...addresses.filter((address) => address !== primary)];
}

/** 0.1.0 and 0.2.0: one field for each family. */
function fromFields(result: JsonObject): readonly unknown[] {
  return [result.ip4, result.ip6].filter(isObject).map((family) => family.ip);
}

/** From 0.3.0 on: `ips`, each pointing into `interfaces` or at no interface in particular. */
function fromList(result: JsonObject, ifName: string): readonly unknown[] {
  const ips = (Array.isArray(result.ips) ? result.ips : []).filter(isObject);
  const interfaces: readonly unknown[] = Array.isArray(result.interfaces) ? result.interfaces : [];
  const named = interfaces.filter(isObject).filter((candidate) => candidate.name === ifName);
  // Of the same name, on the host and in the sandbox: the sandbox's. Some plugins leave the field out altogether.
  const inSandbox = named.filter((candidate) => typeof candidate.sandbox === 'string' && candidate.sandbox !== '');
  const wanted = new Set<unknown>(inSandbox.length > 0 ? inSandbox : named);
  return ips.filter((ip) => isUnbound(ip.interface) || wanted.has(interfaces[Number(ip.interface)])).map((ip) => ip.address);
}

function isUnbound(index: unknown): boolean {
  return index === undefined || index === null || index === -1;
}

function withoutPrefix(network: unknown): string {
  const [address = '', prefix, ...rest] = String(network).split('/');
  const bitsMax = { 0: -1, 4: 32, 6: 128 }[ipVersionOf(address)];
  const isPrefixValid = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bitsMax);
  if (typeof network !== 'string' || bitsMax < 0 || !isPrefixValid || rest.length > 0)
    throw malformed(`the result has the address ${excerpt(JSON.stringify(network))}`);
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

/** Plugins may print anything; a message is one line of bounded length. */
const excerptHeadChars = 300;
const excerptTailChars = 700;

/** A text on one line: of a long one the beginning, where a crash names its cause, and the end, where most programs do. */
export function excerpt(text: string | undefined): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must go
  const line = (text ?? 'undefined').replace(/[\s\u0000-\u001f\u007f]+/g, ' ').trim();
  return line.length <= excerptHeadChars + excerptTailChars ? line : `${line.slice(0, excerptHeadChars)}...${line.slice(-excerptTailChars)}`;
}

function malformed(reason: string): BerthError {
  return internal(reason);
}
