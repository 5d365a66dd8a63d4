/**
 * One layer from compressed bytes to files: digest, decompression, digest of the tar, entries. Runs in a worker.
 *
 * Checks every digest and size, and keeps nothing but what the writer wrote: removing that after a failure is the caller's.
 */
import { createHash, type Hash } from 'node:crypto';
import { statfsSync } from 'node:fs';
import type { Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { BerthError, failedPrecondition, invalidArgument, reasonOf, unimplemented } from '../lib/errors.ts';
import { createBufferSweeper } from '../sys/heap.ts';
import { type Isal, openIsal } from '../sys/libisal.ts';
import { type LibraryDecoder, openZstd } from '../sys/libzstd.ts';
import { recordContents } from './contents.ts';
import { createLayerWriter, type DevicePolicy, layerLimits } from './layer-writer.ts';
import { startStopwatch } from './stopwatch.ts';
import { createTarParser } from './tar.ts';
import type { LayerJob, UnpackedLayer } from './unpack-protocol.ts';
import { createFrameSplitter } from './zstd-frames.ts';

export type LayerStream = {
  /** Resolves when the bytes may be changed again. Rejects with what is wrong with the layer. */
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} for digests and sizes that are not those of the job, and for an archive that ends too early. */
  readonly end: () => Promise<UnpackedLayer>;
  /** Closes all files. Idempotent. */
  readonly close: () => void;
};

/** Bytes that the decompressor gives at once: below 256 KiB each call costs more than the work it does. */
const outputChunkBytes = 256 << 10;
/** Each piece that Node's decompressors give is a new buffer; this much of them may be garbage. */
const sweepEveryBytes = 8 << 20;
/** The largest window a decompressor has to allow, 128 MiB. Source: RFC 8878 section 3.1.1.1.2; zstd's own default. */
const zstdWindowLogMax = 27;

