/**
 * Parses and validates a network configuration list and selects its CNI version.
 *
 * Pure: reads no file and knows no plugin. Unknown fields are kept for the plugins.
 */
import { type BerthError, failedPrecondition, reasonOf } from '../lib/errors.ts';
import { goFields, type JsonObject, withExactKeys } from '../lib/go-json.ts';
import { type CniVersion, cniVersions } from './version.ts';

export type PluginConfig = {
  /** File name of the plugin's executable. */
  readonly type: string;
  /** Names of the capabilities declared true. */
  readonly capabilities: readonly string[];
  /** Type of the IPAM plugin it delegates to, or ''. */
  readonly ipamType: string;
  /** The complete object as configured. */
  readonly raw: JsonObject;
};

export type NetworkList = {
  readonly name: string;
  /** The version in use: the highest of `versions`, unless atVersion() selected a lower one. */
  readonly version: CniVersion;
  /** The versions that the configuration allows, lowest first. */
  readonly versions: readonly CniVersion[];
  readonly isCheckDisabled: boolean;
  readonly isGcDisabled: boolean;
  /** Never empty. */
  readonly plugins: readonly PluginConfig[];
  /** The list as configured. A single plugin configuration is wrapped in a list. */
  readonly raw: JsonObject;
};

/** Leaves room for an id and an interface name in a file name of the result cache, at most 255 bytes. */
const nameCharsMax = 128;

/**
 * Parses a network configuration: a list, or the configuration of a single plugin (`*.conf`, until CNI 0.4.0), which becomes a list of one.
 *
 * @param mustBeList true for `*.conflist`.
 * @param readBeside returns the texts of the files with further plugins of a network, in their order. Called only if the list allows them.
 * @throws {BerthError} FAILED_PRECONDITION with the reason only; the caller adds the file name.
 * Source: CNI specification 1.1.0, section 1.
 */
export function parseList(text: string, mustBeList: boolean, readBeside: (network: string) => readonly PluginFile[] = () => []): NetworkList {
  const parsed = parseJson(text);
  if (!isObject(parsed)) throw invalid('not a JSON object');
  const document = withExactKeys(parsed, listKeys);
  const isList = document.plugins !== undefined || mustBeList;
  const raw = isList ? withPluginsBeside(document, readBeside) : toList(document);
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

/** A file with one plugin. `file`: for messages. */
export type PluginFile = { readonly file: string; readonly text: string };

/** Appends the plugins of the files beside a list, unless the list has all its plugins. The result is a complete list. */
function withPluginsBeside(list: JsonObject, readBeside: (network: string) => readonly PluginFile[]): JsonObject {
  const files = flagOf(list, 'loadOnlyInlinedPlugins') ? [] : readBeside(nameOf(list));
  if (list.plugins === undefined && files.length === 0) throw invalid('no "plugins"');
  if (files.length === 0) return list;
  const inlined: unknown = list.plugins ?? [];
  if (!Array.isArray(inlined)) throw invalid('"plugins" is not a list');
  const beside = files.map(({ file, text }) => {
    try {
      const plugin = parseJson(text);
      return pluginOf(plugin, '').raw;
    } catch (error) {
      throw invalid(`${file}: ${reasonOf(error)}`);
    }
  });
  return { ...list, plugins: [...inlined, ...beside] };
}

/** The keys that berth reads or sets. Plugins get them in this case. */
const listKeys = ['cniVersion', 'cniVersions', 'name', 'disableCheck', 'disableGC', 'loadOnlyInlinedPlugins', 'plugins', 'type'];
const pluginKeys = ['cniVersion', 'name', 'type', 'capabilities', 'ipam', 'runtimeConfig', 'prevResult'];

/** Returns the list with `version` as its only version. */
export function atVersion(list: NetworkList, version: CniVersion): NetworkList {
  const { cniVersions: _, ...rest } = list.raw;
  return { ...list, version, versions: [version], raw: { ...rest, cniVersion: version } };
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function toList(plugin: JsonObject): JsonObject {
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
  // The rule of the specification; the name becomes part of file names and of iptables comments.
  if (typeof name !== 'string' || !/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name))
    throw invalid(`invalid name ${quoted(name)}: want letters, digits, "_", "." and "-"`);
  if (name.length > nameCharsMax) throw invalid(`name is longer than ${nameCharsMax} characters`);
  return name;
}

/** Ignores unknown versions in `cniVersions`: they are for newer runtimes. */
function versionsOf(raw: JsonObject): readonly CniVersion[] {
  const { cniVersion, cniVersions: others = [] } = raw;
  if (!Array.isArray(others)) throw invalid('cniVersions is not a list');
  const listed: readonly unknown[] = [cniVersion, ...others].filter((version) => version !== undefined && version !== '');
  // The first versions did not require the field.
  if (listed.length === 0) return ['0.1.0'];
  const supported = cniVersions.filter((version) => listed.includes(version));
  if (supported.length === 0) throw invalid(`unsupported cniVersion ${listed.map(quoted).join(', ')}; supported are ${cniVersions.join(', ')}`);
  return supported;
}

function pluginsOf(raw: JsonObject, isList: boolean): readonly PluginConfig[] {
  const { plugins } = raw;
  if (!Array.isArray(plugins)) throw invalid('"plugins" is not a list');
  if (plugins.length === 0) throw invalid('"plugins" is empty');
  return plugins.map((plugin: unknown, i) => pluginOf(plugin, isList ? `plugins[${i}]: ` : ''));
}

function pluginOf(plugin: unknown, where: string): PluginConfig {
  if (!isObject(plugin)) throw invalid(`${where}not an object`);
  const raw = withExactKeys(plugin, pluginKeys);
  const { type, capabilities = {}, ipam } = raw;
  if (type === undefined || type === '') throw invalid(`${where}no "type"`);
  if (typeof type !== 'string' || !isFileName(type)) throw invalid(`${where}invalid type ${quoted(type)}: want the file name of a plugin`);
  if (!isObject(capabilities)) throw invalid(`${where}capabilities is not an object`);
  const declared = Object.entries(capabilities);
  const malformed = declared.find(([, value]) => typeof value !== 'boolean' && value !== null);
  if (malformed !== undefined) throw invalid(`${where}capability ${malformed[0]} is neither true nor false`);
  const { type: named } = isObject(ipam) ? goFields(ipam, ['type']) : { type: undefined };
  const ipamType = typeof named === 'string' ? named : '';
  if (ipamType !== '' && !isFileName(ipamType)) throw invalid(`${where}invalid ipam type ${quoted(ipamType)}: want the file name of a plugin`);
  return { type, capabilities: declared.filter(([, value]) => value === true).map(([name]) => name), ipamType, raw };
}

function isFileName(text: string): boolean {
  return /^[^/\\\0]+$/.test(text) && text !== '.' && text !== '..';
}

/** Accepts a boolean or its text: some configurations contain "true". */
function flagOf(raw: JsonObject, key: string): boolean {
  const value = raw[key] ?? false;
  if (typeof value === 'boolean') return value;
  if (typeof value === 'string' && /^(true|false)$/i.test(value)) return value.toLowerCase() === 'true';
  throw invalid(`${key} is neither true nor false`);
}

function quoted(value: unknown): string {
  return oneLine(JSON.stringify(value));
}

function invalid(reason: string): BerthError {
  return failedPrecondition(reason);
}
