/**
 * Unpacks one layer from compressed bytes to files: digest, decompression, diff id, entries. Runs in a worker.
 *
 * Checks all digests and sizes. After a failure the caller must remove the files that were written.
 */
import { createHash, type Hash } from 'node:crypto';
import { statfsSync } from 'node:fs';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { openIsal } from '../../sys/library/libisal.ts';
import { writeImplied } from '../layer/implied-directories.ts';
import { layerLimits } from '../layer/layer-usage.ts';
import { type DevicePolicy, LayerWriter } from '../layer/layer-writer.ts';
import { TarSplitWriter } from '../layer/tar-split.ts';
import { TarParser } from '../tar/tar.ts';
import { openDecoder } from './decoder.ts';
import { startStopwatch } from './stopwatch.ts';
import type { LayerJob, UnpackedLayer } from './unpack-protocol.ts';

export type LayerStream = {
  /** Resolves when the buffer may be reused. Rejects when the layer is invalid. */
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} for a digest or size that differs from the job's, and for a truncated archive. */
  readonly end: () => Promise<UnpackedLayer>;
  /** Closes all files. Idempotent. */
  readonly close: () => void;
};

export function openLayerStream(job: LayerJob, devices: DevicePolicy = 'keep'): LayerStream {
  const isal = openIsal();
  const contents = job.tarSplitFile === undefined ? undefined : new TarSplitWriter(job.tarSplitFile, isal?.crc32);
  const writer = new LayerWriter(job.directory, layerLimits, () => freeBytes(job.directory), contents, devices);
  const parser = new TarParser(writer);
  const compressedHash = createHash(algorithmOf(job.digest));
  const tarHash = createHash(algorithmOf(job.diffId));
  const watch = startStopwatch();
  let receivedBytes = 0;
  /** An archive larger than the free space is a decompression bomb, even if it contains no files. */
  let tarBytesLeft = freeBytes(job.directory);
  let tarBytes = 0;
  let isClosed = false;

  const takeTar = (bytes: Buffer): void => {
    // The files are closed, and their fds may have been reused.
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
    if (receivedBytes > job.sizeBytes) throw failedPrecondition(`exceeds the ${job.sizeBytes} bytes in the manifest`);
    compressedHash.update(bytes);
    watch.enter('decompress');
    await decoder.write(bytes);
    watch.enter('wait');
  };

  const end = async (): Promise<UnpackedLayer> => {
    watch.enter('decompress');
    if (receivedBytes !== job.sizeBytes) throw failedPrecondition(`${receivedBytes} bytes instead of the ${job.sizeBytes} in the manifest`);
    // First: wrong bytes explain all other errors.
    checkDigest(compressedHash, job.digest, 'digest');
    await decoder.end();
    parser.end();
    checkDigest(tarHash, job.diffId, 'diff id');
    watch.enter('files');
    const { impliedDirectories, ...written } = writer.finish();
    const hasImpliedDirectories = impliedDirectories.size > 0;
    if (hasImpliedDirectories && job.impliedFile !== undefined) writeImplied(job.impliedFile, impliedDirectories);
    const recordBytes = contents?.finish() ?? 0;
    return { ...written, hasImpliedDirectories, sizeBytes: written.sizeBytes + recordBytes, tarBytes, times: watch.times() };
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
  if (found !== expected) throw failedPrecondition(`${what} mismatch: expected ${expected}, found ${found}`);
}
