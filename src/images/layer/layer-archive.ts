/**
 * Lists the parts of a layer's archive from its directory: the record of its contents, the files, and the files that later entries replaced.
 *
 * Synchronous, for a worker thread or a command. Locates each part of the archive; the caller verifies the content.
 */
import { existsSync } from 'node:fs';
import { type Contents, readTarSplit, replacedDirOf } from './tar-split.ts';

export type LayerPlace = { readonly filesDir: string; readonly tarSplitFile: string };

/** `directory` and `path`: the location of the file or link. The path (one character per byte) contained no symbolic link when it was written. */
export type ArchivePart = { readonly kind: 'bytes'; readonly bytes: Buffer } | (Contents & Found);
type Found = { readonly directory: string; readonly path: string };

/** By path, in order: the number of the part that replaced an earlier file, and the name under which that file was kept. */
type Replacements = ReadonlyMap<string, readonly { readonly position: number; readonly number: number }[]>;

/** Yields the parts in their order. @throws ENOENT for a layer without a record; {BerthError} FAILED_PRECONDITION when the record is corrupt. */
export function* partsOfLayer(layer: LayerPlace): Generator<ArchivePart, undefined> {
  const replacements = readReplacements(layer.tarSplitFile);
  let position = 0;
  for (const part of readTarSplit(layer.tarSplitFile)) {
    position += 1;
    if (part.kind === 'bytes') yield part;
    else if (part.kind !== 'replaced') yield { ...part, ...placeOf(layer, replacements, part.path, position) };
  }
}

/** Reads the record a second time only if something was replaced, which is rare. */
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

/** Returns the location of the file written at this position: its path, or where it was moved when it or a parent directory was first replaced. */
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

/** Binary search: a hostile archive may contain the same name a million times. */
function firstAfter<T extends { readonly position: number }>(sorted: readonly T[], position: number): T | undefined {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle]?.position ?? 0) > position) high = middle;
    else low = middle + 1;
  }
  return sorted[low];
}

/** Returns the path as bytes, for node:fs. */
export function pathBytes({ directory, path }: Found): Buffer {
  return Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(path, 'latin1')]);
}
