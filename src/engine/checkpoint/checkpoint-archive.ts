/**
 * Writes the archive of a checkpoint: a tar of files, and of streams of unknown size. The archive has no name until it is complete.
 */
import { stat } from 'node:fs/promises';
import { BerthError, failedPrecondition, failedTo, reasonOf } from '../../lib/errors.ts';
import { type TarEntry, tarEnd, tarHeader, tarPadding } from '../../lib/tar-header.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { contentsOf } from '../../sys/filesystem/changes-archive.ts';
import { nameFile, openUnnamed } from '../../sys/filesystem/unnamed-file.ts';

export type Archive = {
  readonly addText: (name: string, text: string) => Promise<void>;
  /** @throws the signal's reason, or the error of the file system. */
  readonly addFile: (name: string, path: string, signal: AbortSignal) => Promise<void>;
  readonly addParts: (name: string, parts: AsyncIterable<Buffer>, signal: AbortSignal) => Promise<void>;
  readonly addDirectory: (name: string) => Promise<void>;
  /** Completes the archive and gives it its name. @throws {BerthError} ALREADY_EXISTS if a file of this name was created in the meantime. */
  readonly publish: (location: string) => Promise<void>;
  /** Discards the archive unless publish() has succeeded. */
  readonly close: () => Promise<void>;
};

/** For root only: the archive contains all memory of the processes. */
const fileMode = 0o600;
const directoryMode = 0o700;

/** @throws {BerthError} FAILED_PRECONDITION if no file can be created in the directory. */
export async function openArchive(directory: string): Promise<Archive> {
  const file = await openUnnamed(directory, fileMode).catch((error: unknown) => {
    const attempt = `create a file in ${directory}`;
    if (isErrno(error, 'EOPNOTSUPP', 'EISDIR')) throw failedPrecondition(`${attempt}: the file system does not support O_TMPFILE`, error);
    throw isErrno(error, 'ENOENT', 'ENOTDIR', 'EROFS') ? failedPrecondition(`${attempt}: ${reasonOf(error)}`, error) : failedTo(attempt, error);
  });
  let end = 0;
  const write = async (bytes: Buffer, at: number): Promise<void> => {
    for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  };
  const append = async (bytes: Buffer): Promise<void> => {
    await write(bytes, end);
    end += bytes.length;
  };
  const appendAll = async (parts: AsyncIterable<Buffer>, signal: AbortSignal): Promise<void> => {
    for await (const part of parts) {
      signal.throwIfAborted();
      await append(part);
    }
  };
  return {
    addText: async (name, text) => {
      const bytes = Buffer.from(text);
      await append(Buffer.concat([headerOf(name, bytes.length), bytes, tarPadding(bytes.length)]));
    },
    addFile: async (name, path, signal) => {
      const { size } = await stat(path);
      await append(headerOf(name, size));
      await appendAll(contentsOf(path, size), signal);
    },
    addParts: async (name, parts, signal) => {
      const start = end;
      await append(headerOf(name, 0));
      const first = end;
      await appendAll(parts, signal);
      await write(headerOf(name, end - first), start);
      await append(tarPadding(end - first));
    },
    addDirectory: (name) => append(tarHeader({ ...common(name), kind: 'directory', mode: directoryMode, size: 0 })),
    publish: async (location) => {
      await append(tarEnd);
      try {
        nameFile(file.fd, location);
      } catch (error) {
        throw isErrno(error, 'EEXIST') ? new BerthError('ALREADY_EXISTS', `${location} already exists`, error) : error;
      }
    },
    close: () => file.close(),
  };
}

const headerOf = (name: string, size: number): Buffer => tarHeader({ ...common(name), kind: 'file', mode: fileMode, size });

const common = (path: string): Pick<TarEntry, 'path' | 'uid' | 'gid' | 'mtimeSeconds'> => ({
  path,
  uid: 0,
  gid: 0,
  mtimeSeconds: Math.floor(Date.now() / 1000),
});
