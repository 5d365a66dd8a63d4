/**
 * Parses the paths of a layer's entries: refuses those that could leave the layer, and recognizes whiteouts.
 *
 * Pure. Paths are byte strings (one character per byte). Source of whiteouts: OCI image spec, layer.md, "Whiteouts".
 */
import { invalidArgument } from '../../lib/errors.ts';

/** PATH_MAX without its NUL: a longer path could be created component by component, but no program could use it. */
const pathBytesMax = 4095;
/** NAME_MAX of every Linux file system that holds overlays. */
const nameBytesMax = 255;
/** Every component of the current directory is an open fd. */
const depthMax = 512;

const whiteoutPrefix = '.wh.';
const metadataPrefix = '.wh..wh.';
const opaqueName = '.wh..wh..opq';

/** The meaning of an entry's path. Paths are clean components joined by `/`; '' is the layer's root. */
export type LayerPath =
  | { readonly kind: 'root' }
  | { readonly kind: 'node'; readonly parent: string; readonly name: string }
  /** Hides `name` of lower layers. */
  | { readonly kind: 'whiteout'; readonly parent: string; readonly name: string }
  /** Hides the content of `parent` in lower layers. */
  | { readonly kind: 'opaque'; readonly parent: string }
  /** Metadata of aufs. */
  | { readonly kind: 'ignored' };

/** Parses the path of an entry. @throws {BerthError} INVALID_ARGUMENT for a path with `..`, and for one that is too long or too deep. */
export function toLayerPath(path: string): LayerPath {
  const clean = toCleanPath(path);
  if (clean === '') return { kind: 'root' };
  const { parent, name } = splitPath(clean);
  if (clean.startsWith(metadataPrefix) && clean !== opaqueName) return { kind: 'ignored' };
  if (!name.startsWith(whiteoutPrefix)) return { kind: 'node', parent, name };
  if (name === opaqueName) return { kind: 'opaque', parent };
  if (name.startsWith(metadataPrefix)) return { kind: 'ignored' };
  const hidden = name.slice(whiteoutPrefix.length);
  if (hidden === '' || hidden === '.' || hidden === '..') throw invalidArgument(`invalid whiteout ${shownPath(path)}: it names no file`);
  return { kind: 'whiteout', parent, name: hidden };
}

/** Matches an empty component, `.` and `..`. */
const unusualComponent = /(?:^|\/)\.{0,2}(?:\/|$)/;

/** Returns a path relative to the layer's root, without empty and `.` components. A leading `/` means that root. */
export function toCleanPath(path: string): string {
  // The common case, without allocations: too short to reach any limit.
  if (path.length <= nameBytesMax && !unusualComponent.test(path)) return path;
  if (path.length > pathBytesMax) throw invalidArgument(`path of ${path.length} bytes exceeds the limit of ${pathBytesMax}: ${shownPath(path)}`);
  const components = path.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) throw invalidArgument(`path ${shownPath(path)} has a ".." component, which could leave the layer`);
  if (components.length > depthMax)
    throw invalidArgument(`path ${shownPath(path)} is ${components.length} directories deep; the limit is ${depthMax}`);
  const long = components.find((component) => component.length > nameBytesMax);
  if (long !== undefined) throw invalidArgument(`path ${shownPath(path)} has a name of ${long.length} bytes; the limit is ${nameBytesMax}`);
  return components.join('/');
}

/** Splits a path into parent and name. @param clean a result of toCleanPath(), not ''. */
export function splitPath(clean: string): { parent: string; name: string } {
  const slash = clean.lastIndexOf('/');
  return slash < 0 ? { parent: '', name: clean } : { parent: clean.slice(0, slash), name: clean.slice(slash + 1) };
}

/** Returns a byte string for a message, quoted and on one line. */
export function shownPath(path: string): string {
  const text = Buffer.from(path.slice(0, 200), 'latin1').toString('utf8');
  return `${JSON.stringify(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?')}${path.length > 200 ? '…' : ''}`;
}
