/**
 * Verifies the image store: compares every file with the record made when it was unpacked, and recomputes the diff ids. Needs no daemon, and
 * changes nothing.
 *
 * Files that disappear meanwhile were removed by a daemon and do not count as damage.
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
  /** The first few reasons, such as `etc/os: checksum mismatch`. */
  readonly reasons: readonly string[];
  /** Ids of the images that use the layer. */
  readonly images: readonly string[];
};

export type Verification = {
  readonly images: number;
  readonly layers: number;
  readonly files: number;
  readonly bytes: number;
  readonly damages: readonly Damage[];
  /** Image records that cannot be read, or whose layers are missing, each with the reason. */
  readonly badImages: readonly string[];
  /** Directories of layers without a record of their files. */
  readonly unrecorded: readonly string[];
  /** Entries that are neither layers nor images: of a running pull, or left by a daemon that was killed. */
  readonly temporary: readonly string[];
};

const reasonsMax = 5;
const chunkBytes = 1 << 20;
const layerName = /^(?:[0-9a-f]{64}|[0-9a-f]{128})$/;

/** Verifies the store below the daemon's root directory. */
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
    if (!exists(directory)) continue;
    if (found === undefined) unrecorded.push(layer);
    else if (found.length > 0) damages.push({ layer, reasons: found, images: [...layersOf].filter(([, used]) => used.has(layer)).map(([id]) => id) });
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
      const used = image.layers.map(({ diffId }) => diffId.slice(diffId.indexOf(':') + 1));
      layersOf.set(image.id, new Set(used));
      const missing = used.filter((layer) => !layers.has(layer) && !exists(join(directory, '../layers', layer)));
      if (missing.length > 0 && exists(join(directory, name))) badImages.push(`${image.id}: ${missing.length} layers are missing`);
    } catch (error) {
      if (exists(join(directory, name))) badImages.push(`${name}: ${reasonOf(error)}`);
    }
  }
  return { layersOf, badImages, temporary };
}

/** @returns the reasons why the layer is corrupt; undefined when it has no record. */
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
  // All files are intact, so the bytes between them, which come from the record, are wrong.
  return reasons.length === 0 && hash.digest('hex') !== hex ? ['the tar metadata of the layer is corrupt: diff id mismatch'] : reasons;
}

async function reasonAgainst(part: Exclude<ArchivePart, { kind: 'bytes' }>, buffer: Buffer, hash: Hash): Promise<string | undefined> {
  const path = pathBytes(part);
  if (part.kind === 'link') {
    const target = await readlink(path, { encoding: 'buffer' });
    return crc32(target) === part.crc ? undefined : 'link target changed';
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
    return crc === part.crc ? undefined : 'checksum mismatch';
  } finally {
    await file.close();
  }
}

function reasonOfStatus(status: Stats, expected: FileContents): string | undefined {
  if (!status.isFile()) return 'not a regular file';
  if (status.size !== expected.sizeBytes) return `${status.size} bytes instead of ${expected.sizeBytes}`;
  if ((status.mode & 0o7777) !== expected.mode) return `mode ${(status.mode & 0o7777).toString(8)} instead of ${expected.mode.toString(8)}`;
  const isOwned = status.uid === expected.uid && status.gid === expected.gid;
  return isOwned ? undefined : `owner ${status.uid}:${status.gid} instead of ${expected.uid}:${expected.gid}`;
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}
