/**
 * Decompresses gzip (any number of members), zstd (any number of frames) and what is neither, told apart by the first bytes.
 *
 * Bounded: output goes to the sink piece by piece, and nothing is kept but the window of the format.
 */
import type { Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { BerthError, invalidArgument, reasonOf, unimplemented } from '../../lib/errors.ts';
import type { Isal } from '../../sys/library/libisal.ts';
import { type LibraryDecoder, openZstd } from '../../sys/library/libzstd.ts';
import { createBufferSweeper } from '../../sys/process/heap.ts';
import { createFrameSplitter } from '../tar/zstd-frames.ts';

export type Decoder = {
  /** Resolves when the bytes may be changed again. @throws {BerthError} for damaged bytes, and for formats that are not read; whatever the sink throws. */
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} INVALID_ARGUMENT when the bytes stop in the middle. */
  readonly end: () => Promise<void>;
  readonly destroy: () => void;
};

/** Bytes that the decompressor gives at once: below 256 KiB each call costs more than the work it does. */
const outputChunkBytes = 256 << 10;
/** Each piece that Node's decompressors give is a new buffer; this much of them may be garbage. */
const sweepEveryBytes = 8 << 20;
/** The largest window a decompressor has to allow, 128 MiB. Source: RFC 8878 section 3.1.1.1.2; zstd's own default. */
const zstdWindowLogMax = 27;
const magicBytes = 6;

/** @param isal the faster library for gzip, where there is one. @param sink gets views that are good during the call only. */
export function openDecoder(isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
  let decoder: Decoder | undefined;
  let held: Buffer = Buffer.alloc(0);

  const choose = async (): Promise<void> => {
    decoder = decoderFor(held, isal, sink);
    if (held.length > 0) await decoder.write(held);
    held = Buffer.alloc(0);
  };

  const write = async (bytes: Buffer): Promise<void> => {
    if (decoder !== undefined) return await decoder.write(bytes);
    held = Buffer.concat([held, bytes]);
    if (held.length >= magicBytes) await choose();
  };

  const end = async (): Promise<void> => {
    if (decoder === undefined) await choose();
    await decoder?.end();
  };
  return { write, end, destroy: () => decoder?.destroy() };
}

/** By the first bytes, as the peers do: media types are often wrong, digests are not. */
function decoderFor(start: Buffer, isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
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
  // Zeros after the last member end it before its time, and it says so once; what follows them is nothing, as to the library.
  let hasEnded = false;
  transform.once('end', () => {
    hasEnded = true;
  });
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
    write: (bytes) => run((done) => (hasEnded ? done() : transform.write(bytes, () => done()))),
    end: () =>
      run((done) => {
        if (hasEnded) return done();
        transform.once('end', done);
        transform.end();
      }),
    destroy: () => transform.destroy(),
  };
}
