/**
 * Attaches to a container's own process: its output from now on, its input, through the container's monitor.
 *
 * Nothing here touches the container's log, and nothing that is not read here stops the container: src/monitor/attach.c.
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
/** From the end of the output to the container's exit in its status. */
const exitTimeoutMs = 30_000;

/**
 * @returns when the container's monitor copies the output. `exited` follows the container, and rejects with RESOURCE_EXHAUSTED when the caller read so
 *   slowly that output was left out: what is not a terminal must not have gaps. `abandon` leaves the container alone.
 * @throws {BerthError} FAILED_PRECONDITION when it does not run; RESOURCE_EXHAUSTED when too many are attached.
 */
export async function attachContainer(deps: EngineDeps, id: string, wanted: WantedStreams): Promise<ProcessStreams> {
  const { record, status } = containerOf(deps, id);
  const { name } = record.spec.metadata;
  if (containerState(status) !== 'running') throw failedPrecondition(`attaching to container ${name}: it is ${containerState(status)}`);
  const flags = flagsOf(record, wanted);
  try {
    const directory = deps.store.containers.directory(id);
    // One after another: a monitor has few places for those who have not yet said what they want.
    const socket = await deps.queue.run(`attach ${id}`, () => openAttach(directory, flags));
    return streamsOf(deps, record, socket, flags);
  } catch (error) {
    throw failedTo(`attaching to container ${name}`, error);
  }
}

/** A container without input has none to attach to. Its terminal is its stdout. */
function flagsOf({ spec }: ContainerRecord, wanted: WantedStreams): number {
  const stdin = wanted.stdin && spec.hasStdin ? wants.stdin | (spec.closesStdinAfterFirstAttach ? wants.endsStdin : 0) : 0;
  const flags = stdin | (wanted.stdout ? wants.stdout : 0) | (wanted.stderr && !spec.hasTerminal ? wants.stderr : 0);
  // Who wants nothing that is there waits for the end.
  return flags || wants.stderr;
}

/** Connects and waits for the monitor's consent. The socket is paused; what came behind the answer is in front of it again. */
function openAttach(directory: string, flags: number): Promise<Socket> {
  const dir = openat(AT_FDCWD, directory, O_PATH | O_DIRECTORY);
  // Through the fd: a socket's address holds 108 bytes, unix(7).
  const socket = connect({ path: `/proc/self/fd/${dir}/control`, allowHalfOpen: true });
  const frame = Buffer.alloc(16);
  frame.writeUInt32LE(attachOperation, 0);
  frame.writeUInt32LE(flags, 4);
  socket.write(frame);
  return answered(socket).finally(() => closeSync(dir));
}

function answered(socket: Socket): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let reply: Buffer = Buffer.alloc(0);
    const give = (error: Error) => {
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(() => give(new BerthError('DEADLINE_EXCEEDED', `no answer of the monitor within ${replyTimeoutMs} ms`)), replyTimeoutMs);
    socket.once('error', (error) => give(failedPrecondition(`the container's monitor does not listen: ${error.message}`, error)));
    socket.once('close', () => {
      clearTimeout(timer);
      give(failedPrecondition("the container's monitor ended"));
    });
    socket.on('data', function take(bytes: Buffer) {
      reply = Buffer.concat([reply, bytes]);
      if (reply.length < replyBytes) return;
      const errno = reply.readInt32LE(4);
      if (errno !== 0) return give(refusal(errno));
      clearTimeout(timer);
      socket.off('data', take).pause();
      if (reply.length > replyBytes) socket.unshift(reply.subarray(replyBytes));
      resolve(socket);
    });
  });
}

function refusal(errno: number): BerthError {
  const cause = new SyscallError('asking its monitor', errno);
  return new BerthError(cause.code === 'EBUSY' ? 'RESOURCE_EXHAUSTED' : 'INTERNAL', cause.message, cause);
}

function streamsOf(deps: EngineDeps, record: ContainerRecord, socket: Socket, flags: number): ProcessStreams {
  const has = (flag: number) => (flags & flag) !== 0;
  const outputs: Outputs = {
    stdout: has(wants.stdout) ? outputOf(() => resumeUnlessFull(outputs.stderr)) : undefined,
    stderr: has(wants.stderr) ? outputOf(() => resumeUnlessFull(outputs.stdout)) : undefined,
  };
  // One socket carries both: it waits for the slower one.
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
        deps.log.debug({ id: record.id, reason: reasonOf(error) }, 'resizing failed'),
      );
    },
    exited,
    abandon: () => socket.destroy(),
  };
}

/** Who lets go of one output still gets the other. */
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

/** Deals out what comes until the monitor ends it. @throws {BerthError} RESOURCE_EXHAUSTED when output was left out and there is no terminal. */
function receive(deps: EngineDeps, record: ContainerRecord, socket: Socket, outputs: Outputs): Promise<void> {
  const read = createFrameReader();
  let failure: unknown;
  let isWhole = record.spec.hasTerminal;
  const take = (frame: AttachFrame): void => {
    if (frame.kind === 'end') {
      isWhole = true;
      return;
    }
    if (frame.kind !== 'lost') {
      const output = outputs[frame.kind];
      if (output?.push(frame.bytes) === false && !output.destroyed) socket.pause();
      return;
    }
    deps.log.warn({ id: record.id, bytes: frame.count }, 'an attached client is too slow: output was left out for it');
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
    // A reset: the monitor was killed, or ended with input unread.
    socket.on('error', () => {});
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      for (const output of [outputs.stdout, outputs.stderr]) output?.push(null);
      failure ??= isWhole ? undefined : tooSlow(record);
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
    `attached to container ${name}: its output was read too slowly, and part of it is missing; its log has all`,
  );
}

/** Written as fast as the container reads. */
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
