/**
 * One layer from compressed bytes to files: digest, decompression, digest of the tar, entries. Runs in a worker.
 *
 * Checks every digest and size, and keeps nothing but what the writer wrote: removing that after a failure is the caller's.
 */
import { createHash, type Hash } from 'node:crypto';
import { statfsSync } from 'node:fs';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { openIsal } from '../../sys/library/libisal.ts';
import { createLayerWriter, type DevicePolicy, layerLimits } from '../layer/layer-writer.ts';
import { createTarSplit } from '../layer/tar-split.ts';
import { createTarParser } from '../tar/tar.ts';
import { openDecoder } from './decoder.ts';
import { startStopwatch } from './stopwatch.ts';
import type { LayerJob, UnpackedLayer } from './unpack-protocol.ts';

export type LayerStream = {
  /** Resolves when the bytes may be changed again. Rejects with what is wrong with the layer. */
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} for digests and sizes that are not those of the job, and for an archive that ends too early. */
  readonly end: () => Promise<UnpackedLayer>;
  /** Closes all files. Idempotent. */
  readonly close: () => void;
};

export function openLayerStream(job: LayerJob, devices: DevicePolicy = 'keep'): LayerStream {
  const isal = openIsal();
  const contents = job.tarSplitFile === undefined ? undefined : createTarSplit(job.tarSplitFile, isal?.crc32);
  const writer = createLayerWriter(job.directory, layerLimits, () => freeBytes(job.directory), contents, devices);
  const parser = createTarParser(writer);
  const compressedHash = createHash(algorithmOf(job.digest));
  const tarHash = createHash(algorithmOf(job.diffId));
  const watch = startStopwatch();
  let receivedBytes = 0;
  /** Whatever is in it: what the disk could not hold as files is a bomb, also when no file would come of it. */
  let tarBytesLeft = freeBytes(job.directory);
  let tarBytes = 0;
  let isClosed = false;

  const takeTar = (bytes: Buffer): void => {
    // The files are closed, and their fds may be others' now.
    if (isClosed) return;
    tarBytesLeft -= bytes.length;
    tarBytes += bytes.length;
    if (tarBytesLeft < 0) throw new BerthError('RESOURCE_EXHAUSTED', 'layer does not fit on the disk');
    watch.enter('diffId');
    tarHash.update(bytes);
    watch.enter('files');
    parser.push(bytes);
    watch.enter('decompress');
  };

  const decoder = openDecoder(isal, takeTar);

  const write = async (bytes: Buffer): Promise<void> => {
    watch.enter('digest');
    receivedBytes += bytes.length;
    if (receivedBytes > job.sizeBytes) throw failedPrecondition(`is longer than the ${job.sizeBytes} bytes that the manifest says`);
    compressedHash.update(bytes);
    watch.enter('decompress');
    await decoder.write(bytes);
    watch.enter('wait');
  };

  const end = async (): Promise<UnpackedLayer> => {
    watch.enter('decompress');
    if (receivedBytes !== job.sizeBytes) throw failedPrecondition(`has ${receivedBytes} bytes, and not the ${job.sizeBytes} that the manifest says`);
    // First: bytes that are not what was asked for need no other explanation.
    checkDigest(compressedHash, job.digest, 'digest');
    await decoder.end();
    parser.end();
    checkDigest(tarHash, job.diffId, 'diff id');
    watch.enter('files');
    const written = writer.finish();
    const recordBytes = contents?.finish() ?? 0;
    return { ...written, sizeBytes: written.sizeBytes + recordBytes, tarBytes, times: watch.times() };
  };

  const close = (): void => {
    isClosed = true;
    decoder.destroy();
    writer.close();
    contents?.close();
  };
  return { write, end, close };
}

function freeBytes(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}

function algorithmOf(digest: string): string {
  return digest.slice(0, digest.indexOf(':'));
}

function checkDigest(hash: Hash, expected: string, what: string): void {
  const found = `${algorithmOf(expected)}:${hash.digest('hex')}`;
  if (found !== expected) throw failedPrecondition(`${what} should be ${expected}, is ${found}`);
}
