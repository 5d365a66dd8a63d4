/**
 * Parses hosts.toml: the mirrors of a registry in their order, then the registry itself.
 *
 * Pure: hosts-directory.ts reads the files. Format: containerd docs/hosts.md (facts).
 */
import { parse } from 'smol-toml';
import { type BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { oneLine, quoted, toObject, toOptionalText, toText } from '../document/untrusted-json.ts';

export type TlsFiles = {
  /** PEM files trusted in addition to the system's. Absolute paths. */
  readonly caFiles: readonly string[];
  /** `keyFile` equals `certFile` if one file contains both. */
  readonly clientPairs: readonly { readonly certFile: string; readonly keyFile: string }[];
  readonly skipVerify: boolean;
};

export type RegistryHost = {
  readonly scheme: 'http' | 'https';
  /** With the port unless it is the default port of the scheme. */
  readonly host: string;
  /** `/v2` or its replacement, without a trailing slash. */
  readonly basePath: string;
  /** `pull`: fetch by digest. `resolve`: look up a tag. */
  readonly capabilities: { readonly pull: boolean; readonly resolve: boolean };
  readonly tls: TlsFiles;
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** A mirror gets only credentials that are explicitly for it. */
  readonly isMirror: boolean;
  /** Absolute path of a file with credentials, in Docker's format. */
  readonly authFile?: string;
};

const noTlsFiles: TlsFiles = { caFiles: [], clientPairs: [], skipVerify: false };

/** Returns the configuration directories of a registry, of which the first existing one is used: `host_port_`, `host:port`, `_default`. */
export function hostDirectoryNames(domain: string): readonly string[] {
  const withPort = /^(.+):([0-9]+)$/.exec(domain);
  return [...(withPort === null ? [] : [`${withPort[1]}_${withPort[2]}_`]), domain, '_default'];
}

/** Returns the registry itself, without any configuration. Uses TLS except on loopback addresses. */
export function defaultHost(domain: string, tls: TlsFiles = noTlsFiles): RegistryHost {
  const hasCertificates = tls.caFiles.length > 0 || tls.clientPairs.length > 0;
  return {
    scheme: isLoopback(domain) && !hasCertificates ? 'http' : 'https',
    host: domain === 'docker.io' ? 'registry-1.docker.io' : domain,
    basePath: '/v2',
    capabilities: { pull: true, resolve: true },
    tls,
    headers: {},
    isMirror: false,
  };
}

/** `localhost`, 127.0.0.0/8 or `::1`, with or without a port. */
function isLoopback(domain: string): boolean {
  const host = domain.replace(/:[0-9]+$/, '');
  return host === 'localhost' || host === '[::1]' || /^127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$/.test(host);
}

/** Reports whether requests need `?ns=`, the registry in the image name: the host is not that registry. */
export function needsNamespace(host: RegistryHost, domain: string): boolean {
  return host.host !== domain && host.host !== defaultHost(domain).host;
}

/**
 * Parses a hosts.toml.
 *
 * @param file its path, for messages. Certificate paths are relative to its directory.
 * @returns the mirrors in the order of the file, then the registry itself.
 * @throws {BerthError} FAILED_PRECONDITION with the file and the invalid key.
 */
export function parseHostsFile(text: string, domain: string, file: string): readonly RegistryHost[] {
  const document = toObject(parseToml(text, file), file);
  const directory = file.slice(0, file.lastIndexOf('/'));
  const table = document.host === undefined ? {} : toObject(document.host, `${file}: host`);
  const mirrors = Object.entries(table).map(([url, value]) => {
    const what = `${file}: host.${quoted(url)}`;
    return toHost({ url, settings: toObject(value, what), isMirror: true, directory, what });
  });
  const server = toOptionalText(document.server, `${file}: server`);
  const fallback = {
    url: server === '' ? urlOf(defaultHost(domain)) : server,
    settings: document,
    isMirror: false,
    directory,
    what: `${file}: server`,
  };
  return [...mirrors, toHost(fallback)];
}

function parseToml(text: string, file: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    throw failedPrecondition(`${file}: ${oneLine(reasonOf(error).split('\n', 1)[0] ?? '')}`, error);
  }
}

function urlOf(host: RegistryHost): string {
  return `${host.scheme}://${host.host}`;
}

type HostEntry = {
  readonly url: string;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly isMirror: boolean;
  readonly directory: string;
  readonly what: string;
};

