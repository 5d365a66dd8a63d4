/**
 * Attaches to a container's first process through its monitor: the output from now on, and the input.
 *
 * Does not affect the container's log. A client that does not read its output does not block the container: src/monitor/attach.c.
 */
import { closeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { endsWithin } from '../../lib/deadline.ts';
import { BerthError, failedPrecondition, failedTo, reasonOf } from '../../lib/errors.ts';
import { SyscallError } from '../../sys/call/ffi.ts';
import { AT_FDCWD, O_DIRECTORY, O_PATH, openat } from '../../sys/call/syscalls.ts';
import type { EngineDeps } from '../deps.ts';
import { containerOf } from '../lifecycle/container.ts';
import { resizeTerminal } from '../monitor/monitor.ts';
import { type ContainerRecord, containerState } from '../state/records.ts';
import { type AttachFrame, createFrameReader } from './attach-frames.ts';
import type { ProcessStreams, WantedStreams } from './process-streams.ts';

/** ATTACH_* of src/monitor/monitor.h. */
const wants = { stdin: 1, stdout: 2, stderr: 4, endsStdin: 8 } as const;
/** CONTROL_ATTACH of src/monitor/supervise.c. */
const attachOperation = 16;
const replyBytes = 8;
const replyTimeoutMs = 5_000;
/** Timeout from the end of the output until the exit is in the container's status. */
const exitTimeoutMs = 30_000;

/**
 * Attaches to a running container.
 *
 * @returns when the monitor has started to copy the output. `exited` resolves when the container exits, and rejects with RESOURCE_EXHAUSTED if the
 *   caller read too slowly and output was dropped: without a terminal, output must not have gaps. `abandon` does not affect the container.
 * @throws {BerthError} FAILED_PRECONDITION if the container is not running; RESOURCE_EXHAUSTED if too many clients are attached.
 */
export async function attachContainer(deps: EngineDeps, id: string, wanted: WantedStreams): Promise<ProcessStreams> {
  const { record, status } = containerOf(deps, id);
  const { name } = record.spec.metadata;
  if (containerState(status) !== 'running') throw failedPrecondition(`attach to container ${name}: the container is ${containerState(status)}`);
  const flags = flagsOf(record, wanted);
  try {
    const directory = deps.store.containers.directory(id);
    // One at a time: a monitor holds few connections that have not yet sent their request.
    const socket = await deps.queue.run(`attach ${id}`, () => openAttach(directory, flags));
    return streamsOf(deps, record, socket, flags);
  } catch (error) {
    throw failedTo(`attach to container ${name}`, error);
  }
}

/** Stdin is ignored for a container without one. With a terminal there is no stderr. */
function flagsOf({ spec }: ContainerRecord, wanted: WantedStreams): number {
  const stdin = wanted.stdin && spec.hasStdin ? wants.stdin | (spec.closesStdinAfterFirstAttach ? wants.endsStdin : 0) : 0;
  const flags = stdin | (wanted.stdout ? wants.stdout : 0) | (wanted.stderr && !spec.hasTerminal ? wants.stderr : 0);
  // At least one stream, so that the client is notified of the end.
  return flags || wants.stderr;
}

/** Connects, and waits for the monitor's reply. The socket is paused; bytes received after the reply are put back into it. */
function openAttach(directory: string, flags: number): Promise<Socket> {
  const dir = openat(AT_FDCWD, directory, O_PATH | O_DIRECTORY);
  // Through the fd, because the address of a socket is limited to 108 bytes: unix(7).
  const socket = connect({ path: `/proc/self/fd/${dir}/control`, allowHalfOpen: true });
  const frame = Buffer.alloc(16);
  frame.writeUInt32LE(attachOperation, 0);
  frame.writeUInt32LE(flags, 4);
  socket.write(frame);
  return receiveReply(socket).finally(() => closeSync(dir));
}

function receiveReply(socket: Socket): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let reply: Buffer = Buffer.alloc(0);
    const fail = (error: Error) => {
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(
      () => fail(new BerthError('DEADLINE_EXCEEDED', `no reply from the monitor within ${replyTimeoutMs} ms`)),
      replyTimeoutMs,
    );
    socket.once('error', (error) => fail(failedPrecondition(`connect to the container's monitor: ${error.message}`, error)));
    socket.once('close', () => {
      clearTimeout(timer);
      fail(failedPrecondition('the monitor of the container exited'));
    });
    socket.on('data', function take(bytes: Buffer) {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < replyBytes) return;
      const errno = reply.readInt32LE(4);
      if (errno !== 0) return fail(refusal(errno));
      clearTimeout(timer);
      socket.off('data', take).pause();
      if (reply.length > replyBytes) socket.unshift(reply.subarray(replyBytes));
      resolve(socket);
    });
  });
}

