/**
 * Prepares the path of a listening Unix socket. Does not listen itself.
 */
import { lstatSync, mkdirSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { failedPrecondition } from './errors.ts';
import { requireTrustedPath } from './trusted-path.ts';

/**
 * Creates the directory and removes the stale socket of a killed daemon. A running daemon is recognized because it accepts a connection.
 *
 * The path itself is never followed: a link is not a socket, and bind(2) does not follow one that appears later.
 *
 * @throws {BerthError} FAILED_PRECONDITION if another daemon listens on the socket, the path is not a socket, or other users can replace it.
 */
export async function clearSocketPath(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  requireTrustedPath(dirname(path));
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw failedPrecondition(`listen on ${path}: the path exists and is not a socket`);
  if (await isInUse(path)) throw failedPrecondition(`listen on ${path}: another daemon is listening there`);
  unlinkSync(path);
}

function isInUse(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Any other error, for example a full backlog, means that a process is listening.
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'));
  });
}
