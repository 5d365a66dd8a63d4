/**
 * Where an image's registry is to be found: mirrors first, then the registry itself, as hosts.toml of the node says.
 *
 * Pure: hosts-directory.ts reads the files. Format: containerd docs/hosts.md (facts).
 */
import { parse } from 'smol-toml';
import { type BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { oneLine, quoted, toObject, toOptionalText, toText } from '../document/untrusted-json.ts';

export type TlsFiles = {
  /** PEM files trusted besides the system's. Absolute paths. */
  readonly caFiles: readonly string[];
  /** `keyFile` is the same as `certFile` where one file holds both. */
  readonly clientPairs: readonly { readonly certFile: string; readonly keyFile: string }[];
  readonly skipVerify: boolean;
};

export type RegistryHost = {
  readonly scheme: 'http' | 'https';
  /** With port unless it is the scheme's own. */
  readonly host: string;
  /** `/v2` or what stands for it; no slash at the end. */
  readonly basePath: string;
  /** `pull`: things named by digest. `resolve`: what a tag points at. */
  readonly capabilities: { readonly pull: boolean; readonly resolve: boolean };
  readonly tls: TlsFiles;
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** Stands in for the registry, and gets no credentials that are not expressly its own. */
  readonly isMirror: boolean;
};

const noTlsFiles: TlsFiles = { caFiles: [], clientPairs: [], skipVerify: false };

/** Directories of a registry's configuration, the first that exists counts: `host_port_`, `host:port`, `_default`. */
export function hostDirectoryNames(domain: string): readonly string[] {
  const withPort = /^(.+):([0-9]+)$/.exec(domain);
  return [...(withPort === null ? [] : [`${withPort[1]}_${withPort[2]}_`]), domain, '_default'];
}

/** The registry itself, without any configuration. TLS everywhere but on the loopback. */
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

/** Whether requests must say which registry they are about (`?ns=`): this host is not the one that the name means. */
export function needsNamespace(host: RegistryHost, domain: string): boolean {
  return host.host !== domain && host.host !== defaultHost(domain).host;
}

/**
 * @param file its path, for messages; relative certificate paths begin at its directory.
 * @returns mirrors in the order of the file, and last the registry itself.
 * @throws {BerthError} FAILED_PRECONDITION naming the file and the key that cannot be used.
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
  if (url.username !== '' || url.password !== '') throw failedPrecondition(`${what}: a URL must not hold credentials`);
  if (url.search !== '' || url.hash !== '') throw failedPrecondition(`${what}: a URL must not have a query or fragment`);
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
  };
}

function toFlag(value: unknown, what: string): boolean {
  if (value === undefined || typeof value === 'boolean') return value === true;
  throw wrong(what, 'true or false');
}

/** Without the key a host can do everything. */
function toCapabilities(value: unknown, what: string): RegistryHost['capabilities'] {
  if (value === undefined) return { pull: true, resolve: true };
  const names = toTexts(value, what);
  const unknown = names.find((name) => !['pull', 'resolve', 'push', 'referrers', 'dial'].includes(name));
  if (unknown !== undefined) throw failedPrecondition(`${what}: ${quoted(unknown)} is unknown; use "pull" and "resolve"`);
  return { pull: names.includes('pull'), resolve: names.includes('resolve') };
}

function toTexts(value: unknown, what: string): readonly string[] {
  if (typeof value === 'string') return [toText(value, what)];
  if (!Array.isArray(value)) throw wrong(what, 'a text or a list of texts');
  return value.map((element) => toText(element, what));
}

function toPaths(value: unknown, directory: string, what: string): readonly string[] {
  return value === undefined ? [] : toTexts(value, what).map((path) => absolute(path, directory, what));
}

function absolute(path: string, directory: string, what: string): string {
  if (path === '') throw wrong(what, 'a path');
  return path.startsWith('/') ? path : `${directory}/${path}`;
}

/** One file with certificate and key, a list of such, or a list of [certificate, key]. */
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
    if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name)) throw failedPrecondition(`${what}: ${quoted(name)} is not a name of a header`);
    const values = toTexts(texts, `${what}.${name}`);
    // The value may be a secret: it is not shown.
    if (!values.every((text) => /^[\t\x20-\x7e\x80-\xff]*$/.test(text))) throw wrong(`${what}.${name}`, 'one line of Latin-1');
    return [name.toLowerCase(), values];
  });
  return Object.fromEntries(entries);
}

function wrong(what: string, expected: string): BerthError {
  return failedPrecondition(`${what}: should be ${expected}`);
}
