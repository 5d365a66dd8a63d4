import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32, gunzipSync, gzipSync } from 'node:zlib';
import { createRandom } from '../../../test/support/mutate.ts';
import { library } from '../call/ffi.ts';
import { type IsalBindings, isalSoname, openIsal, probeIsal } from './libisal.ts';

const isal = openIsal();
const options = { skip: isal === undefined ? `no ${isalSoname} on this machine` : false };
const contents = [Buffer.alloc(3 << 20, 'berth '), Buffer.alloc(0), Buffer.alloc(256 << 10, 1), Buffer.from('x')];

function decompress(bytes: Buffer, pieceBytes: number): { readonly content: Buffer; readonly isAtEnd: boolean } {
  const decoder = isal?.openGzipDecoder();
  assert.ok(decoder);
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes)
    decoder.write(bytes.subarray(at, at + pieceBytes), (output) => parts.push(Buffer.from(output)));
  decoder.close();
  return { content: Buffer.concat(parts), isAtEnd: decoder.isAtEnd() };
}

test('openIsal() decompresses several members followed by zeros, in pieces of any size', options, () => {
  const archive = Buffer.concat([...contents.map((content) => gzipSync(content)), Buffer.alloc(700)]);
  for (const pieceBytes of [1, 7, 4096, archive.length]) {
    const { content, isAtEnd } = decompress(archive, pieceBytes);
    assert.ok(content.equals(Buffer.concat(contents)), `pieces of ${pieceBytes}`);
    assert.equal(isAtEnd, true);
  }
});

test('openIsal() reads headers with a name, comment, extra field and header checksum, in pieces of any size', options, () => {
  const plain = gzipSync('content');
  const head = Buffer.from([0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 0, 0, 0, 0, 0, 3, 3, 0, 1, 2, 3, ...Buffer.from('name\0a comment\0')]);
  const checksum = crc32(head) & 0xffff;
  const archive = Buffer.concat([head, Buffer.from([checksum & 0xff, checksum >> 8]), plain.subarray(10)]);
  assert.equal(gunzipSync(archive).toString(), 'content');
  for (let pieceBytes = 1; pieceBytes <= archive.length; pieceBytes += 1) {
    assert.deepEqual([decompress(archive, pieceBytes).content.toString(), decompress(archive, pieceBytes).isAtEnd], ['content', true]);
  }
});

test('isAtEnd() is false within a member', options, () => {
  const archive = Buffer.concat([gzipSync(contents[0] ?? ''), gzipSync('y')]);
  for (const length of [3, 9, archive.length - 1]) assert.equal(decompress(archive.subarray(0, length), 4096).isAtEnd, false);
});

test('openIsal() rejects corrupt members, wrong checksums, trailing garbage and other formats', options, () => {
  const archive = gzipSync(contents[0] ?? '');
  const wrongSum = Buffer.from(archive);
  wrongSum[archive.length - 8] = 255 - (archive[archive.length - 8] ?? 0);
  assert.throws(() => decompress(wrongSum, 4096), /^Error: gzip: incorrect checksum/);
  assert.throws(() => decompress(Buffer.concat([archive, Buffer.from('more')]), 4096), /trailing garbage after a member/);
  assert.throws(() => decompress(Buffer.from('not gzip at all'), 4096), /not in gzip format/);
});

test('openIsal() accepts and rejects the same corrupt bytes as zlib', options, () => {
  const random = createRandom(7);
  const text = Buffer.from(Array.from({ length: 20_000 }, () => 97 + Math.floor(random() ** 3 * 26)));
  const archive = Buffer.concat([gzipSync(text), gzipSync(text, { level: 1 })]);
  let rejected = 0;
  for (let round = 0; round < 300; round += 1) {
    const corrupt = Buffer.from(archive);
    for (let change = 0; change <= round % 3; change += 1) corrupt[Math.floor(random() * corrupt.length)] = Math.floor(random() * 256);
    const expected = outcome(() => gunzipSync(corrupt));
    const found = outcome(() => {
      const { content, isAtEnd } = decompress(corrupt, 1 + Math.floor(random() * 5000));
      if (!isAtEnd) throw new Error('unexpected end of input');
      return content;
    });
    assert.equal(found, expected, `round ${round}`);
    if (expected === 'rejected') rejected += 1;
  }
  assert.ok(rejected > 100);
});

