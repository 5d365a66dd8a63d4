/**
 * Reads the header of a gzip member, RFC 1952, in pieces of any size. Keeps a few bytes, however long its fields are. No I/O.
 */
import { crc32 } from 'node:zlib';

type Step = 'fixed' | 'extra length' | 'extra' | 'name' | 'comment' | 'checksum' | 'end';

const fixedBytes = 10;
const flags = { checksum: 2, extra: 4, name: 8, comment: 16, reserved: 0xe0 } as const;
const deflate = 8;
/** Of the length of the extra field, and of the checksum. */
const numberBytes = 2;
/** In the order in which they follow. */
const optionalFields: readonly (readonly [flag: number, Step])[] = [
  [flags.extra, 'extra length'],
  [flags.name, 'name'],
  [flags.comment, 'comment'],
  [flags.checksum, 'checksum'],
];

export class GzipHeader {
  #step: Step = 'fixed';
  #flag = 0;
  /** The fields that follow. */
  #rest: Step[] = [];
  /** Bytes of the current field that are still missing, if its length is known. */
  #missing = fixedBytes;
  /** Of fields whose value matters. */
  readonly #field: number[] = [];
  #sum = 0;

  get isComplete(): boolean {
    return this.#step === 'end';
  }

  /**
   * @returns how many bytes of `input` belong to the header.
   * @throws Error for another format or compression method, reserved flags, or a wrong checksum of the header (FHCRC).
   */
  read(input: Buffer): number {
    let position = 0;
    while (position < input.length && this.#step !== 'end') {
      const taken = this.#lengthIn(input.subarray(position));
      this.#take(input.subarray(position, position + taken));
      position += taken;
      if (this.#missing === 0) this.#next();
    }
    return position;
  }

  /** @returns how many bytes of `input` belong to the current field; sets `#missing` to 0 if it ends there. */
  #lengthIn(input: Buffer): number {
    if (this.#step === 'name' || this.#step === 'comment') {
      const zero = input.indexOf(0);
      if (zero !== -1) this.#missing = 0;
      return zero === -1 ? input.length : zero + 1;
    }
    const length = Math.min(this.#missing, input.length);
    this.#missing -= length;
    return length;
  }

  #take(bytes: Buffer): void {
    if (this.#step === 'fixed' || this.#step === 'extra length' || this.#step === 'checksum') this.#field.push(...bytes);
    if (this.#step !== 'checksum') this.#sum = crc32(bytes, this.#sum);
    if (this.#step === 'fixed') this.#checkFixed();
  }

  #checkFixed(): void {
    const [first = 0x1f, second = 0x8b, method = deflate, flag = 0] = this.#field;
    if (first !== 0x1f || second !== 0x8b) throw new Error('gzip: not in gzip format');
    if (method !== deflate) throw new Error('gzip: unknown compression method');
    if ((flag & flags.reserved) !== 0) throw new Error('gzip: incorrect header');
    this.#flag = flag;
  }

  #next(): void {
    const value = (this.#field[0] ?? 0) | ((this.#field[1] ?? 0) << 8);
    this.#field.length = 0;
    if (this.#step === 'fixed') this.#rest = optionalFields.filter(([flag]) => (this.#flag & flag) !== 0).map(([, step]) => step);
    if (this.#step === 'extra length' && value > 0) this.#rest.unshift('extra');
    if (this.#step === 'checksum' && value !== (this.#sum & 0xffff)) throw new Error('gzip: incorrect checksum of the header');
    this.#step = this.#rest.shift() ?? 'end';
    this.#missing = this.#step === 'extra' ? value : numberBytes;
  }
}
