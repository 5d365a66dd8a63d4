/**
 * Gives directories that a layer has without an entry of their own the attributes of the same directories in the layers below. Runs in a worker.
 *
 * The archive of such a layer has `tmp/file`, but not `tmp/`. Unpacked alone, `tmp` belongs to root with mode 0755, and overlayfs would show that instead of
 * the mode of the layer below. A layer may belong to several images, so that it is not changed: the attributes are those of a directory above all layers of
 * an image. containerd, which unpacks a layer on top of the lower ones, copies them: archive.Apply, mkparent().
 */
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, type Stats, writeFileSync } from 'node:fs';
import { BerthError } from '../../lib/errors.ts';
import { copyMetadata } from '../../sys/filesystem/copy-tree.ts';
import { isOpaque, readXattrs } from '../../sys/filesystem/xattrs.ts';

export type ParentsJob = {
  /** Topmost first. `impliedFile` exists if the layer has implied directories. */
  readonly layers: readonly { readonly filesDir: string; readonly impliedFile: string }[];
  /** A directory to create. It is not created if the layers already show the right attributes. */
  readonly target: string;
};

/** Limits the time of a job: a lookup takes some microseconds. Images of build tools have some thousand directories. */
const lookupsMax = 2_000_000;
/** Limits the memory of a job. */
const listsBytesMax = 64 << 20;

/** Writes the list of a layer's implied directories. Paths are byte strings (one character per byte) relative to the layer. */
export function writeImplied(file: string, paths: Iterable<string>): void {
  writeFileSync(file, [...paths].join('\0'), 'latin1');
}

/** @throws {BerthError} RESOURCE_EXHAUSTED for an image with too many implied directories. */
export function restoreParents({ layers, target }: ParentsJob): void {
  const stack = readStack(layers);
  const restored = new Map<string, string>();
  for (const path of new Set(stack.flatMap(({ implied }) => [...implied]))) {
    const source = sourceOf(stack, path);
    if (source !== undefined) restored.set(path, source);
  }
  if (restored.size === 0) return;
  const made = `${target}.new`;
  rmSync(made, { recursive: true, force: true });
  const paths = withParents(restored.keys());
  for (const path of paths) mkdirSync(bytesOf(joined(bytePath(made), path)));
  // Children first: creating them has changed the times.
  for (const path of paths.toReversed()) copyAttributes(restored.get(path) ?? shownAt(stack, path), joined(bytePath(made), path));
  renameSync(made, target);
}

/** `missing`: the layers below decide. `hidden`: nothing of the layers below is shown. `opaque`: a directory whose content hides that of the layers below. */
type State = 'missing' | 'hidden' | 'directory' | 'opaque';
type Layer = { readonly implied: ReadonlySet<string>; readonly pathOf: (path: string) => string; readonly stateOf: (path: string) => State };

function readStack(layers: ParentsJob['layers']): Layer[] {
  let [lookups, listsBytes] = [0, 0];
  return layers.map(({ filesDir, impliedFile }): Layer => {
    const list = existsSync(impliedFile) ? readFileSync(impliedFile, 'latin1') : '';
    listsBytes += list.length;
    if (listsBytes > listsBytesMax) throw tooMany();
    const top = bytePath(filesDir);
    const pathOf = (path: string): string => joined(top, path);
    const states = new Map<string, State>([['', 'directory']]);
    const lookUp = (path: string): State => {
      const parent = stateOf(parentOf(path));
      if (parent === 'missing' || parent === 'hidden') return parent;
      lookups += 1;
      if (lookups > lookupsMax) throw tooMany();
      const stat = statOf(pathOf(path));
      if (stat === undefined) return parent === 'opaque' ? 'hidden' : 'missing';
      // A whiteout, a link, or another file.
      if (!stat.isDirectory()) return 'hidden';
      return parent === 'opaque' || isOpaque(pathOf(path)) ? 'opaque' : 'directory';
    };
    const stateOf = (path: string): State => {
      const state = states.get(path) ?? lookUp(path);
      states.set(path, state);
      return state;
    };
    return { implied: new Set(list === '' ? [] : list.split('\0')), pathOf, stateOf };
  });
}

/** Returns the directory with the right attributes; undefined if overlayfs shows them already. */
function sourceOf(stack: readonly Layer[], path: string): string | undefined {
  let isShownImplied = false;
  for (const layer of stack) {
    const state = layer.stateOf(path);
    if (state === 'missing') continue;
    if (state === 'hidden') return undefined;
    if (!layer.implied.has(path)) return isShownImplied && isUnusual(layer.pathOf(path)) ? layer.pathOf(path) : undefined;
    isShownImplied = true;
    // If it is opaque itself, its attributes are still those of the layers below: image-spec, layer.md, "Opaque Whiteout".
    if (layer.stateOf(parentOf(path)) === 'opaque') return undefined;
  }
  return undefined;
}

/** Reports whether a directory differs from one that was created without an entry. Its time does not count. */
function isUnusual(path: string): boolean {
  const { uid, gid, mode } = lstatSync(bytesOf(path));
  return uid !== 0 || gid !== 0 || (mode & 0o7777) !== 0o755 || readXattrs(path).length > 0;
}

/** Returns the directory that overlayfs shows. It exists: only parents of directories that are shown are looked up. */
function shownAt(stack: readonly Layer[], path: string): string {
  const layer = stack.find((each) => each.stateOf(path) !== 'missing');
  return (layer ?? (stack[0] as Layer)).pathOf(path);
}

/** Returns the paths and those of all their parents, each after its parent. The first is '', the top. */
function withParents(paths: Iterable<string>): string[] {
  const all = new Set(['']);
  for (const path of paths)
    for (let end = path.indexOf('/'); ; end = path.indexOf('/', end + 1)) {
      all.add(end === -1 ? path : path.slice(0, end));
      if (end === -1) break;
    }
  return [...all].sort((a, b) => a.split('/').length - b.split('/').length || a.length - b.length);
}

function copyAttributes(source: string, target: string): void {
  copyMetadata(source, target, lstatSync(bytesOf(source), { bigint: true }), { uid: (id) => id, gid: (id) => id });
}

function statOf(path: string): Stats | undefined {
  return lstatSync(bytesOf(path), { throwIfNoEntry: false });
}

const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')));
const tooMany = (): BerthError => new BerthError('RESOURCE_EXHAUSTED', 'image has too many directories without entries in its layers');
const joined = (top: string, path: string): string => (path === '' ? top : `${top}/${path}`);
/** Converts a path of the daemon to a byte string. */
const bytePath = (path: string): string => Buffer.from(path).toString('latin1');
const bytesOf = (path: string): Buffer => Buffer.from(path, 'latin1');
