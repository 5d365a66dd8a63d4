/**
 * A network configuration list: parsed from a file's text, validated, and with one CNI version chosen.
 *
 * Pure: reads no file and knows no plugin. Fields it does not understand stay as they are, for the plugins.
 */
import { type BerthError, failedPrecondition, reasonOf } from '../lib/errors.ts';
import { type CniVersion, cniVersions } from './version.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

export type PluginConfig = {
  /** Name of the plugin's program. */
  readonly type: string;
  /** Names of the capabilities declared true. */
  readonly capabilities: readonly string[];
  /** Type of the IPAM plugin it delegates to, or ''. */
  readonly ipamType: string;
  /** The whole object as configured. */
  readonly raw: JsonObject;
};

export type NetworkList = {
  readonly name: string;
  /** The version spoken: the highest of `versions`, until atVersion() chose a lower one. */
  readonly version: CniVersion;
  /** What the configuration allows, lowest first. */
  readonly versions: readonly CniVersion[];
  readonly isCheckDisabled: boolean;
  readonly isGcDisabled: boolean;
  /** Never empty. */
  readonly plugins: readonly PluginConfig[];
  /** The list as configured; a single configuration is wrapped in one. */
  readonly raw: JsonObject;
};

/** Room for an id and an interface name in one file name of 255 bytes (the result cache). */
const nameCharsMax = 128;

/**
 * Parses a configuration: a list, or a single plugin's configuration (`*.conf`, until CNI 0.4.0), which becomes a list of one.
 *
 * @param mustBeList for `*.conflist`.
 * @throws {BerthError} FAILED_PRECONDITION with the reason alone; the caller knows the file's name.
 * Source: CNI specification 1.1.0, section 1.
 */
export function parseList(text: string, mustBeList: boolean): NetworkList {
  const document = parseJson(text);
  if (!isObject(document)) throw invalid('not a JSON object');
  const isList = document.plugins !== undefined;
  if (!isList && mustBeList) throw invalid('no "plugins"');
  const raw = isList ? document : wrapped(document);
  const versions = versionsOf(raw);
  return {
    name: nameOf(raw),
    version: versions.at(-1) as CniVersion,
    versions,
    isCheckDisabled: flagOf(raw, 'disableCheck'),
    isGcDisabled: flagOf(raw, 'disableGC'),
    plugins: pluginsOf(raw, isList),
    raw,
  };
}

/** The same list speaking another of its versions, from then on its only one. */
export function atVersion(list: NetworkList, version: CniVersion): NetworkList {
  const { cniVersions: _, ...rest } = list.raw;
  return { ...list, version, versions: [version], raw: { ...rest, cniVersion: version } };
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrapped(plugin: JsonObject): JsonObject {
  if (plugin.type === undefined) throw invalid('neither "plugins" nor "type"');
  // An absent key stays absent.
  const { cniVersion, name } = plugin;
  return { ...(cniVersion === undefined ? {} : { cniVersion }), ...(name === undefined ? {} : { name }), plugins: [plugin] };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw invalid(text.trim() === '' ? 'empty file' : `not JSON: ${oneLine(reasonOf(error))}`);
  }
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').slice(0, 200);
}

function nameOf(raw: JsonObject): string {
  const { name } = raw;
  if (name === undefined || name === '') throw invalid('no "name"');
  // The specification's own rule; the name becomes part of file names and of iptables comments.
  if (typeof name !== 'string' || !/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name))
    throw invalid(`name ${shown(name)} is not letters, digits, "_", "." and "-"`);
  if (name.length > nameCharsMax) throw invalid(`name is longer than ${nameCharsMax} characters`);
  return name;
}

/** Newer versions in `cniVersions` are passed over: they are for runtimes that know them. */
function versionsOf(raw: JsonObject): readonly CniVersion[] {
  const { cniVersion, cniVersions: others = [] } = raw;
  if (!Array.isArray(others)) throw invalid('cniVersions is not a list');
  const named: readonly unknown[] = [cniVersion, ...others].filter((version) => version !== undefined && version !== '');
  // The first versions did not ask for the field.
  if (named.length === 0) return ['0.1.0'];
  const known = cniVersions.filter((version) => named.includes(version));
  if (known.length === 0) throw invalid(`cniVersion ${named.map(shown).join(', ')} is none of ${cniVersions.join(', ')}`);
  return known;
}

function pluginsOf(raw: JsonObject, isList: boolean): readonly PluginConfig[] {
  const { plugins } = raw;
  if (!Array.isArray(plugins)) throw invalid('"plugins" is not a list');
  if (plugins.length === 0) throw invalid('"plugins" is empty');
  return plugins.map((plugin: unknown, i) => pluginOf(plugin, isList ? `plugins[${i}]: ` : ''));
}

function pluginOf(plugin: unknown, where: string): PluginConfig {
  if (!isObject(plugin)) throw invalid(`${where}not an object`);
  const { type, capabilities = {}, ipam } = plugin;
  if (type === undefined || type === '') throw invalid(`${where}no "type"`);
  if (typeof type !== 'string' || !isFileName(type)) throw invalid(`${where}type ${shown(type)} is not a plugin's file name`);
  if (capabilities !== null && !isObject(capabilities)) throw invalid(`${where}capabilities is not an object`);
  const declared = Object.entries(capabilities ?? {});
  const odd = declared.find(([, value]) => typeof value !== 'boolean');
  if (odd !== undefined) throw invalid(`${where}capability ${odd[0]} is neither true nor false`);
  const ipamType = isObject(ipam) && typeof ipam.type === 'string' ? ipam.type : '';
  if (ipamType !== '' && !isFileName(ipamType)) throw invalid(`${where}ipam type ${shown(ipamType)} is not a plugin's file name`);
  return { type, capabilities: declared.filter(([, value]) => value === true).map(([name]) => name), ipamType, raw: plugin };
}

function isFileName(text: string): boolean {
  return /^[^/\\\0]+$/.test(text) && text !== '.' && text !== '..';
}

/** Some write these as text. */
function flagOf(raw: JsonObject, key: string): boolean {
  const value = raw[key] ?? false;
  if (typeof value === 'boolean') return value;
  if (typeof value === 'string' && /^(true|false)$/i.test(value)) return value.toLowerCase() === 'true';
  throw invalid(`${key} is neither true nor false`);
}

function shown(value: unknown): string {
  return oneLine(JSON.stringify(value));
}

function invalid(reason: string): BerthError {
  return failedPrecondition(reason);
}
