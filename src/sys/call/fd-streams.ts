/**
 * Pipes and terminals as streams: bytes move only as fast as both sides take them, without a thread.
 *
 * Each fd given to a function here is its own to close, and must be one that nobody else polls.
 */
import { readSync, writeSync } from 'node:fs';
import { Readable, Writable } from 'node:stream';
import koffi from 'koffi';
import { checked, isErrno, libc } from './ffi.ts';
import { close } from './syscalls.ts';

const c_fcntl = libc.func('int fcntl(int fd, int cmd, long arg)');
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const O_NONBLOCK = 0o4000;

/** Small, for each piece is garbage afterwards, and the collector counts pieces rather than bytes. */
const chunkBytes = 16384;
/** Reads at one wake-up, so that one busy stream leaves others their turn. */
const readsMax = 32;
/** What can be in a pipe or a terminal when its writer has ended; what comes beyond it is from somebody nobody waits for. */
const leftBytesMax = 1024 * 1024;

export type FdReader = {
  readonly stream: Readable;
  /**
   * The one whose output matters has ended: what is there is still read, then the stream ends, even if others hold the writing end.
   * @param graceMs how long to wait for more when there is nothing: 0 for a pipe, which has at once what was written to it.
   */
  readonly finish: (graceMs: number) => void;
  /** Nobody reads the stream any more: what comes is thrown away until finish(), so that its writer is not killed for it. */
  readonly discard: () => void;
};

/** dup(2), close-on-exec: for a second stream on the same pipe or terminal. */
export function duplicate(fd: number): number {
  return checked(c_fcntl(fd, F_DUPFD_CLOEXEC, 0), () => `duplicating fd ${fd}`);
}

function makeNonBlocking(fd: number): void {
  const flags = checked(c_fcntl(fd, F_GETFL, 0), () => `reading the flags of fd ${fd}`);
  checked(c_fcntl(fd, F_SETFL, flags | O_NONBLOCK), () => `making fd ${fd} non-blocking`);
}

export type Watch = {
  /** Waits for one more time. */
  readonly start: () => void;
  /** Before the fd is closed. */
  readonly end: () => void;
};

/** Calls back once after each start when `fd` is ready or broken. */
export function watchFd(fd: number, events: { readable?: boolean; writable?: boolean; disconnect?: boolean }, callback: () => void): Watch {
  let handle: ReturnType<typeof koffi.node.poll> | undefined;
  let isWaiting = false;
  const onReady = () => {
    if (!isWaiting) return;
    isWaiting = false;
    handle?.stop();
    // Its callback does not drain microtasks on every Node.
    setImmediate(callback);
  };
  return {
    start: () => {
      isWaiting = true;
      if (handle === undefined) handle = koffi.node.poll(fd, events, onReady);
      else handle.start(events, onReady);
    },
    end: () => {
      isWaiting = false;
      handle?.close();
      handle = undefined;
    },
  };
}

/** Takes over the reading end of a pipe, or a terminal. A hung-up terminal is at its end. */
export function readFd(fd: number): FdReader {
  makeNonBlocking(fd);
  let isClosed = false;
  /** Null until finish(). */
  let grace: { readonly ms: number; leftBytes: number } | null = null;
  let timer: NodeJS.Timeout | undefined;
  let isWanted = false;
  let isDiscarding = false;

  const end = () => {
    clearTimeout(timer);
    if (isClosed) return;
    isClosed = true;
    watch.end();
    close(fd);
  };
  const complete = () => {
    end();
    stream.push(null);
  };
  const wait = () => {
    watch.start();
    if (grace === null) return;
    clearTimeout(timer);
    timer = setTimeout(complete, grace.ms);
  };
  const pump = () => {
    clearTimeout(timer);
    for (let reads = 0; !isClosed && isWanted; reads++) {
      if (reads === readsMax) return void setImmediate(pump);
      const bytes = readSome(fd);
      if (bytes === 'none yet') return grace?.ms === 0 ? complete() : wait();
      if (bytes === 'end' || (grace !== null && grace.leftBytes <= 0)) return complete();
      if (grace !== null) grace.leftBytes -= bytes.length;
      isWanted = isDiscarding || stream.push(bytes);
    }
  };
  const watch = watchFd(fd, { readable: true, disconnect: true }, pump);
  const stream = new Readable({
    highWaterMark: 4 * chunkBytes,
    read: () => {
      if (isWanted) return;
      isWanted = true;
      setImmediate(pump);
    },
    destroy: (error, done) => {
      if (!isDiscarding) end();
      done(error);
    },
  });
  const discard = () => {
    if (isDiscarding) return;
    isDiscarding = true;
    isWanted = true;
    watch.end();
    setImmediate(pump);
  };
  const finish = (ms: number) => {
    if (isClosed || grace !== null) return;
    grace = { ms, leftBytes: leftBytesMax };
    // Who waits for more now looks again; who is full goes on when there is room.
    watch.end();
    if (isWanted) setImmediate(pump);
  };
  return { stream, finish, discard };
}

const chunk = Buffer.allocUnsafe(chunkBytes);

function readSome(fd: number): Buffer | 'none yet' | 'end' {
  try {
    const count = readSync(fd, chunk);
    return count === 0 ? 'end' : Buffer.from(chunk.subarray(0, count));
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return 'none yet';
    if (isErrno(error, 'EIO')) return 'end';
    throw error;
  }
}

/** Takes over the writing end of a pipe, or a terminal. When nobody reads it any more, what is written is thrown away. */
export function writeFd(fd: number): Writable {
  makeNonBlocking(fd);
  let isClosed = false;
  let resume = () => {};
  const watch = watchFd(fd, { writable: true, disconnect: true }, () => resume());
  const end = () => {
    if (isClosed) return;
    isClosed = true;
    watch.end();
    close(fd);
  };
  const write = (bytes: Buffer, done: () => void): void => {
    const count = isClosed ? 'gone' : writeSome(fd, bytes);
    if (count === 'gone') end();
    if (count === 'gone' || count === bytes.length) {
      done();
      return;
    }
    resume = () => write(bytes.subarray(count), done);
    watch.start();
  };
  return new Writable({
    highWaterMark: chunkBytes,
    write: (bytes: Buffer, _, done) => write(bytes, done),
    final: (done) => {
      end();
      done();
    },
    destroy: (error, done) => {
      end();
      done(error);
    },
  });
}

/** How many bytes were taken; `gone` when nobody will take any. */
function writeSome(fd: number, bytes: Buffer): number | 'gone' {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return 0;
    if (isErrno(error, 'EPIPE', 'EIO')) return 'gone';
    throw error;
  }
}
