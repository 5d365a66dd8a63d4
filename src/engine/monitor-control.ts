/**
 * Asks the monitor of a running container for something: one frame there, eight bytes back. The frames are listed in src/monitor/supervise.c.
 *
 * Starts nothing and knows no plans. A container goes on whatever happens here.
 */
import { closeSync, openSync } from 'node:fs';
import { connect } from 'node:net';
import { BerthError, failedPrecondition, internal } from '../lib/errors.ts';
import { SyscallError } from '../sys/ffi.ts';
import { O_CLOEXEC, O_DIRECTORY, O_PATH } from '../sys/syscalls.ts';

/** A monitor answers at once or never. */
const controlTimeoutMs = 5_000;
const frameBytes = 16;
const replyBytes = 8;
const controlOperations = { reopenLog: 1, resize: 2 } as const;

/**
 * Makes a container's monitor write to a new log file of the same name.
 *
 * @param directory holds the monitor's socket `control`.
 * @throws {BerthError} FAILED_PRECONDITION when no monitor listens; INTERNAL when the file cannot be made (the old one stays in use).
 */
export async function reopenLog(directory: string): Promise<void> {
  await control(directory, [controlOperations.reopenLog, 0, 0, 0], 'reopening the log');
}

/** Sets the size of a container's terminal. @throws {BerthError} as reopenLog(); INTERNAL also when there is no terminal. */
export async function resizeTerminal(directory: string, size: { readonly rows: number; readonly columns: number }): Promise<void> {
  await control(directory, [controlOperations.resize, size.rows, size.columns, 0], 'resizing the terminal');
}

async function control(directory: string, words: readonly number[], attempt: string): Promise<void> {
  const frame = Buffer.alloc(frameBytes);
  words.forEach((word, i) => {
    frame.writeUInt32LE(word, 4 * i);
  });
  const errno = (await exchange(directory, frame, attempt)).readInt32LE(4);
  if (errno === 0) return;
  const cause = new SyscallError(attempt, errno);
  throw internal(cause.message, cause);
}

/** One frame there, eight bytes back. */
async function exchange(directory: string, frame: Buffer, attempt: string): Promise<Buffer> {
  let dir: number;
  try {
    dir = openSync(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  } catch (error) {
    throw failedPrecondition(`${attempt}: ${error instanceof Error ? error.message : error}`, error);
  }
  try {
    // Through the fd: a socket's address holds 108 bytes, unix(7).
    return await converse(`/proc/self/fd/${dir}/control`, frame, attempt);
  } finally {
    closeSync(dir);
  }
}

function converse(path: string, frame: Buffer, attempt: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let reply: Buffer = Buffer.alloc(0);
    const socket = connect(path);
    const give = (error: BerthError) => {
      socket.destroy();
      reject(error);
    };
    socket.setTimeout(controlTimeoutMs, () => give(new BerthError('DEADLINE_EXCEEDED', `${attempt}: no answer within ${controlTimeoutMs} ms`)));
    socket.on('error', (error) => give(failedPrecondition(`${attempt}: the container's monitor does not listen: ${error.message}`, error)));
    socket.on('close', () => give(failedPrecondition(`${attempt}: the container's monitor ended`)));
    socket.on('data', (bytes: Buffer) => {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < replyBytes) return;
      resolve(reply);
      socket.destroy();
    });
    socket.write(frame);
  });
}