export function openLayerStream(job: LayerJob, devices: DevicePolicy = 'keep'): LayerStream {
  const isal = openIsal();
  const contents = job.contentsFile === undefined ? undefined : recordContents(job.contentsFile, isal?.crc32);
  const writer = createLayerWriter(job.directory, layerLimits, () => freeBytes(job.directory), contents, devices);
  const parser = createTarParser(writer);
  const compressedHash = createHash(algorithmOf(job.digest));
  const tarHash = createHash(algorithmOf(job.diffId));
  const watch = startStopwatch();
  let receivedBytes = 0;
  /** Whatever is in it: what the disk could not hold as files is a bomb, also when no file would come of it. */
  let tarBytesLeft = freeBytes(job.directory);
  let tarBytes = 0;
  let decoder: Decoder | undefined;
  let held: Buffer = Buffer.alloc(0);

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

  const write = async (bytes: Buffer): Promise<void> => {
    watch.enter('digest');
    await take(bytes);
    watch.enter('wait');
  };

  const take = async (bytes: Buffer): Promise<void> => {
    receivedBytes += bytes.length;
    if (receivedBytes > job.sizeBytes) throw failedPrecondition(`is longer than the ${job.sizeBytes} bytes that the manifest says`);
    compressedHash.update(bytes);
    watch.enter('decompress');
    if (decoder !== undefined) return await decoder.write(bytes);
    held = Buffer.concat([held, bytes]);
    if (held.length < magicBytes) return;
    decoder = openDecoder(held, isal, takeTar);
    await decoder.write(held);
    held = Buffer.alloc(0);
  };

  const end = async (): Promise<UnpackedLayer> => {
    watch.enter('decompress');
    if (receivedBytes !== job.sizeBytes) throw failedPrecondition(`has ${receivedBytes} bytes, and not the ${job.sizeBytes} that the manifest says`);
    // First: bytes that are not what was asked for need no other explanation.
    checkDigest(compressedHash, job.digest, 'digest');
    decoder ??= openDecoder(held, isal, takeTar);
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
    decoder?.destroy();
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

type Decoder = { readonly write: (bytes: Buffer) => Promise<void>; readonly end: () => Promise<void>; readonly destroy: () => void };

const magicBytes = 6;

/** By the first bytes, as the peers do: media types are often wrong, digests are not. */
function openDecoder(start: Buffer, isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
  const begins = (...magic: number[]): boolean => magic.every((byte, at) => start[at] === byte);
  if (begins(0x1f, 0x8b)) return gzipDecoder(hasHeaderSum(start) ? undefined : isal, sink);
  if (begins(0x28, 0xb5, 0x2f, 0xfd) || isSkippableFrame(start)) return zstdDecoder(sink);
  if (begins(0x42, 0x5a, 0x68)) throw unimplemented('is compressed with bzip2; berth reads gzip, zstd and plain tar');
  if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) throw unimplemented('is compressed with xz; berth reads gzip, zstd and plain tar');
  return { write: async (bytes) => sink(bytes), end: async () => undefined, destroy: () => undefined };
}

/** ISA-L 2.30 computes it wrongly. Source: RFC 1952, FHCRC. */
function hasHeaderSum(start: Buffer): boolean {
  return ((start[3] ?? 0) & 2) !== 0;
}

function isSkippableFrame(start: Buffer): boolean {
  return start.length >= 4 && start.readUInt32LE(0) >>> 4 === 0x184d2a5;
}

function gzipDecoder(isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
  if (isal !== undefined) return libraryDecoder(isal.openGzipDecoder(), 'gzip: stops in the middle of a member', sink);
  return transformDecoder(createGunzip({ chunkSize: outputChunkBytes }), sink);
}

function zstdDecoder(sink: (bytes: Buffer) => void): Decoder {
  const library = openZstd();
  if (library === undefined) return nodeZstdDecoder(sink);
  return libraryDecoder(library.openDecoder(zstdWindowLogMax), 'zstd: stops in the middle of a frame', sink);
}

function libraryDecoder(decoder: LibraryDecoder, truncated: string, sink: (bytes: Buffer) => void): Decoder {
  const write = async (bytes: Buffer): Promise<void> => {
    try {
      decoder.write(bytes, sink);
    } catch (error) {
      throw error instanceof BerthError ? error : invalidArgument(`decompressing: ${reasonOf(error)}`, error);
    }
  };
  const end = async (): Promise<void> => {
    if (!decoder.isAtEnd()) throw invalidArgument(truncated);
  };
  return { write, end, destroy: decoder.close };
}

/** For nodes without the library. */
function nodeZstdDecoder(sink: (bytes: Buffer) => void): Decoder {
  const params = { [constants.ZSTD_d_windowLogMax]: zstdWindowLogMax };
  const decoder = transformDecoder(createZstdDecompress({ chunkSize: outputChunkBytes, params }), sink);
  const frames = createFrameSplitter();
  const write = async (bytes: Buffer): Promise<void> => {
    for (const piece of frames.split(bytes)) await decoder.write(piece);
  };
  const end = async (): Promise<void> => {
    if (!frames.isAtEnd()) throw invalidArgument('zstd: stops in the middle of a frame');
    await decoder.end();
  };
  return { write, end, destroy: decoder.destroy };
}

/** Each write waits until its output has gone to the sink, so that no queue grows. */
function transformDecoder(transform: Transform, sink: (bytes: Buffer) => void): Decoder {
  const sweep = createBufferSweeper(sweepEveryBytes);
  let failure: unknown;
  let rejectPending: ((error: unknown) => void) | undefined;
  const fail = (error: unknown): void => {
    failure ??= error instanceof BerthError ? error : invalidArgument(`decompressing: ${reasonOf(error)}`, error);
    rejectPending?.(failure);
    transform.destroy();
  };
  transform.on('error', fail);
  transform.on('data', (bytes: Buffer) => {
    if (failure !== undefined) return;
    sweep(bytes.length);
    try {
      sink(bytes);
    } catch (error) {
      fail(error);
    }
  });
  const run = (action: (done: () => void) => void): Promise<void> =>
    new Promise((resolve, reject) => {
      rejectPending = reject;
      if (failure === undefined) action(resolve);
      else reject(failure);
    });
  return {
    write: (bytes) => run((done) => transform.write(bytes, () => done())),
    end: () =>
      run((done) => {
        transform.once('end', done);
        transform.end();
      }),
    destroy: () => transform.destroy(),
  };
}
