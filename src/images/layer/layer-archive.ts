/**
 * A layer's archive from what lies in its directory: the record of its contents, the files, and what later entries replaced.
 *
 * Synchronous, for a worker thread or a command. Finds where each part of the archive is; whether it is still what it was, is the reader's to see.
 */
import { existsSync } from 'node:fs';
import { type Contents, readTarSplit, replacedDirOf } from './tar-split.ts';

export type LayerPlace = { readonly filesDir: string; readonly tarSplitFile: string };

/** `directory` and `path`: where the file or link lies. The path (one character a byte) leads through no symbolic link, unless somebody made one there. */
export type ArchivePart = { readonly kind: 'bytes'; readonly bytes: Buffer } | (Contents & Found);
type Found = { readonly directory: string; readonly path: string };

/** For a path, when it lost what it had (the number of a part), and by which number that lies aside. In order. */
type Replacements = ReadonlyMap<string, readonly { readonly position: number; readonly number: number }[]>;

/** @throws ENOENT for a layer of which nothing was recorded; {BerthError} FAILED_PRECONDITION when the record is damaged. */
export function* partsOfLayer(layer: LayerPlace): Generator<ArchivePart, undefined> {
  const replacements = readReplacements(layer.tarSplitFile);
  let position = 0;
  for (const part of readTarSplit(layer.tarSplitFile)) {
    position += 1;
    if (part.kind === 'bytes') yield part;
    else if (part.kind !== 'replaced') yield { ...part, ...placeOf(layer, replacements, part.path, position) };
  }
}

/** Of the usual layer, where nothing was replaced, the record is read once. */
function readReplacements(tarSplitFile: string): Replacements {
  const found = new Map<string, { position: number; number: number }[]>();
  if (!existsSync(replacedDirOf(tarSplitFile))) return found;
  let position = 0;
  let number = 0;
  for (const part of readTarSplit(tarSplitFile)) {
    position += 1;
    if (part.kind !== 'replaced') continue;
    const known = found.get(part.path);
    if (known === undefined) found.set(part.path, [{ position, number }]);
    else known.push({ position, number });
    number += 1;
  }
  return found;
}

/** Where that is which was made at this position: in its place, or where it, or a directory above it, was moved first. */
function placeOf(layer: LayerPlace, replacements: Replacements, path: string, position: number): Found {
  let first: { readonly position: number; readonly path: string } | undefined;
  for (let end = path.length; replacements.size > 0 && end > 0; end = path.lastIndexOf('/', end - 1)) {
    const next = firstAfter(replacements.get(path.slice(0, end)) ?? [], position);
    if (next !== undefined && (first === undefined || next.position < first.position)) {
      first = { position: next.position, path: `${next.number}${path.slice(end)}` };
    }
  }
  return first === undefined ? { directory: layer.filesDir, path } : { directory: replacedDirOf(layer.tarSplitFile), path: first.path };
}

/** By halves: a hostile archive has one name a million times. */
function firstAfter<T extends { readonly position: number }>(sorted: readonly T[], position: number): T | undefined {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle]?.position ?? 0) > position) high = middle;
    else low = middle + 1;
  }
  return sorted[low];
}

/** For node:fs. */
export function pathBytes({ directory, path }: Found): Buffer {
  return Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(path, 'latin1')]);
}
