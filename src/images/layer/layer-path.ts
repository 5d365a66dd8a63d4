/**
 * Names of a layer's entries: taken apart, and refused where they could lead out of the layer; whiteouts recognised.
 *
 * Pure. Names are byte strings (one character a byte). Source of whiteouts: OCI image spec, layer.md, "Whiteouts".
 */
import { invalidArgument } from '../../lib/errors.ts';

/** PATH_MAX without its NUL: a longer path could be made component by component, but never be named by a program. */
const pathBytesMax = 4095;
/** NAME_MAX of every Linux file system that holds overlays. */
const nameBytesMax = 255;
/** Every component of the present directory is an open fd. */
const depthMax = 512;

const whiteoutPrefix = '.wh.';
const metadataPrefix = '.wh..wh.';
const opaqueName = '.wh..wh..opq';

/** What an entry's path asks for. Paths are made of clean components joined by `/`, '' for the layer's root. */
export type LayerPath =
  | { readonly kind: 'root' }
  | { readonly kind: 'node'; readonly parent: string; readonly name: string }
  /** Hides `name` of the layers below. */
  | { readonly kind: 'whiteout'; readonly parent: string; readonly name: string }
  /** Hides everything that the layers below have in `parent`. */
  | { readonly kind: 'opaque'; readonly parent: string }
  /** Bookkeeping of aufs, of no use here. */
  | { readonly kind: 'ignored' };

/** @throws {BerthError} INVALID_ARGUMENT for a path with `..`, or longer or deeper than Linux can use. */
export function toLayerPath(path: string): LayerPath {
  const clean = toCleanPath(path);
  if (clean === '') return { kind: 'root' };
  const { parent, name } = splitPath(clean);
  if (clean.startsWith(metadataPrefix) && clean !== opaqueName) return { kind: 'ignored' };
  if (!name.startsWith(whiteoutPrefix)) return { kind: 'node', parent, name };
  if (name === opaqueName) return { kind: 'opaque', parent };
  if (name.startsWith(metadataPrefix)) return { kind: 'ignored' };
  const hidden = name.slice(whiteoutPrefix.length);
  if (hidden === '' || hidden === '.' || hidden === '..') throw invalidArgument(`whiteout ${shownPath(path)} names no file`);
  return { kind: 'whiteout', parent, name: hidden };
}

/** An empty component, `.` or `..`. */
const oddComponent = /(?:^|\/)\.{0,2}(?:\/|$)/;

/** A path below the layer's root without empty and `.` components; a leading `/` means that root. */
export function toCleanPath(path: string): string {
  // The usual case, without garbage: so short that no limit is reached.
  if (path.length <= nameBytesMax && !oddComponent.test(path)) return path;
  if (path.length > pathBytesMax)
    throw invalidArgument(`path of ${path.length} bytes, more than the ${pathBytesMax} that Linux can name: ${shownPath(path)}`);
  const components = path.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) throw invalidArgument(`path ${shownPath(path)} has a ".." component, which could leave the layer`);
  if (components.length > depthMax) throw invalidArgument(`path ${shownPath(path)} is ${components.length} directories deep, more than ${depthMax}`);
  const long = components.find((component) => component.length > nameBytesMax);
  if (long !== undefined) throw invalidArgument(`path ${shownPath(path)} has a name of ${long.length} bytes, more than ${nameBytesMax}`);
  return components.join('/');
}

/** @param clean as toCleanPath() gives it, not ''. */
export function splitPath(clean: string): { parent: string; name: string } {
  const slash = clean.lastIndexOf('/');
  return slash < 0 ? { parent: '', name: clean } : { parent: clean.slice(0, slash), name: clean.slice(slash + 1) };
}

/** A byte string for people, on one line. */
export function shownPath(path: string): string {
  const text = Buffer.from(path.slice(0, 200), 'latin1').toString('utf8');
  return `${JSON.stringify(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?')}${path.length > 200 ? '…' : ''}`;
}
