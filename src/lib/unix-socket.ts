/**
 * Makes place for a listening Unix socket. Listens on nothing itself.
 */
import { lstatSync, mkdirSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { failedPrecondition } from './errors.ts';

/**
 * Makes the directory, and removes what a daemon that was killed left behind there; one that lives answers on it.
 *
 * @throws {BerthError} FAILED_PRECONDITION when another daemon answers on the socket, or something that is no socket lies there.
 */
export async function clearSocketPath(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw failedPrecondition(`listening on ${path}: something lies there that is not a socket`);
  if (await answers(path)) throw failedPrecondition(`listening on ${path}: another daemon answers there`);
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Any other error, a full queue for one, comes from somebody who lives.
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'));
  });
}
