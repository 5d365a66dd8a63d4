/**
 * An image's archive as it comes, compressed or not, into one file that holds its members' content, and a list of where each is. Runs in a worker.
 *
 * Its members may come in any order, so nothing is read of them before the last. Checks no digest: that is done when what is here is used.
 */
import { closeSync, openSync, statfsSync, writeSync } from 'node:fs';
import { BerthError, invalidArgument, unimplemented } from '../../lib/errors.ts';
import { openIsal } from '../../sys/library/libisal.ts';
import { exhausted, named } from '../layer/layer-failure.ts';
import { shownPath, toCleanPath } from '../layer/layer-path.ts';
import { createTarParser, type TarEntry } from '../tar/tar.ts';
import { openDecoder } from './decoder.ts';

/** By clean paths. Of two members of one name the later one counts. */
export type SpooledMember =
  | { readonly kind: 'file'; readonly path: string; readonly offset: number; readonly sizeBytes: number }
  /** `target` of a symbolic link as it stands there, of a hard link from the archive's root. */
  | { readonly kind: 'symlink' | 'link'; readonly path: string; readonly target: string };

export type SpoolJob = {
  /** Must not be there yet. */
  readonly file: string;
};

/** An image has some hundred members. */
const membersMax = 100_000;
const pathBytesMax = 16 << 20;
/** How much may be written between two looks at what space is left; and what is left free for the node. */
const spaceCheckBytes = 32 << 20;
const spaceReserveBytes = 64 << 20;

export type SpoolStream = {
  readonly write: (bytes: Buffer) => Promise<void>;
  /** @throws {BerthError} INVALID_ARGUMENT for what is no tar archive, or half of one. */
  readonly end: () => Promise<readonly SpooledMember[]>;
  readonly close: () => void;
};

/** What goes wrong is a BerthError: RESOURCE_EXHAUSTED when it does not fit, else as the decompressor and the parser of tar say. */
export function openSpoolStream(job: SpoolJob): SpoolStream {
  const fd = openSync(job.file, 'wx', 0o600);
  const members = new Map<string, SpooledMember>();
  let position = 0;
  let entries = 0;
  let pathBytes = 0;
  let uncheckedBytes = spaceCheckBytes;
  let present = '';

  const entry = (found: TarEntry): void => {
    present = found.path;
    const path = toCleanPath(found.path);
    entries += 1;
    pathBytes += path.length + found.linkPath.length;
    if (entries > membersMax || pathBytes > pathBytesMax) throw new BerthError('RESOURCE_EXHAUSTED', `has more than ${membersMax} members`);
    if (found.isSparse) throw unimplemented(`member ${shownPath(path)} is stored as a sparse file`);
    if (found.kind === 'file') members.set(path, { kind: 'file', path, offset: position, sizeBytes: found.sizeBytes });
    else if (found.kind === 'symlink' || found.kind === 'link') members.set(path, { kind: found.kind, path, target: found.linkPath });
  };

  const content = (bytes: Buffer): void => {
    checkSpace(bytes.length);
    named(present, () => {
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

  const parser = createTarParser({ entry, content, hole: () => undefined, entryEnd: () => undefined });
  const decoder = openDecoder(openIsal(), parser.push);

  const end = async (): Promise<readonly SpooledMember[]> => {
    await decoder.end();
    parser.end();
    if (members.size === 0) throw invalidArgument('is empty');
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