function outcome(decode: () => Buffer): string {
  try {
    return `crc ${crc32(decode())}`;
  } catch {
    return 'rejected';
  }
}

test('crc32() returns the same checksums as zlib', options, () => {
  for (const content of contents) assert.equal(isal?.crc32(content.subarray(2), crc32(content.subarray(0, 2))), crc32(content));
});

test('write() rethrows errors of the sink unchanged', options, () => {
  const decoder = isal?.openGzipDecoder();
  const stop = new Error('enough');
  const sink = (): void => {
    throw stop;
  };
  assert.throws(() => decoder?.write(gzipSync(Buffer.from('x')), sink), stop);
});

/** Offsets of `struct inflate_state`; `next_in` and `next_out` are pointers. */
const fields = { next_out: 0, avail_out: 8, total_out: 12, next_in: 16, avail_in: 32, block_state: 21_160, crc_flag: 21_172, crc: 21_176 };
type Field = keyof typeof fields;

/** Simulates a version of the library that has one field `distance` bytes further on. The real library runs on its own state. */
function movedBindings(real: IsalBindings, moved: Field, distance: number): IsalBindings {
  const state = Buffer.alloc(128 << 10);
  const names = Object.keys(fields) as Field[];
  const sizeOf = (name: Field) => (name.startsWith('next') ? 8 : 4);
  const movedOffset = (name: Field) => fields[name] + (name === moved ? distance : 0);
  const copyOut = (caller: Buffer) => {
    for (const name of names) state.copy(caller, movedOffset(name), fields[name], fields[name] + sizeOf(name));
  };
  const copyIn = (caller: Buffer) => {
    for (const name of names) caller.copy(state, fields[name], movedOffset(name), movedOffset(name) + sizeOf(name));
  };
  return {
    ...real,
    init: (caller) => {
      real.init(state);
      copyOut(caller);
    },
    inflate: (caller) => {
      // With a moved pointer or length the real library would write to any address, so it is not called.
      if (distance > 0 && fields[moved] < fields.block_state) return 0;
      copyIn(caller);
      const code = real.inflate(state);
      copyOut(caller);
      return code;
    },
  };
}

/** The same bindings as those that probeIsal() loads by default. */
function realBindings(): IsalBindings {
  const lib = library(isalSoname);
  return {
    init: lib.func('void isal_inflate_init(void *state)'),
    inflate: lib.func('int isal_inflate(void *state)'),
    crc32: lib.func('uint32_t crc32_gzip_refl(uint32_t crc, const void *bytes, uint64_t length)'),
  };
}

test('probeIsal() accepts the installed library, and a simulated one in which no field has moved', options, () => {
  assert.equal(probeIsal().status, 'usable');
  assert.equal(probeIsal(() => movedBindings(realBindings(), 'crc', 0)).status, 'usable');
});

test('probeIsal() rejects a library in which any field has moved, and names the first difference', options, () => {
  for (const name of Object.keys(fields) as Field[]) {
    const probe = probeIsal(() => movedBindings(realBindings(), name, 8));
    assert.equal(probe.status, 'unusable', name);
    assert.match('reason' in probe ? probe.reason : '', /^self-test failed: .*: -?\d+, expected \d+$/, name);
  }
  const crc = probeIsal(() => movedBindings(realBindings(), 'crc', 8));
  assert.equal('reason' in crc && crc.reason, 'self-test failed: checksum (crc): 0, expected 1986477479');
});

test('probeIsal() rejects a library that computes another CRC-32, or accepts wrong checksums', options, () => {
  const real = realBindings();
  assert.match(JSON.stringify(probeIsal(() => ({ ...real, crc32: () => 1 }))), /unusable.*wrong result of crc32_gzip_refl/);
  const inflate = (state: Buffer): number => Math.max(0, real.inflate(state));
  assert.match(JSON.stringify(probeIsal(() => ({ ...real, inflate }))), /unusable/);
});

test('probeIsal() distinguishes a missing library from one without the functions', () => {
  const missing = probeIsal(() => library('libisal.so.999') as never);
  assert.deepEqual([missing.status, missing.isal], ['missing', undefined]);
  const other = probeIsal(() => library('libc.so.6').func('int isal_inflate(void *state)') as never);
  assert.deepEqual([other.status, other.isal], ['unusable', undefined]);
});
