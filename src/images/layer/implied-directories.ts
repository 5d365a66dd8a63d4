/**
 * Gives directories that a layer has without an entry of their own the attributes of the same directories in the layers below. Runs in a worker.
 *
 * The archive of such a layer has `tmp/file`, but not `tmp/`. Unpacked alone, `tmp` belongs to root with mode 0755, and overlayfs would show that instead of
 * the mode of the layer below. A layer may belong to several images, so that it is not changed: the attributes are those of a directory above all layers of
 * an image. containerd, which unpacks a layer on top of the lower ones, copies them: archive.Apply, mkparent().
 */
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { BerthError } from '../../lib/errors.ts';
import { copyMetadata } from '../../sys/filesystem/copy-tree.ts';
import { isOpaque, readXattrs } from '../../sys/filesystem/xattrs.ts';

export type ParentsJob = {
  /** Topmost first. `impliedFile` exists if the layer has implied directories. */
  readonly layers: readonly { readonly filesDir: string; readonly impliedFile: string }[];
  /** A directory to create. It is not created if the layers already show the right attributes. */
  readonly target: string;
};

/** Limit time and memory of a job: some seconds, some hundred MiB. The largest images have about a hundred thousand directories. */
const nodesMax = 300_000;
const lookupsMax = 1_000_000;

/** Writes the list of a layer's implied directories. Paths are byte strings (one character per byte) relative to the layer. */
export function writeImplied(file: string, paths: Iterable<string>): void {
  writeFileSync(file, [...paths].join('\0'), 'latin1');
}

/** @throws {BerthError} RESOURCE_EXHAUSTED for an image with too many implied directories. */
export function restoreParents({ layers, target }: ParentsJob): void {
  const tops = layers.map(({ filesDir }, layer): Found => ({ layer, path: bytePath(filesDir), isOpaque: false }));
  const restored = findRestored(treeOf(layers), tops);
  if (restored.length === 0) return;
  const made = `${target}.new`;
  rmSync(made, { recursive: true, force: true });
  for (const { path } of restored) mkdirSync(bytesOf(bytePath(made) + path));
  // Children first: creating them has changed the times.
  for (const { path, source } of restored.toReversed()) copyAttributes(source, bytePath(made) + path);
  renameSync(made, target);
}

/** A directory that is implied in some layers, or a parent of one. */
type Node = { readonly children: Map<string, Node>; readonly impliedIn: number[] };

function treeOf(layers: ParentsJob['layers']): Node {
  const root: Node = { children: new Map(), impliedIn: [] };
  let nodes = 0;
  const childOf = (node: Node, name: string): Node => {
    const known = node.children.get(name);
    if (known !== undefined) return known;
    nodes += 1;
    if (nodes > nodesMax) throw tooMany();
    const child: Node = { children: new Map(), impliedIn: [] };
    node.children.set(name, child);
    return child;
  };
  for (const [layer, { impliedFile }] of layers.entries()) {
    const list = existsSync(impliedFile) ? readFileSync(impliedFile, 'latin1').split('\0') : [];
    for (const path of list) path.split('/').reduce(childOf, root).impliedIn.push(layer);
  }
  return root;
}

/** A directory of a layer. `isOpaque`: its content hides that of the layers below. */
type Found = { readonly layer: number; readonly path: string; readonly isOpaque: boolean };
/** `path` is '' or starts with a slash; `source` has the right attributes. */
type Restored = { readonly path: string; readonly source: string };

/** Returns the directories whose attributes overlayfs would not show, with all their parents, each after its parent. @param tops topmost first. */
function findRestored(root: Node, tops: readonly Found[]): Restored[] {
  const restored = new Set<Restored>();
  let lookups = 0;
  const visit = (node: Node, found: readonly Found[], parents: readonly Restored[]): void => {
    for (const [name, child] of node.children) {
      lookups += found.length;
      if (lookups > lookupsMax) throw tooMany();
      const below = directoriesIn(found, name);
      const [shown] = below;
      if (shown === undefined) continue;
      const source = sourceOf(child, below);
      const path = [...parents, { path: `${parents.at(-1)?.path ?? ''}/${name}`, source: source ?? shown.path }];
      if (source !== undefined) for (const each of path) restored.add(each);
      const opaque = below.findIndex(({ isOpaque }) => isOpaque);
      visit(child, opaque < 0 ? below : below.slice(0, opaque + 1), path);
    }
  };
  visit(root, tops, [{ path: '', source: tops[0]?.path ?? '' }]);
  return [...restored];
}

/** Returns the directories of this name that overlayfs merges, topmost first. An opaque one has the attributes of those below: image-spec, layer.md. */
function directoriesIn(parents: readonly Found[], name: string): Found[] {
  const found: Found[] = [];
  for (const parent of parents) {
    const path = `${parent.path}/${name}`;
    const stat = lstatSync(bytesOf(path), { throwIfNoEntry: false });
    if (stat === undefined) continue;
    // A whiteout, a link, or another file hides the layers below.
    if (!stat.isDirectory()) break;
    found.push({ layer: parent.layer, path, isOpaque: isOpaque(path) });
  }
  return found;
}

/** Returns the directory with the right attributes; undefined if overlayfs shows them already. @param found at least one. */
function sourceOf({ impliedIn }: Node, found: readonly Found[]): string | undefined {
  const isImplied = ({ layer }: Found): boolean => impliedIn.includes(layer);
  const explicit = found.find((each) => !isImplied(each));
  return explicit !== undefined && explicit !== found[0] && isUnusual(explicit.path) ? explicit.path : undefined;
}

/** Reports whether a directory differs from one that was created without an entry. Its time does not count. */
function isUnusual(path: string): boolean {
  const { uid, gid, mode } = lstatSync(bytesOf(path));
  return uid !== 0 || gid !== 0 || (mode & 0o7777) !== 0o755 || readXattrs(path).length > 0;
}

function copyAttributes(source: string, target: string): void {
  copyMetadata(source, target, lstatSync(bytesOf(source), { bigint: true }), { uid: (id) => id, gid: (id) => id });
}

const tooMany = (): BerthError => new BerthError('RESOURCE_EXHAUSTED', 'image has too many directories without entries in its layers');
/** Converts a path of the daemon to a byte string. */
const bytePath = (path: string): string => Buffer.from(path).toString('latin1');
const bytesOf = (path: string): Buffer => Buffer.from(path, 'latin1');
