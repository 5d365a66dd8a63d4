/**
 * Parses the records of a PAX extended header: `<length> <key>=<value>\n`. A value may contain any bytes.
 *
 * Pure. Source: POSIX.1-2024 pax, "pax Header Block".
 */
import { invalidArgument } from '../../lib/errors.ts';

export type PaxValues = ReadonlyMap<string, Buffer>;

const keyBytesMax = 512;
const recordsMax = 4096;
const inheritedKeys: readonly string[] = ['path', 'linkpath', 'size', 'uid', 'gid', 'mtime'];

/**
 * Returns the values with the records of a header applied.
 *
 * @param values in effect before. A record with an empty value overrides that of a global header.
 * @throws {BerthError} INVALID_ARGUMENT for a record with an invalid length, key or end.
 */
export function applyPaxRecords(values: PaxValues, bytes: Buffer): PaxValues {
  const result = new Map(values);
  const extents: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const { key, value, next } = readRecord(bytes, at);
    // Only these keys are repeated: GNU's sparse format 0.0. Format 0.1 joins them with commas into one value.
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') extents.push(value);
    else result.set(key, value);
    if (result.size > recordsMax) throw invalidArgument(`tar: more than ${recordsMax} PAX records`);
    at = next;
  }
  if (extents.length > 0) result.set('GNU.sparse.map', Buffer.from(extents.map((value) => value.toString('latin1')).join()));
  return result;
}

/**
 * Returns the values of a global header that later entries inherit. Not extended attributes: no program writes them there, and every entry would
 * get all of them. The values are copied: views would keep the complete header in memory.
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
  if (length < 5 || next > bytes.length || bytes[next - 1] !== 0x0a) throw invalidArgument('tar: PAX record with an invalid length');
  const equals = bytes.indexOf(0x3d, space);
  if (equals <= space + 1 || equals >= next) throw invalidArgument('tar: PAX record without a key');
  if (equals - space > keyBytesMax) throw invalidArgument(`tar: PAX key longer than ${keyBytesMax} bytes`);
  const key = bytes.toString('latin1', space + 1, equals);
  if (key.includes('\0')) throw invalidArgument('tar: PAX key contains a NUL');
  return { key, value: bytes.subarray(equals + 1, next - 1), next };
}
