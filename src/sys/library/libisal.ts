/**
 * Decompression of gzip with Intel's ISA-L (Debian: libisal2), which takes a third of the time of zlib, and its CRC-32.
 *
 * Optional: without a usable library, callers use Node's zlib. This file reads and writes fields of a struct that ISA-L documents only in its header,
 * so it accepts a library by two checks: the soname, and a self-test of every field it uses (probeIsal()). Versions known to pass: 2.30.0 (Debian 12)
 * and 2.31.1 (Debian 13); both have the same struct. ISA-L exports no function that returns its version.
 *
 * Can be used in workers: each thread has its own copy of this module.
 */
import koffi from 'koffi';
import { reasonOf } from '../../lib/errors.ts';
import { library } from '../call/ffi.ts';
import { GzipHeader } from './gzip-header.ts';
import type { LibraryDecoder } from './libzstd.ts';

export type Isal = {
  /** Opens a decoder. Its `write` throws Error for input that is not gzip, or is corrupt. */
  readonly openGzipDecoder: () => LibraryDecoder;
  /** Like zlib's crc32(): the checksum of `bytes`, continued from `crc`. */
  readonly crc32: (bytes: Uint8Array, crc: number) => number;
};

/** The result of loading ISA-L. `missing`: it is not installed. `unusable`: it cannot be loaded, or failed the self-test. */
export type IsalProbe =
  | { readonly status: 'usable'; readonly isal: Isal }
  | { readonly status: 'missing' | 'unusable'; readonly isal?: undefined; readonly reason: string };

/** The functions of the library that are used here. */
export type IsalBindings = {
  readonly init: (state: Buffer) => void;
  readonly inflate: (state: Buffer) => number;
  readonly crc32: (crc: number, bytes: Uint8Array, length: number) => number;
};

/** The number is the ABI version: a library with another one is never loaded. */
export const isalSoname = 'libisal.so.2';

/**
 * Offsets in `struct inflate_state` of igzip_lib.h, the same on x86-64 and arm64. The fields from `blockState` on follow the Huffman tables: a version with
 * tables of another size moves them.
 */
const at = { nextOut: 0, availOut: 8, totalOut: 12, nextIn: 16, availIn: 32, blockState: 21_160, crcFlag: 21_172, crc: 21_176 } as const;
/** The struct has 87,368 bytes; the rest is a reserve for versions with larger tables. */
const stateBytes = 128 << 10;
/**
 * `crc_flag` ISAL_GZIP_NO_HDR_VER: the input starts after the header, and the checksum is verified. The library's own header parser cannot resume in a
 * second call: it keeps the flags in a local variable, and its checksum of the header (FHCRC) covers only the bytes of the last call.
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
/** The first byte of a member. */
const magic = 0x1f;

/** @returns undefined if the node has no usable ISA-L: use zlib instead. */
export function openIsal(): Isal | undefined {
  return probeIsal().isal;
}

/**
 * Loads ISA-L and checks that it is a version that works.
 *
 * @param load loads the library; throws if that fails.
 */
export function probeIsal(load: () => IsalBindings = loadBindings): IsalProbe {
  let bindings: IsalBindings;
  try {
    bindings = load();
  } catch (error) {
    // The text is that of dlerror(3).
    const reason = reasonOf(error);
    return { status: reason.includes('No such file or directory') ? 'missing' : 'unusable', reason };
  }
  const isal = createIsal(bindings);
  const reason = layoutProblem(bindings) ?? behaviourProblem(isal);
  return reason === undefined ? { status: 'usable', isal } : { status: 'unusable', reason: `self-test failed: ${reason}` };
}

function loadBindings(): IsalBindings {
  const isal = library(isalSoname);
  return {
    init: isal.func('void isal_inflate_init(void *state)'),
    inflate: isal.func('int isal_inflate(void *state)'),
    crc32: isal.func('uint32_t crc32_gzip_refl(uint32_t crc, const void *bytes, uint64_t length)'),
  };
}

function createIsal(bindings: IsalBindings): Isal {
  return {
    openGzipDecoder: () => openGzipDecoder(bindings),
    crc32: (bytes, crc) => Number(bindings.crc32(crc, bytes, bytes.length)),
  };
}

