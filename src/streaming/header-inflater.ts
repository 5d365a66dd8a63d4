/**
 * Decompresses the header blocks of one SPDY connection: one zlib stream (RFC 1950) whose window continues from block to block. Pure.
 *
 * Synchronous, because an asynchronous stream would let later frames overtake a block. Each block is one raw inflate with the last 32 KiB of output as its
 * dictionary: a sender ends every block with Z_SYNC_FLUSH, so that a block consists of whole deflate blocks and ends on a byte boundary.
 */
import { type InflateRaw, inflateRawSync } from 'node:zlib';
import { BerthError } from '../lib/errors.ts';

/** The window of deflate (RFC 1951, section 2). */
const windowBytesMax = 32_768;

/** An empty final block. It ends the stream, so that zlib reports a block that is cut off. */
const endOfStream = Buffer.from([0x01, 0x00, 0x00, 0xff, 0xff]);

/** One for each connection and direction. */
export class HeaderInflater {
  readonly #dictionary: Buffer;
  readonly #outputBytesMax: number;
  /** The last output. Allocated once, because a stream can have any number of blocks. */
  readonly #window = Buffer.alloc(windowBytesMax);
  #windowBytes = 0;
  #hasStarted = false;

  /**
   * @param dictionary the preset dictionary, used if the sender's zlib header requests one.
   * @param outputBytesMax the limit for one decompressed block.
   */
  constructor(dictionary: Buffer, outputBytesMax: number) {
    this.#dictionary = dictionary;
    this.#outputBytesMax = outputBytesMax;
  }

  /**
   * Returns the decompressed block. No further block can be decompressed after an error.
   *
   * @param block what the sender flushed: whole deflate blocks that end on a byte boundary.
   * @throws {BerthError} INVALID_ARGUMENT if the block is corrupt, cut off, or larger than the limit.
   */
  inflate(block: Buffer): Buffer {
    const headerBytes = this.#hasStarted ? 0 : this.#readStreamHeader(block);
    const output = this.#inflateRaw(Buffer.concat([block.subarray(headerBytes), endOfStream]));
    this.#keep(output);
    return output;
  }

  /** @returns the length of the zlib header (RFC 1950, section 2.2). */
  #readStreamHeader(block: Buffer): number {
    const [method = 0, flags = 0] = block;
    if ((method & 15) !== 8 || ((method << 8) | flags) % 31 !== 0) throw invalid('not a zlib stream');
    const hasDictionary = (flags & 0x20) !== 0;
    const headerBytes = hasDictionary ? 6 : 2;
    if (block.length < headerBytes) throw invalid('unexpected end of the zlib header');
    if (hasDictionary) this.#keep(this.#dictionary);
    this.#hasStarted = true;
    return headerBytes;
  }

  #inflateRaw(input: Buffer): Buffer {
    const dictionary = this.#window.subarray(0, this.#windowBytes);
    const options = { maxOutputLength: this.#outputBytesMax, info: true, ...(dictionary.length === 0 ? {} : { dictionary }) };
    try {
      const { buffer, engine } = inflateRawSync(input, options) as unknown as { readonly buffer: Buffer; readonly engine: InflateRaw };
      if (engine.bytesWritten !== input.length) throw invalid('data after the end of the stream');
      return buffer;
    } catch (error) {
      if (error instanceof BerthError) throw error;
      const { code, message } = error as NodeJS.ErrnoException;
      throw invalid(code === 'ERR_BUFFER_TOO_LARGE' ? `more than ${this.#outputBytesMax} bytes` : message, error);
    }
  }

  /** Appends to the window, which drops its oldest bytes. */
  #keep(output: Buffer): void {
    const added = output.subarray(-windowBytesMax);
    const keptBytes = Math.min(this.#windowBytes, windowBytesMax - added.length);
    this.#window.copyWithin(0, this.#windowBytes - keptBytes, this.#windowBytes);
    added.copy(this.#window, keptBytes);
    this.#windowBytes = keptBytes + added.length;
  }
}

const invalid = (reason: string, cause?: unknown) => new BerthError('INVALID_ARGUMENT', `SPDY header block: ${reason}`, cause);
