/**
 * What a layer's files were when they were unpacked: one record each, written beside them, so that damage on the disk can be found later.
 *
 * Finds what broke, not what somebody changed on purpose: a CRC is no signature. Names are byte strings (one character a byte).
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { failedPrecondition } from '../lib/errors.ts';

export type FileContents = {
  readonly kind: 'file';
  readonly path: string;
  readonly crc: number;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
};
/** `crc` of the target. */
export type LinkContents = { readonly kind: 'link'; readonly path: string; readonly crc: number };
export type Contents = FileContents | LinkContents;

export type ContentsRecorder = {
  /** Of a file's next bytes, going on from that of those before; at first 0. */
  readonly checksum: Checksum;
  readonly add: (contents: Contents) => void;
  /** What had this path so far, and everything beneath it, is gone. */
  readonly removed: (path: string) => void;
  /** Writes what is left to write, and closes the file. Idempotent. */
  readonly close: () => void;
};

/** CRC-32, as gzip has it. */
export type Checksum = (bytes: Uint8Array, crc: number) => number;

/** For layers that nobody will check. */
export const noContents: ContentsRecorder = {
  checksum: () => 0,
  add: () => undefined,
  removed: () => undefined,
  close: () => undefined,
};

const bufferCharactersMax = 64 << 10;

/**
 * @param file must not be there yet.
 * @param checksum a faster one than zlib's, where there is one.
 */
export function recordContents(file: string, checksum: Checksum = crc32): ContentsRecorder {
  const fd = openSync(file, 'wx', 0o600);
  let text = '';
  let isClosed = false;
  const flush = (): void => {
    const bytes = Buffer.from(text, 'latin1');
    text = '';
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  };
  const append = (record: string): void => {
    text += record;
    if (text.length > bufferCharactersMax) flush();
  };
  return {
    checksum,
    add: (contents) => {
      if (contents.kind === 'link') return append(`l ${contents.crc} ${contents.path}\0`);
      const { crc, sizeBytes, mode, uid, gid, path } = contents;
      append(`f ${crc} ${sizeBytes} ${mode} ${uid} ${gid} ${path}\0`);
    },
    removed: (path) => append(`d ${path}\0`),
    close: () => {
      if (isClosed) return;
      isClosed = true;
      try {
        flush();
      } finally {
        closeSync(fd);
      }
    },
  };
}

/**
 * What should be there now: later records of a path replace earlier ones.
 *
 * @throws {BerthError} FAILED_PRECONDITION for bytes that are no such records.
 */
export function parseContents(bytes: Buffer): Contents[] {
  const present = new Map<string, { readonly contents: Contents; readonly position: number }>();
  const removed = new Map<string, number>();
  const records = bytes.toString('latin1').split('\0');
  if (records.pop() !== '') throw failedPrecondition('the record of the files stops in the middle');
  for (const [position, record] of records.entries()) {
    if (record.startsWith('d ')) removed.set(record.slice(2), position);
    else {
      const contents = parseRecord(record);
      present.set(contents.path, { contents, position });
    }
  }
  return [...present.values()].filter(({ contents, position }) => !isRemoved(removed, contents.path, position)).map(({ contents }) => contents);
}

function parseRecord(record: string): Contents {
  const link = /^l ([0-9]+) (.+)$/s.exec(record);
  if (link !== null) return { kind: 'link', crc: Number(link[1]), path: link[2] ?? '' };
  const file = /^f ([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) (.+)$/s.exec(record);
  if (file === null) throw failedPrecondition('the record of the files is damaged');
  const [crc = 0, sizeBytes = 0, mode = 0, uid = 0, gid = 0] = file.slice(1, 6).map(Number);
  return { kind: 'file', crc, sizeBytes, mode, uid, gid, path: file[6] ?? '' };
}

function isRemoved(removed: ReadonlyMap<string, number>, path: string, position: number): boolean {
  for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
    if ((removed.get(path.slice(0, end)) ?? -1) > position) return true;
  }
  return false;
}
