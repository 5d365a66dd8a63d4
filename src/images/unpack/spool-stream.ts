/**
 * Spools an image archive, compressed or not: writes the content of all members to one file, and lists where each is. Runs in a worker.
 *
 * The members may come in any order, so none is used before the last one has arrived. Checks no digest: users of the content do.
 *
 * Uses the parser of layers and not tar-stream 3.2.2, which checks less, and does not end for some damaged archives. It also keeps the buffers it
 * receives, so that every chunk must be copied: spooling needs 1.6 times the CPU.
 */
import { closeSync, openSync, statfsSync, writeSync } from 'node:fs';
import { BerthError, invalidArgument, unimplemented } from '../../lib/errors.ts';
import { openIsal } from '../../sys/library/libisal.ts';
import { exhausted, named } from '../layer/layer-failure.ts';
import { shownPath, toCleanPath } from '../layer/layer-path.ts';
import { type TarEntry, TarParser } from '../tar/tar.ts';
import { openDecoder } from './decoder.ts';

/** `path` is a clean path. Of two members with the same path, the later one is used. */
export type SpooledMember =
  | { readonly kind: 'file'; readonly path: string; readonly offset: number; readonly sizeBytes: number }
  /** `target`: of a symbolic link unchanged, of a hard link relative to the archive's root. */
  | { readonly kind: 'symlink' | 'link'; readonly path: string; readonly target: string };

export type SpoolJob = {
  /** Must not exist. */
  readonly file: string;
};

/** An image archive has some hundred members. */
const membersMax = 100_000;
const pathBytesMax = 16 << 20;
/** The free space is checked each time so much has been written. */
const spaceCheckBytes = 32 << 20;
/** Space that stays free for the node. */
const spaceReserveBytes = 64 << 20;

export type SpoolStream = {
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} INVALID_ARGUMENT when it is not a tar archive, or a truncated one. */
  readonly end: () => Promise<readonly SpooledMember[]>;
  readonly close: () => void;
};

/** All errors are BerthErrors: RESOURCE_EXHAUSTED when the disk is full, else those of the decoder and the tar parser. */
export function openSpoolStream(job: SpoolJob): SpoolStream {
  const fd = openSync(job.file, 'wx', 0o600);
  const members = new Map<string, SpooledMember>();
  let position = 0;
  let entries = 0;
  let pathBytes = 0;
  let uncheckedBytes = spaceCheckBytes;
  let currentPath = '';

  const entry = (found: TarEntry): void => {
    currentPath = found.path;
    const path = toCleanPath(found.path);
    entries += 1;
    pathBytes += path.length + found.linkPath.length;
    if (entries > membersMax || pathBytes > pathBytesMax) throw new BerthError('RESOURCE_EXHAUSTED', `more than ${membersMax} members`);
    if (found.isSparse) throw unimplemented(`member ${shownPath(path)}: sparse files are not supported`);
    if (found.kind === 'file') members.set(path, { kind: 'file', path, offset: position, sizeBytes: found.sizeBytes });
    else if (found.kind === 'symlink' || found.kind === 'link') members.set(path, { kind: found.kind, path, target: found.linkPath });
  };

  const content = (bytes: Buffer): void => {
    checkSpace(bytes.length);
    named(currentPath, () => {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    });
    position += bytes.length;
  };

  const checkSpace = (length: number): void => {
    uncheckedBytes += length;
    if (uncheckedBytes < spaceCheckBytes) return;
    uncheckedBytes = 0;
    const { bavail, bsize } = statfsSync(job.file);
    if (bavail * bsize < spaceReserveBytes + spaceCheckBytes) throw exhausted('does not fit on the disk');
  };

  const parser = new TarParser({ entry, content, hole: () => undefined, entryEnd: () => undefined });
  const decoder = openDecoder(openIsal(), (bytes) => parser.push(bytes));

  const end = async (): Promise<readonly SpooledMember[]> => {
    await decoder.end();
    parser.end();
    if (members.size === 0) throw invalidArgument('empty archive');
    return [...members.values()];
  };

  let isClosed = false;
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    decoder.destroy();
    closeSync(fd);
  };
  return { write: decoder.write, end, close };
}
