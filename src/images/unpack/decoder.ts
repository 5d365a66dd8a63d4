/**
 * Decompresses gzip (any number of members) and zstd (any number of frames), and passes through everything else. Detects the format by the first
 * bytes.
 *
 * Memory is bounded: output goes to the sink in pieces, and only the window of the format is kept.
 */
import type { Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { BerthError, invalidArgument, reasonOf, unimplemented } from '../../lib/errors.ts';
import type { Isal } from '../../sys/library/libisal.ts';
import { type LibraryDecoder, openZstd } from '../../sys/library/libzstd.ts';
import { createBufferSweeper } from '../../sys/process/heap.ts';
import { FrameSplitter } from '../tar/zstd-frames.ts';

export type Decoder = {
  /** Resolves when the buffer may be reused. @throws {BerthError} for corrupt data and unsupported formats; errors of the sink. */
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} INVALID_ARGUMENT when the data is truncated. */
  readonly end: () => Promise<void>;
  readonly destroy: () => void;
};

/** Output size of Node's decompressors: below 256 KiB, a call costs more than its work. */
const outputChunkBytes = 256 << 10;
/** Node's decompressors allocate a buffer for each output; they are freed after this many bytes. */
const sweepEveryBytes = 8 << 20;
/** The largest window, 128 MiB: zstd's default limit. Source: RFC 8878 section 3.1.1.1.2. */
const zstdWindowLogMax = 27;
const magicBytes = 6;

/** @param isal the faster library for gzip, if available. @param sink receives views that are valid only during the call. */
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

/** Selects by the first bytes, as other runtimes do: media types are often wrong. */
function decoderFor(start: Buffer, isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
  const begins = (...magic: number[]): boolean => magic.every((byte, at) => start[at] === byte);
  if (begins(0x1f, 0x8b)) return gzipDecoder(isal, sink);
  if (begins(0x28, 0xb5, 0x2f, 0xfd) || isSkippableFrame(start)) return zstdDecoder(sink);
  if (begins(0x42, 0x5a, 0x68)) throw unimplemented('unsupported compression bzip2; supported are gzip, zstd and uncompressed tar');
  if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) throw unimplemented('unsupported compression xz; supported are gzip, zstd and uncompressed tar');
  return { write: async (bytes) => sink(bytes), end: async () => undefined, destroy: () => undefined };
}

function isSkippableFrame(start: Buffer): boolean {
  return start.length >= 4 && start.readUInt32LE(0) >>> 4 === 0x184d2a5;
}

function gzipDecoder(isal: Isal | undefined, sink: (bytes: Buffer) => void): Decoder {
  if (isal !== undefined) return libraryDecoder(isal.openGzipDecoder(), 'gzip: unexpected end of data in a member', sink);
  return transformDecoder(createGunzip({ chunkSize: outputChunkBytes }), sink);
}

function zstdDecoder(sink: (bytes: Buffer) => void): Decoder {
  const library = openZstd();
  if (library === undefined) return nodeZstdDecoder(sink);
  return libraryDecoder(library.openDecoder(zstdWindowLogMax), 'zstd: unexpected end of data in a frame', sink);
}

function libraryDecoder(decoder: LibraryDecoder, truncated: string, sink: (bytes: Buffer) => void): Decoder {
  const write = async (bytes: Buffer): Promise<void> => {
    try {
      decoder.write(bytes, sink);
    } catch (error) {
      throw error instanceof BerthError ? error : invalidArgument(`decompress: ${reasonOf(error)}`, error);
    }
  };
  const end = async (): Promise<void> => {
    if (!decoder.isAtEnd()) throw invalidArgument(truncated);
  };
  return { write, end, destroy: decoder.close };
}

/** For nodes without libzstd. */
function nodeZstdDecoder(sink: (bytes: Buffer) => void): Decoder {
  const params = { [constants.ZSTD_d_windowLogMax]: zstdWindowLogMax };
  const decoder = transformDecoder(createZstdDecompress({ chunkSize: outputChunkBytes, params }), sink);
  const frames = new FrameSplitter();
  const write = async (bytes: Buffer): Promise<void> => {
    for (const piece of frames.split(bytes)) await decoder.write(piece);
  };
  const end = async (): Promise<void> => {
    if (!frames.isAtEnd) throw invalidArgument('zstd: unexpected end of data in a frame');
    await decoder.end();
  };
  return { write, end, destroy: decoder.destroy };
}

/** Each write waits until the sink has received its output, so that no queue grows. */
function transformDecoder(transform: Transform, sink: (bytes: Buffer) => void): Decoder {
  const sweep = createBufferSweeper(sweepEveryBytes);
  let failure: unknown;
  let rejectPending: ((error: unknown) => void) | undefined;
  const fail = (error: unknown): void => {
    failure ??= error instanceof BerthError ? error : invalidArgument(`decompress: ${reasonOf(error)}`, error);
    rejectPending?.(failure);
    transform.destroy();
  };
  transform.on('error', fail);
  // Zeros after the last member end the stream early, and 'end' is emitted once. Everything after them is ignored, as the library does.
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