function refusal(errno: number): BerthError {
  const cause = new SyscallError('request to its monitor', errno);
  return new BerthError(cause.code === 'EBUSY' ? 'RESOURCE_EXHAUSTED' : 'INTERNAL', cause.message, cause);
}

function streamsOf(deps: EngineDeps, record: ContainerRecord, socket: Socket, flags: number): ProcessStreams {
  const has = (flag: number) => (flags & flag) !== 0;
  const outputs: Outputs = {
    stdout: has(wants.stdout) ? outputOf(() => resumeUnlessFull(outputs.stderr)) : undefined,
    stderr: has(wants.stderr) ? outputOf(() => resumeUnlessFull(outputs.stdout)) : undefined,
  };
  // One socket carries both streams, so it is paused while either is full.
  const resumeUnlessFull = (other: Readable | undefined): void => {
    if (other === undefined || other.destroyed || other.readableLength < other.readableHighWaterMark) socket.resume();
  };
  const ended = receive(deps, record, socket, outputs);
  const exited = ended.then(() => exitOf(deps, record.id));
  exited.catch(() => {});
  const directory = deps.store.containers.directory(record.id);
  return {
    ...(has(wants.stdin) ? { stdin: inputOf(socket) } : {}),
    ...(outputs.stdout ? { stdout: outputs.stdout } : {}),
    ...(outputs.stderr ? { stderr: outputs.stderr } : {}),
    resize: (columns, rows) => {
      if (!record.spec.hasTerminal) return;
      resizeTerminal(directory, { rows, columns }).catch((error: unknown) =>
        deps.log.debug({ id: record.id, reason: reasonOf(error) }, 'failed to resize the terminal'),
      );
    },
    exited,
    abandon: () => socket.destroy(),
  };
}

/** Destroying one output does not block the other. */
function outputOf(resume: () => void): Readable {
  return new Readable({
    read: resume,
    destroy: (error, done) => {
      resume();
      done(error);
    },
  });
}

type Outputs = { readonly stdout: Readable | undefined; readonly stderr: Readable | undefined };

/**
 * Distributes the frames to the outputs until the monitor closes the connection.
 *
 * @throws {BerthError} RESOURCE_EXHAUSTED if output was dropped and there is no terminal.
 */
function receive(deps: EngineDeps, record: ContainerRecord, socket: Socket, outputs: Outputs): Promise<void> {
  const read = createFrameReader();
  let failure: unknown;
  let isComplete = record.spec.hasTerminal;
  const take = (frame: AttachFrame): void => {
    if (frame.kind === 'end') {
      isComplete = true;
      return;
    }
    if (frame.kind !== 'lost') {
      const output = outputs[frame.kind];
      if (output?.push(frame.bytes) === false && !output.destroyed) socket.pause();
      return;
    }
    deps.log.warn({ id: record.id, bytes: frame.count }, 'attached client is too slow: output dropped');
    if (!record.spec.hasTerminal) throw tooSlow(record);
  };
  return new Promise((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of read(chunk)) take(frame);
      } catch (error) {
        failure = error;
        socket.destroy();
      }
    });
    // ECONNRESET: the monitor was killed, or exited with unread input.
    socket.on('error', () => {});
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      for (const output of [outputs.stdout, outputs.stderr]) output?.push(null);
      failure ??= isComplete ? undefined : tooSlow(record);
      if (failure === undefined) resolve();
      else reject(failure);
    });
    socket.resume();
  });
}

function tooSlow(record: ContainerRecord): BerthError {
  const { name } = record.spec.metadata;
  return new BerthError(
    'RESOURCE_EXHAUSTED',
    `attach to container ${name}: the client read too slowly and output was dropped; the container's log is complete`,
  );
}

/** Accepts input as fast as the container reads it. */
function inputOf(socket: Socket): Writable {
  return new Writable({
    highWaterMark: 65536,
    write: (chunk: Buffer, _, done) => {
      if (socket.destroyed) done();
      else socket.write(chunk, () => done());
    },
    final: (done) => {
      if (socket.destroyed) done();
      else socket.end(() => done());
    },
  });
}

async function exitOf(deps: EngineDeps, id: string): Promise<{ exitCode: number }> {
  const watch = deps.watches.of(id);
  if (watch !== undefined) await endsWithin(exitTimeoutMs, watch.exited);
  return { exitCode: deps.store.containers.get(id)?.status.exitCode ?? 0 };
}
