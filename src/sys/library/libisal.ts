/**
 * Decompression of gzip by Intel's ISA-L (Debian's libisal2), which takes a third of the time of zlib, and its CRC-32.
 *
 * Optional: where the library is missing, or does not do what it should, openIsal() says so. Usable in a worker: each thread has its own copy of
 * this module.
 */
import koffi from 'koffi';
import { library } from '../call/ffi.ts';
import { gzipHeaderBytesMax, gzipHeaderLength } from './gzip-header.ts';
import type { LibraryDecoder } from './libzstd.ts';

export type Isal = {
  /** The decoder's `write` throws Error in words for what is no gzip, or damaged. */
  readonly openGzipDecoder: () => LibraryDecoder;
  /** As zlib's crc32(): of `bytes`, going on from `crc`. */
  readonly crc32: (bytes: Uint8Array, crc: number) => number;
};

/**
 * `struct inflate_state` of igzip_lib.h, as libisal.so.2 has it: where its fields begin, and its size. The fields before the tables never moved;
 * of the others a check at opening tells whether they are still there.
 */
const at = { nextOut: 0, availOut: 8, nextIn: 16, availIn: 32, blockState: 21_160, crcFlag: 21_172 } as const;
/** Its 87,368 bytes, and some more for versions with larger tables. */
const stateBytes = 128 << 10;
/**
 * `crc_flag` ISAL_GZIP_NO_HDR_VER: the input begins after the header, the checksum is verified. The library's own reading of headers does not go on in
 * a second call: it keeps the flags in a local variable, and its checksum of the header (FHCRC) only counts the bytes of the last call.
 */
const gzipWithoutHeader = 6;
/** `block_state` ISAL_BLOCK_FINISH. */
const finished = 5;
const reasons: Readonly<Record<number, string>> = {
  [-1]: 'invalid block',
  [-2]: 'invalid symbol',
  [-3]: 'invalid distance',
  [-4]: 'incorrect header',
  [-5]: 'unknown compression method',
  [-6]: 'incorrect checksum',
};
const outputBytes = 256 << 10;
const magic = Buffer.from([0x1f, 0x8b]);

/** @returns undefined when the node has no libisal that can be used. */
export function openIsal(): Isal | undefined {
  try {
    const isal = loadIsal();
    return isAsExpected(isal) ? isal : undefined;
  } catch {
    return undefined;
  }
}

function loadIsal(): Isal {
  const isal = library('libisal.so.2');
  const c_init = isal.func('void isal_inflate_init(void *state)');
  const c_inflate = isal.func('int isal_inflate(void *state)');
  const c_crc32 = isal.func('uint32_t crc32_gzip_refl(uint32_t crc, const void *bytes, uint64_t length)');

  const openGzipDecoder = (): LibraryDecoder => {
    const state = Buffer.alloc(stateBytes);
    const output = Buffer.allocUnsafeSlow(outputBytes);
    const outputAddress = BigInt(koffi.address(output));
    let isInMember = false;
    /** Of the next member's header, what has been received. */
    let header = Buffer.alloc(0);
    let hasBegun = false;
    /** Zeros after the last member. */
    let isPadding = false;
    let isClosed = false;

    /** @returns what follows the header in `input`. */
    const readHeader = (input: Buffer): Buffer => {
      const bytes = header.length === 0 ? input : Buffer.concat([header, input]);
      if (hasBegun && bytes[0] === 0) isPadding = true;
      if (isPadding) return Buffer.alloc(0);
      if (!magic.subarray(0, bytes.length).equals(bytes.subarray(0, magic.length)))
        throw new Error(hasBegun ? 'gzip: garbage after a member' : 'gzip: not of this format');
      const length = gzipHeaderLength(bytes);
      if (length === undefined && bytes.length > gzipHeaderBytesMax) throw new Error('gzip: incorrect header');
      header = length === undefined ? Buffer.from(bytes) : Buffer.alloc(0);
      if (length === undefined) return Buffer.alloc(0);
      c_init(state);
      state.writeUInt32LE(gzipWithoutHeader, at.crcFlag);
      isInMember = true;
      hasBegun = true;
      return bytes.subarray(length);
    };

    /** @returns how many bytes of the input belong to the present member. */
    const inflate = (input: Buffer, sink: (output: Buffer) => void): number => {
      state.writeBigUInt64LE(BigInt(koffi.address(input)), at.nextIn);
      state.writeUInt32LE(input.length, at.availIn);
      for (;;) {
        state.writeBigUInt64LE(outputAddress, at.nextOut);
        state.writeUInt32LE(outputBytes, at.availOut);
        const code = Number(c_inflate(state));
        if (code < 0) throw new Error(`gzip: ${reasons[code] ?? `error ${code}`}`);
        const produced = outputBytes - state.readUInt32LE(at.availOut);
        if (produced > 0) sink(output.subarray(0, produced));
        // The sink's work may end in close().
        if (isClosed) return input.length;
        if (state.readUInt32LE(at.blockState) === finished) {
          isInMember = false;
          return input.length - state.readUInt32LE(at.availIn);
        }
        if (produced < outputBytes && state.readUInt32LE(at.availIn) === 0) return input.length;
        if (produced === 0) throw new Error('gzip: cannot be read on');
      }
    };

    const write = (input: Buffer, sink: (output: Buffer) => void): void => {
      let rest = input;
      while (rest.length > 0 && !isPadding && !isClosed) rest = isInMember ? rest.subarray(inflate(rest, sink)) : readHeader(rest);
    };

    const close = (): void => {
      isClosed = true;
    };
    return { write, isAtEnd: () => hasBegun && !isInMember && header.length === 0, close };
  };
  return { openGzipDecoder, crc32: (bytes, crc) => Number(c_crc32(crc, bytes, bytes.length)) };
}

/** `gzip` of "berth", and what its CRC-32 is. */
const sample = Buffer.from('H4sIAAAAAAAAA0tKLSrJAACnPWd2BQAAAA==', 'base64');

/** Tries what depends on the library's layout: content, the end of a member, and a checksum that is refused. */
function isAsExpected(isal: Isal): boolean {
  const parts: string[] = [];
  const decoder = isal.openGzipDecoder();
  decoder.write(Buffer.concat([sample, sample]), (output) => parts.push(output.toString()));
  const damaged = Buffer.from(sample);
  damaged.writeUInt32LE(0, damaged.length - 8);
  let isRefused = false;
  try {
    isal.openGzipDecoder().write(damaged, () => undefined);
  } catch {
    isRefused = true;
  }
  return (
    isRefused && decoder.isAtEnd() && parts.join() === 'berth,berth' && isal.crc32(Buffer.from('berth'), 0) === sample.readUInt32LE(sample.length - 8)
  );
}