function openGzipDecoder({ init, inflate: c_inflate }: IsalBindings): LibraryDecoder {
  const state = Buffer.alloc(stateBytes);
  const output = Buffer.allocUnsafeSlow(outputBytes);
  let isInMember = false;
  /** Of the next member, once its first byte has been received. */
  let header: GzipHeader | undefined;
  let hasBegun = false;
  /** Only zeros follow after the last member. */
  let isPadding = false;
  let isClosed = false;

  /** @returns the part of `input` after the header. */
  const readHeader = (input: Buffer): Buffer => {
    if (hasBegun && header === undefined) {
      isPadding = input[0] === 0;
      if (isPadding) return Buffer.alloc(0);
      if (input[0] !== magic) throw new Error('gzip: trailing garbage after a member');
    }
    header ??= new GzipHeader();
    const length = header.read(input);
    if (!header.isComplete) return Buffer.alloc(0);
    header = undefined;
    startMember(init, state);
    isInMember = true;
    hasBegun = true;
    return input.subarray(length);
  };

  /** @returns how many bytes of the input belong to the current member. */
  const inflate = (input: Buffer, sink: (output: Buffer) => void): number => {
    setInput(state, input);
    for (;;) {
      setOutput(state, output);
      const code = Number(c_inflate(state));
      if (code < 0) throw new Error(`gzip: ${reasons[code] ?? `error ${code}`}`);
      const produced = outputBytes - state.readUInt32LE(at.availOut);
      if (produced > 0) sink(output.subarray(0, produced));
      // The sink may call close().
      if (isClosed) return input.length;
      if (state.readUInt32LE(at.blockState) === finished) {
        isInMember = false;
        return input.length - state.readUInt32LE(at.availIn);
      }
      if (produced < outputBytes && state.readUInt32LE(at.availIn) === 0) return input.length;
      if (produced === 0) throw new Error('gzip: decompression makes no progress');
    }
  };

  const write = (input: Buffer, sink: (output: Buffer) => void): void => {
    let rest = input;
    while (rest.length > 0 && !isPadding && !isClosed) rest = isInMember ? rest.subarray(inflate(rest, sink)) : readHeader(rest);
  };

  const close = (): void => {
    isClosed = true;
  };
  return { write, isAtEnd: () => hasBegun && !isInMember && header === undefined, close };
}

function startMember(init: IsalBindings['init'], state: Buffer): void {
  init(state);
  state.writeUInt32LE(gzipWithoutHeader, at.crcFlag);
}

function setInput(state: Buffer, input: Buffer): void {
  state.writeBigUInt64LE(BigInt(koffi.address(input)), at.nextIn);
  state.writeUInt32LE(input.length, at.availIn);
}

function setOutput(state: Buffer, output: Buffer): void {
  state.writeBigUInt64LE(BigInt(koffi.address(output)), at.nextOut);
  state.writeUInt32LE(output.length, at.availOut);
}

/** A gzip member of known content. */
const sample = {
  member: Buffer.from('H4sIAAAAAAAAA0tKLSrJAACnPWd2BQAAAA==', 'base64'),
  headerBytes: 10,
  content: 'berth',
  checksum: 0x7667_3da7,
} as const;

/** Inflates the sample with one call and compares every field that is used with its known value. @returns the first difference. */
function layoutProblem({ init, inflate }: IsalBindings): string | undefined {
  const body = sample.member.subarray(sample.headerBytes);
  const input = Buffer.concat([body, Buffer.from('next')]);
  const output = Buffer.alloc(64);
  const state = Buffer.alloc(stateBytes);
  startMember(init, state);
  setInput(state, input);
  setOutput(state, output);
  const code = inflate(state);
  const movedBytes = (field: number, buffer: Buffer) => Number(state.readBigUInt64LE(field) - BigInt(koffi.address(buffer)));
  const produced = sample.content.length;
  const values = [
    ['isal_inflate() returned', code, 0],
    ['bytes consumed (avail_in)', input.length - state.readUInt32LE(at.availIn), body.length],
    ['bytes consumed (next_in)', movedBytes(at.nextIn, input), body.length],
    ['bytes produced (avail_out)', output.length - state.readUInt32LE(at.availOut), produced],
    ['bytes produced (next_out)', movedBytes(at.nextOut, output), produced],
    ['bytes produced (total_out)', state.readUInt32LE(at.totalOut), produced],
    ['checksum (crc)', state.readUInt32LE(at.crc), sample.checksum],
    ['block_state', state.readUInt32LE(at.blockState), finished],
    ['crc_flag', state.readUInt32LE(at.crcFlag), gzipWithoutHeader],
  ] as const;
  const wrong = values.find(([, value, expected]) => value !== expected);
  return wrong === undefined ? undefined : `${wrong[0]}: ${wrong[1]}, expected ${wrong[2]}`;
}

/** Decompresses two members, and one with a wrong checksum. @returns the first difference to the known results. */
function behaviourProblem(isal: Isal): string | undefined {
  const { member, content, checksum } = sample;
  const parts: string[] = [];
  const decoder = isal.openGzipDecoder();
  try {
    decoder.write(Buffer.concat([member, member]), (output) => parts.push(output.toString()));
  } catch (error) {
    return reasonOf(error);
  }
  if (!decoder.isAtEnd() || parts.join() !== `${content},${content}`) return 'wrong content';
  if (isal.crc32(Buffer.from(content), 0) !== checksum) return 'wrong result of crc32_gzip_refl()';
  const corrupt = Buffer.from(member);
  corrupt.writeUInt32LE(0, corrupt.length - 8);
  try {
    isal.openGzipDecoder().write(corrupt, () => undefined);
    return 'a wrong checksum was accepted';
  } catch {
    return undefined;
  }
}
