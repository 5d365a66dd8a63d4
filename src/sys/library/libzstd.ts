/**
 * Decompression with the system's libzstd: half the work of Node's zstd, because it needs no new buffer and no other thread for each chunk.
 *
 * Optional: openZstd() returns undefined if the library is missing. Can be used in workers: each thread has its own copy of this module.
 */
import koffi from 'koffi';
import { library } from '../call/ffi.ts';

/** A decoder of a C library: synchronous, with its own output buffer. */
export type LibraryDecoder = {
  /**
   * Decompresses all of `input`: any number of frames or members. Skippable frames have no output.
   *
   * @param sink gets views that are valid only during the call. If it throws, the decoder must not be used again.
   * @throws {Error} with the library's message if the input has another format, is corrupt, or needs a larger window.
   */
  readonly write: (input: Buffer, sink: (output: Buffer) => void) => void;
  /** False within a frame or member. */
  readonly isAtEnd: () => boolean;
  /** Frees the decoder. Idempotent. */
  readonly close: () => void;
};

export type Zstd = {
  /** @param windowLogMax largest window that frames may require, as a power of two. */
  readonly openDecoder: (windowLogMax: number) => LibraryDecoder;
};

/** ZSTD_d_windowLogMax of zstd.h. */
const parameterWindowLogMax = 100;
const outputBytes = 256 << 10;

/** @returns undefined if the node has no libzstd. */
export function openZstd(): Zstd | undefined {
  let zstd: ReturnType<typeof library>;
  try {
    zstd = library('libzstd.so.1');
  } catch {
    return undefined;
  }
  const c_create = zstd.func('void *ZSTD_createDCtx()');
  const c_free = zstd.func('size_t ZSTD_freeDCtx(void *context)');
  const c_setParameter = zstd.func('size_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)');
  const c_decompress = zstd.func('size_t ZSTD_decompressStream(void *context, void *output, void *input)');
  const c_isError = zstd.func('uint ZSTD_isError(size_t code)');
  const c_errorName = zstd.func('const char *ZSTD_getErrorName(size_t code)');
  const checked = (code: number | bigint): number => {
    if (c_isError(code) !== 0) throw new Error(`zstd: ${String(c_errorName(code))}`);
    return Number(code);
  };

  const openDecoder = (windowLogMax: number): LibraryDecoder => {
    const context: unknown = c_create();
    if (context === null) throw new Error('zstd: out of memory');
    checked(c_setParameter(context, parameterWindowLogMax, windowLogMax));
    const output = Buffer.allocUnsafeSlow(outputBytes);
    // ZSTD_outBuffer and ZSTD_inBuffer: address, size, position.
    const out = new BigUint64Array([koffi.address(output), BigInt(outputBytes), 0n]);
    const source = new BigUint64Array(3);
    let isAtEnd = true;
    let isClosed = false;

    const write = (input: Buffer, sink: (output: Buffer) => void): void => {
      if (input.length === 0) return;
      const length = BigInt(input.length);
      source.set([koffi.address(input), length, 0n]);
      for (;;) {
        out[2] = 0n;
        isAtEnd = checked(c_decompress(context, out, source)) === 0;
        const produced = Number(out[2]);
        if (produced > 0) sink(output.subarray(0, produced));
        // The sink may call close().
        if (isClosed) return;
        // If the output is full, the library may hold more. Not at the end of a frame: another call would start the next frame.
        if (source[2] === length && (isAtEnd || produced < outputBytes)) return;
      }
    };

    const close = (): void => {
      if (isClosed) return;
      isClosed = true;
      c_free(context);
    };
    return { write, isAtEnd: () => isAtEnd, close };
  };
  return { openDecoder };
}
