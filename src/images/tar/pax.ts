/**
 * The records of a PAX extended header: `<length> <key>=<value>\n`, where a value is any bytes.
 *
 * Pure. Source: POSIX.1-2024 pax, "pax Header Block".
 */
import { invalidArgument } from '../../lib/errors.ts';

export type PaxValues = ReadonlyMap<string, Buffer>;

const keyBytesMax = 512;
const recordsMax = 4096;
const inheritedKeys: readonly string[] = ['path', 'linkpath', 'size', 'uid', 'gid', 'mtime'];

/**
 * @param values in force before; a record with an empty value takes its key out of a global header's again.
 * @throws {BerthError} INVALID_ARGUMENT for a record whose length, key or end is wrong.
 */
export function applyPaxRecords(values: PaxValues, bytes: Buffer): PaxValues {
  const result = new Map(values);
  const extents: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const { key, value, next } = readRecord(bytes, at);
    // The only keys that come again and again: GNU's first form of sparse files. The next form has them in one, with commas.
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') extents.push(value);
    else result.set(key, value);
    if (result.size > recordsMax) throw invalidArgument(`tar: more than ${recordsMax} PAX records`);
    at = next;
  }
  if (extents.length > 0) result.set('GNU.sparse.map', Buffer.from(extents.map((value) => value.toString('latin1')).join()));
  return result;
}

/**
 * What the entries after a global header get of it; no attributes, which no program writes there, for each entry would get all of them.
 * Copied: a view would keep the whole header in memory.
 */
export function inherited(globals: PaxValues): PaxValues {
  return new Map([...globals].filter(([key]) => inheritedKeys.includes(key)).map(([key, value]) => [key, Buffer.from(value)]));
}

function readRecord(bytes: Buffer, at: number): { key: string; value: Buffer; next: number } {
  const space = bytes.indexOf(0x20, at);
  const digits = space < 0 || space > at + 8 ? '' : bytes.toString('latin1', at, space);
  const length = /^[1-9][0-9]*$/.test(digits) ? Number(digits) : 0;
  const next = at + length;
  // The shortest record: `5 a=\n`.
  if (length < 5 || next > bytes.length || bytes[next - 1] !== 0x0a) throw invalidArgument('tar: a PAX record has a wrong length');
  const equals = bytes.indexOf(0x3d, space);
  if (equals <= space + 1 || equals >= next) throw invalidArgument('tar: a PAX record has no key');
  if (equals - space > keyBytesMax) throw invalidArgument(`tar: a PAX key is longer than ${keyBytesMax} bytes`);
  const key = bytes.toString('latin1', space + 1, equals);
  if (key.includes('\0')) throw invalidArgument('tar: a PAX key contains a NUL');
  return { key, value: bytes.subarray(equals + 1, next - 1), next };
}
