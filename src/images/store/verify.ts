/**
 * Reads every file of the store again, holds it against what was recorded when it was unpacked, and computes the diff ids anew. Needs no daemon, and
 * changes nothing.
 *
 * What vanishes in the meantime was removed by a daemon, and is no damage.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants, lstatSync, type Stats } from 'node:fs';
import { lstat, open, readdir, readFile, readlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { type ArchivePart, partsOfLayer, pathBytes } from '../layer/layer-archive.ts';
import type { FileContents } from '../layer/tar-split.ts';
import { parseStoredImage } from './image-record.ts';

export type Damage = {
  /** Hex of its diff id. */
  readonly layer: string;
  /** `etc/os: has other bytes`, the first few. */
  readonly reasons: readonly string[];
  /** Ids of the images that have the layer. */
  readonly images: readonly string[];
};

export type Verification = {
  readonly images: number;
  readonly layers: number;
  readonly files: number;
  readonly bytes: number;
  readonly damages: readonly Damage[];
  /** Records of images that cannot be read, or whose layers are not all there: what is wrong with each. */
  readonly badImages: readonly string[];
  /** Directories of layers of which nothing was recorded. */
  readonly unrecorded: readonly string[];
  /** Names that neither a layer nor an image has: of a pull under way, or left by a daemon that was killed. */
  readonly temporary: readonly string[];
};

const reasonsMax = 5;
const chunkBytes = 1 << 20;
const layerName = /^(?:[0-9a-f]{64}|[0-9a-f]{128})$/;

/** @param root the daemon's. */
export async function verifyStore(root: string): Promise<Verification> {
  const layersDir = join(root, 'layers');
  const names = await readdir(layersDir);
  const layers = names.filter((name) => layerName.test(name));
  const { layersOf, badImages, temporary } = await readImages(join(root, 'images'), new Set(layers));
  const totals = { files: 0, bytes: 0 };
  const damages: Damage[] = [];
  const unrecorded: string[] = [];
  const buffer = Buffer.allocUnsafeSlow(chunkBytes);
  for (const layer of layers) {
    const directory = join(layersDir, layer);
    const found = await verifyLayer(directory, buffer, totals);
    if (!isThere(directory)) continue;
    if (found === undefined) unrecorded.push(layer);
    else if (found.length > 0) damages.push({ layer, reasons: found, images: [...layersOf].filter(([, its]) => its.has(layer)).map(([id]) => id) });
  }
  const others = [...names.filter((name) => !layerName.test(name)).map((name) => `layers/${name}`), ...temporary];
  return { images: layersOf.size, layers: layers.length, ...totals, damages, badImages, unrecorded, temporary: others };
}

async function readImages(directory: string, layers: ReadonlySet<string>) {
  const layersOf = new Map<string, ReadonlySet<string>>();
  const badImages: string[] = [];
  const temporary: string[] = [];
  for (const name of await readdir(directory)) {
    if (!name.endsWith('.json')) {
      temporary.push(`images/${name}`);
      continue;
    }
    try {
      const image = parseStoredImage(await readFile(join(directory, name)));
      const its = image.layers.map(({ diffId }) => diffId.slice(diffId.indexOf(':') + 1));
      layersOf.set(image.id, new Set(its));
      const missing = its.filter((layer) => !layers.has(layer) && !isThere(join(directory, '../layers', layer)));
      if (missing.length > 0 && isThere(join(directory, name))) badImages.push(`${image.id}: ${missing.length} of its layers are not there`);
    } catch (error) {
      if (isThere(join(directory, name))) badImages.push(`${name}: ${reasonOf(error)}`);
    }
  }
  return { layersOf, badImages, temporary };
}

/** @returns what is wrong; undefined when nothing was recorded. */
async function verifyLayer(directory: string, buffer: Buffer, totals: { files: number; bytes: number }): Promise<string[] | undefined> {
  const reasons: string[] = [];
  const hex = basename(directory);
  const hash = createHash(hex.length === 64 ? 'sha256' : 'sha512');
  try {
    for (const part of partsOfLayer({ filesDir: join(directory, 'diff'), tarSplitFile: join(directory, 'archive') })) {
      if (part.kind === 'bytes') {
        hash.update(part.bytes);
        continue;
      }
      const reason = await reasonAgainst(part, buffer, hash).catch(reasonOf);
      totals.files += 1;
      if (part.kind === 'file') totals.bytes += part.sizeBytes;
      if (reason === undefined) continue;
      reasons.push(`${JSON.stringify(Buffer.from(part.path, 'latin1').toString()).slice(1, -1)}: ${reason}`);
      if (reasons.length === reasonsMax) return reasons;
    }
  } catch (error) {
    return isErrno(error, 'ENOENT') ? undefined : [reasonOf(error)];
  }
  // When each file is what it was, it is what stands between them.
  return reasons.length === 0 && hash.digest('hex') !== hex ? ['the record of the files is damaged: with it the layer has another diff id'] : reasons;
}

async function reasonAgainst(part: Exclude<ArchivePart, { kind: 'bytes' }>, buffer: Buffer, hash: Hash): Promise<string | undefined> {
  const path = pathBytes(part);
  if (part.kind === 'link') {
    const target = await readlink(path, { encoding: 'buffer' });
    return crc32(target) === part.crc ? undefined : 'points elsewhere';
  }
  const reason = reasonOfStatus(await lstat(path), part);
  if (reason !== undefined) return reason;
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NOATIME);
  try {
    let crc = 0;
    for (let read = await file.read(buffer); read.bytesRead > 0; read = await file.read(buffer)) {
      const bytes = buffer.subarray(0, read.bytesRead);
      crc = crc32(bytes, crc);
      if (!part.isSparse) hash.update(bytes);
    }
    return crc === part.crc ? undefined : 'has other bytes';
  } finally {
    await file.close();
  }
}

function reasonOfStatus(status: Stats, expected: FileContents): string | undefined {
  if (!status.isFile()) return 'is no file';
  if (status.size !== expected.sizeBytes) return `has ${status.size} bytes, not ${expected.sizeBytes}`;
  if ((status.mode & 0o7777) !== expected.mode) return `has the mode ${(status.mode & 0o7777).toString(8)}, not ${expected.mode.toString(8)}`;
  return status.uid === expected.uid && status.gid === expected.gid ? undefined : `belongs to ${status.uid}:${status.gid}`;
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}
