/**
 * Reassembles the archive of a layer bit for bit, and checks the diff id. Runs in a worker.
 *
 * Changes nothing. Reports a corrupt file as soon as it is read, before the end of the archive.
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

/** The destination of the archive. */
export type ChunkSender = {
  /** Waits for buffer space and returns it; never empty. @throws when the reader has canceled. */
  readonly space: () => Promise<Buffer>;
  /** Sends this many bytes from the start of the space. */
  readonly filled: (length: number) => void;
};

/** Sends the archive of a layer. @throws {BerthError} FAILED_PRECONDITION for a corrupt layer; errors of the sender. */
export async function assembleLayer(job: AssembleJob, sender: ChunkSender): Promise<void> {
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
        await sendBytes(part.bytes, sender);
      } else if (part.kind === 'file' && !part.isSparse && part.sizeBytes > 0) {
        const fd = openFileBelow(rootOf(part.directory), part.path);
        try {
          await sendFile(fd, part, sender, (bytes) => hash.update(bytes));
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
  if (!job.diffId.endsWith(`:${found}`)) throw failedPrecondition(`diff id mismatch: found ${found}`);
}

async function sendBytes(bytes: Buffer, sender: ChunkSender): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const copied = bytes.copy(await sender.space(), 0, at);
    sender.filled(copied);
    at += copied;
  }
}

async function sendFile(fd: number, file: FileContents, sender: ChunkSender, onBytes: (bytes: Buffer) => void): Promise<void> {
  const what = `file ${shownPath(file.path)}`;
  const { size } = fstatSync(fd);
  if (size !== file.sizeBytes) throw failedPrecondition(`${what}: ${size} bytes instead of ${file.sizeBytes}`);
  let crc = 0;
  for (let left = size; left > 0; ) {
    const space = await sender.space();
    const bytes = space.subarray(0, readSync(fd, space, 0, Math.min(left, space.length), size - left));
    if (bytes.length === 0) throw failedPrecondition(`${what}: truncated while reading`);
    crc = crc32(bytes, crc);
    onBytes(bytes);
    sender.filled(bytes.length);
    left -= bytes.length;
  }
  if (crc !== file.crc) throw failedPrecondition(`${what}: checksum mismatch`);
}
