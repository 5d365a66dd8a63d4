/**
 * Puts a layer's archive together again, to the bit, and proves it by the diff id. Runs in a worker.
 *
 * Changes nothing. What is damaged is named as soon as it is met: the reader of the archive learns of it before the end.
 */

import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { close } from '../../sys/call/syscalls.ts';
import { openFileBelow } from '../../sys/filesystem/inodes.ts';
import { type LayerPlace, partsOfLayer } from './layer-archive.ts';
import { shownPath } from './layer-path.ts';
import type { FileContents } from './tar-split.ts';

export type AssembleJob = LayerPlace & { readonly diffId: string };

/** Where the archive goes. */
export type ChunkSender = {
  /** As much as fits, as soon as there is room; never nothing. @throws when nobody wants any more. */
  readonly space: () => Promise<Buffer>;
  /** So many bytes of the space have been filled. */
  readonly filled: (length: number) => void;
};

/** @throws {BerthError} FAILED_PRECONDITION for a layer that is not what it was; the outlet's failure. */
export async function assembleLayer(job: AssembleJob, outlet: ChunkSender): Promise<void> {
  const hash = createHash(job.diffId.slice(0, job.diffId.indexOf(':')));
  const roots = new Map<string, number>();
  const rootOf = (directory: string): number => {
    const fd = roots.get(directory) ?? openSync(directory, 'r');
    roots.set(directory, fd);
    return fd;
  };
  try {
    for (const part of partsOfLayer(job)) {
      if (part.kind === 'bytes') {
        hash.update(part.bytes);
        await copyOut(part.bytes, outlet);
      } else if (part.kind === 'file' && !part.isSparse && part.sizeBytes > 0) {
        const fd = openFileBelow(rootOf(part.directory), part.path);
        try {
          await readOut(fd, part, outlet, (bytes) => hash.update(bytes));
        } finally {
          close(fd);
        }
      }
    }
  } catch (error) {
    throw error instanceof BerthError ? error : failedPrecondition(reasonOf(error), error);
  } finally {
    for (const fd of roots.values()) closeSync(fd);
  }
  const found = hash.digest('hex');
  if (!job.diffId.endsWith(`:${found}`)) throw failedPrecondition(`its files have the diff id ${found}`);
}

async function copyOut(bytes: Buffer, outlet: ChunkSender): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const copied = bytes.copy(await outlet.space(), 0, at);
    outlet.filled(copied);
    at += copied;
  }
}

async function readOut(fd: number, file: FileContents, outlet: ChunkSender, onBytes: (bytes: Buffer) => void): Promise<void> {
  const what = `file ${shownPath(file.path)}`;
  const { size } = fstatSync(fd);
  if (size !== file.sizeBytes) throw failedPrecondition(`${what} has ${size} bytes, not ${file.sizeBytes}`);
  let crc = 0;
  for (let left = size; left > 0; ) {
    const space = await outlet.space();
    const bytes = space.subarray(0, readSync(fd, space, 0, Math.min(left, space.length), size - left));
    if (bytes.length === 0) throw failedPrecondition(`${what} became shorter`);
    crc = crc32(bytes, crc);
    onBytes(bytes);
    outlet.filled(bytes.length);
    left -= bytes.length;
  }
  if (crc !== file.crc) throw failedPrecondition(`${what} has other bytes`);
}