function toHost({ url: text, settings, isMirror, directory, what }: HostEntry): RegistryHost {
  const url = URL.parse(text.includes('://') ? text : `https://${text}`);
  const isUsable = url !== null && (url.protocol === 'http:' || url.protocol === 'https:') && url.host !== '';
  if (!isUsable) throw failedPrecondition(`${what}: ${quoted(text)} is not an http or https URL`);
  if (url.username !== '' || url.password !== '') throw failedPrecondition(`${what}: the URL must not contain credentials`);
  if (url.search !== '' || url.hash !== '') throw failedPrecondition(`${what}: the URL must not have a query or fragment`);
  const path = url.pathname.replace(/\/+$/, '');
  const overridesPath = toFlag(settings.override_path, `${what}: override_path`);
  return {
    scheme: url.protocol === 'http:' ? 'http' : 'https',
    host: url.host,
    basePath: overridesPath || path.endsWith('/v2') ? path : `${path}/v2`,
    capabilities: toCapabilities(settings.capabilities, `${what}: capabilities`),
    tls: {
      caFiles: toPaths(settings.ca, directory, `${what}: ca`),
      clientPairs: toClientPairs(settings.client, directory, `${what}: client`),
      skipVerify: toFlag(settings.skip_verify, `${what}: skip_verify`),
    },
    headers: toHeaders(settings.header, `${what}: header`),
    isMirror,
    ...(settings.auth_file === undefined
      ? {}
      : { authFile: absolute(toText(settings.auth_file, `${what}: auth_file`), directory, `${what}: auth_file`) }),
  };
}

function toFlag(value: unknown, what: string): boolean {
  if (value === undefined || typeof value === 'boolean') return value === true;
  throw wrong(what, 'true or false');
}

/** Without the key, a host has all capabilities. */
function toCapabilities(value: unknown, what: string): RegistryHost['capabilities'] {
  if (value === undefined) return { pull: true, resolve: true };
  const names = toTexts(value, what);
  const unknown = names.find((name) => !['pull', 'resolve', 'push', 'referrers', 'dial'].includes(name));
  if (unknown !== undefined) throw failedPrecondition(`${what}: unknown capability ${quoted(unknown)}; use "pull" and "resolve"`);
  return { pull: names.includes('pull'), resolve: names.includes('resolve') };
}

function toTexts(value: unknown, what: string): readonly string[] {
  if (typeof value === 'string') return [toText(value, what)];
  if (!Array.isArray(value)) throw wrong(what, 'a string or a list of strings');
  return value.map((element) => toText(element, what));
}

function toPaths(value: unknown, directory: string, what: string): readonly string[] {
  return value === undefined ? [] : toTexts(value, what).map((path) => absolute(path, directory, what));
}

function absolute(path: string, directory: string, what: string): string {
  if (path === '') throw wrong(what, 'a path');
  return path.startsWith('/') ? path : `${directory}/${path}`;
}

/** Accepts a file with certificate and key, a list of such files, or a list of [certificate, key]. */
function toClientPairs(value: unknown, directory: string, what: string): TlsFiles['clientPairs'] {
  if (value === undefined) return [];
  const entries: readonly unknown[] = Array.isArray(value) ? value : [value];
  return entries.map((entry) => {
    const pair = toTexts(entry, what);
    if (pair.length < 1 || pair.length > 2) throw wrong(what, 'pairs of certificate and key');
    const certFile = absolute(pair[0] ?? '', directory, what);
    return { certFile, keyFile: pair[1] === undefined || pair[1] === '' ? certFile : absolute(pair[1], directory, what) };
  });
}

function toHeaders(value: unknown, what: string): RegistryHost['headers'] {
  if (value === undefined) return {};
  const entries = Object.entries(toObject(value, what)).map(([name, texts]): [string, readonly string[]] => {
    if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name)) throw failedPrecondition(`${what}: invalid header name ${quoted(name)}`);
    const values = toTexts(texts, `${what}.${name}`);
    // The value is not quoted: it may be a secret.
    if (!values.every((text) => /^[\t\x20-\x7e\x80-\xff]*$/.test(text))) throw wrong(`${what}.${name}`, 'a line of Latin-1 text');
    return [name.toLowerCase(), values];
  });
  return Object.fromEntries(entries);
}

function wrong(what: string, expected: string): BerthError {
  return failedPrecondition(`${what}: must be ${expected}`);
}
