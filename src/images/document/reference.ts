/**
 * Parses image names and completes them as Docker does: `busybox` is `docker.io/library/busybox:latest`.
 *
 * Pure: never contacts a registry, and never tries several domains for a short name.
 */
import { BerthError, invalidArgument } from '../../lib/errors.ts';
import { withoutUserinfo } from '../../lib/userinfo.ts';
import { quoted } from './untrusted-json.ts';

/** A full image name. If it has a digest, the digest alone identifies the image, and the tag is not recorded. */
export type Reference = {
  /** Host with optional port, e.g. `docker.io`, `localhost:5000`, `[::1]:5000`. */
  readonly domain: string;
  /** Path within the registry, e.g. `library/busybox`. */
  readonly path: string;
  readonly tag?: string;
  /** `sha256:<64 hex>` or `sha512:<128 hex>`. */
  readonly digest?: string;
};

const defaultDomain = 'docker.io';

/** Limit of domain and path together. Source: distribution/reference, NameTotalLengthMax. */
const nameLengthMax = 255;
/** Longer than any valid text: name, tag of 128, digest of sha512, and separators. */
const textLengthMax = 600;
/** Shortest prefix of an id that is looked up; shorter ones would match by accident. */
const imageIdPrefixMin = 7;

const domainPattern =
  /^(?:\[[0-9a-fA-F:]{2,45}\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::([0-9]{1,5}))?$/;
/** Source: OCI distribution spec, "Pulling manifests". */
const pathComponentPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;
const digestPattern = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/**
 * Parses `name`, `name:tag`, `name@digest` or `name:tag@digest`. The tag defaults to `latest` if there is no digest.
 *
 * @throws {BerthError} INVALID_ARGUMENT when the text is none of these.
 */
export function parseReference(text: string): Reference {
  const refuse = (reason: string): never => {
    throw invalidArgument(`invalid image name ${quoted(withoutUserinfo(text), 300)}: ${reason}`);
  };
  if (text === '') return refuse('empty');
  if (text.length > textLengthMax) return refuse(`longer than ${textLengthMax} characters`);
  // As Docker: 64 hex digits are an id, never a repository.
  if (/^[0-9a-f]{64}$/.test(text) || /^sha(?:256|512):[0-9a-f]+$/.test(text)) return refuse('an image id cannot be pulled');
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !isDigest(digest)) return refuse('the digest must be sha256 or sha512 in lower-case hex');
  const { name, tag } = splitTag(at < 0 ? text : text.slice(0, at));
  if (tag !== undefined && !tagPattern.test(tag)) return refuse('the tag must have 1 to 128 letters, digits, ".", "_" or "-"');
  const { domain, path } = splitDomain(name);
  const reason = reasonAgainst(domain, path);
  if (reason !== undefined) return refuse(reason);
  if (digest !== undefined) return tag === undefined ? { domain, path, digest } : { domain, path, tag, digest };
  return { domain, path, tag: tag ?? 'latest' };
}

/** As parseReference(), but returns undefined for an invalid name. */
export function findReference(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch (error) {
    if (error instanceof BerthError) return undefined;
    throw error;
  }
}

/** Returns the reference without its tag if it has a digest: the digest alone identifies the image. */
export function meaningOf(ref: Reference): Reference {
  return ref.digest === undefined ? ref : { domain: ref.domain, path: ref.path, digest: ref.digest };
}

/** Returns `docker.io/library/busybox`. */
export function repositoryName(ref: Reference): string {
  return `${ref.domain}/${ref.path}`;
}

/** Returns `docker.io/library/busybox:1.36`, or undefined for a reference with a digest, whose tag was not resolved. */
export function formatTag(ref: Reference): string | undefined {
  return ref.digest !== undefined || ref.tag === undefined ? undefined : `${repositoryName(ref)}:${ref.tag}`;
}

/** Returns `docker.io/library/busybox@sha256:…`. */
export function formatDigest(ref: Reference, digest: string): string {
  return `${repositoryName(ref)}@${digest}`;
}

/** Returns the full reference for messages: with the digest if it has one, else with the tag. */
export function formatReference(ref: Reference): string {
  return ref.digest === undefined ? `${repositoryName(ref)}:${ref.tag ?? 'latest'}` : formatDigest(ref, ref.digest);
}

/** Reports whether the text is a complete digest of a supported algorithm. */
export function isDigest(text: string): boolean {
  return digestPattern.test(text);
}

/** Reports whether the text is a complete image id: `sha256:<64 hex>`, or only the 64 hex digits. */
export function isImageId(text: string): boolean {
  return /^(?:sha256:)?[0-9a-f]{64}$/.test(text);
}

/**
 * Returns the id or id prefix in the text as `sha256:<hex>`; undefined when it cannot be an id.
 * A prefix without `sha256:` may also be a repository name (`cafebabe`): look up the name first.
 */
export function toImageIdPrefix(text: string): string | undefined {
  const hex = /^(?:sha256:)?([0-9a-f]{1,64})$/.exec(text)?.[1];
  return hex === undefined || hex.length < imageIdPrefixMin ? undefined : `sha256:${hex}`;
}

/** A colon after the last slash starts the tag; a colon before it starts the port. */
function splitTag(text: string): { name: string; tag: string | undefined } {
  const colon = text.lastIndexOf(':');
  if (colon <= text.lastIndexOf('/')) return { name: text, tag: undefined };
  return { name: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** The first component is a domain if it cannot be a path: it contains a dot, a colon or an upper-case letter, or is `localhost`. */
function splitDomain(name: string): { domain: string; path: string } {
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  const isDomain = first.includes('.') || first.includes(':') || first === 'localhost' || first.toLowerCase() !== first;
  if (slash < 0 || !isDomain) return { domain: defaultDomain, path: inLibrary(name) };
  const rest = name.slice(slash + 1);
  // index.docker.io is an old name of the same registry.
  if (first === defaultDomain || first === 'index.docker.io') return { domain: defaultDomain, path: inLibrary(rest) };
  return { domain: first, path: rest };
}

function inLibrary(path: string): string {
  return path.includes('/') ? path : `library/${path}`;
}

/** Returns why the name is invalid; undefined when it is valid. */
function reasonAgainst(domain: string, path: string): string | undefined {
  const port = domainPattern.exec(domain);
  if (port === null) return 'the registry is not a host name with an optional port';
  // The pattern accepts invalid addresses: [:1], 1.2.3.256.
  if (!URL.canParse(`https://${domain.replace(/:[0-9]+$/, '')}`)) return 'the registry is not a valid address';
  if (port[1] !== undefined && (Number(port[1]) < 1 || Number(port[1]) > 65535)) return 'the port is not between 1 and 65535';
  if (path.toLowerCase() !== path) return 'the repository must be lower case';
  if (!path.split('/').every((component) => pathComponentPattern.test(component))) {
    return 'the repository must have lower-case letters and digits, separated by ".", "_", "__", "-" or "/"';
  }
  return domain.length + 1 + path.length > nameLengthMax ? `registry and repository are longer than ${nameLengthMax} characters` : undefined;
}
