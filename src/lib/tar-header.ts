/**
 * Builds the headers of a tar archive: POSIX ustar, preceded by a pax header for values that do not fit. Pure.
 *
 * Names and link targets are byte strings (`latin1`: one character per byte), because they need not be UTF-8.
 *
 * For checkpoints, whose archives tar-stream 3.2.2 cannot write. It writes names and extended attributes as UTF-8, and needs the size of an entry
 * before its contents. Without an error, it replaces every id above 262143 by 262143, and every time after 2038-01-19 by a wrong one
 * (findings/tar-stream-large-ids.sh). Archives of exported images do not need this and are written with tar-stream.
 */

export type TarEntry = {
  /** Without a leading slash; for directories also without a trailing slash. */
  readonly path: string;
  readonly kind: 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Size of the contents in bytes; 0 for all but files. */
  readonly size: number;
  readonly mtimeSeconds: number;
  /** For links. */
  readonly target?: string;
  /** For devices. */
  readonly device?: { readonly major: number; readonly minor: number };
  /** Extended attributes, name and value. */
  readonly attributes?: readonly (readonly [name: string, value: Buffer])[];
};

const blockBytes = 512;

/** The two zero blocks that end an archive. */
export const tarEnd: Buffer = Buffer.alloc(2 * blockBytes);

const typeFlags = { file: '0', hardlink: '1', symlink: '2', char: '3', block: '4', directory: '5', fifo: '6' } as const;
const nameBytesMax = 100;

/** @returns everything before the entry's contents. Its length does not depend on `size`. */
export function tarHeader(entry: TarEntry): Buffer {
  const path = entry.kind === 'directory' ? `${entry.path}/` : entry.path;
  const { target = '', attributes = [] } = entry;
  const records = [
    ...(path.length > nameBytesMax ? [paxRecord('path', Buffer.from(path, 'latin1'))] : []),
    ...(target.length > nameBytesMax ? [paxRecord('linkpath', Buffer.from(target, 'latin1'))] : []),
    ...attributes.map(([name, value]) => paxRecord(`SCHILY.xattr.${name}`, value)),
  ];
  const own = block({ ...entry, path }, typeFlags[entry.kind]);
  if (records.length === 0) return own;
  const extra = Buffer.concat(records);
  const head = block({ ...entry, path: 'pax', target: '', size: extra.length, mode: 0o600 }, 'x');
  return Buffer.concat([head, extra, tarPadding(extra.length), own]);
}

/** Returns the padding that completes the last block of an entry's contents. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((blockBytes - (size % blockBytes)) % blockBytes);
}

/** Returns `LENGTH KEY=VALUE\n`. The length includes its own digits. Source: pax(1), "pax Extended Header". */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), value, Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function block(entry: TarEntry, typeFlag: string): Buffer {
  const header = Buffer.alloc(blockBytes);
  const text = (offset: number, bytes: number, value: string) => header.write(value, offset, bytes, 'latin1');
  text(0, nameBytesMax, entry.path);
  writeNumber(header, 100, 8, entry.mode);
  writeNumber(header, 108, 8, entry.uid);
  writeNumber(header, 116, 8, entry.gid);
  writeNumber(header, 124, 12, entry.size);
  writeNumber(header, 136, 12, Math.max(0, entry.mtimeSeconds));
  text(148, 8, '        ');
  text(156, 1, typeFlag);
  text(157, nameBytesMax, entry.target ?? '');
  text(257, 8, 'ustar\x0000');
  if (entry.device !== undefined) {
    writeNumber(header, 329, 8, entry.device.major);
    writeNumber(header, 337, 8, entry.device.minor);
  }
  const sum = header.reduce((total, byte) => total + byte, 0);
  text(148, 8, `${sum.toString(8).padStart(6, '0')}\0 `);
  return header;
}

/** Writes octal digits or, if the number does not fit, binary with the first bit set: a GNU extension that all current readers support. */
function writeNumber(header: Buffer, offset: number, bytes: number, value: number): void {
  const digits = value.toString(8);
  if (digits.length < bytes) {
    header.write(digits.padStart(bytes - 1, '0'), offset, 'latin1');
    return;
  }
  header.writeBigUInt64BE(BigInt(value), offset + bytes - 8);
  header[offset] = 0x80 | (header[offset] ?? 0);
}
