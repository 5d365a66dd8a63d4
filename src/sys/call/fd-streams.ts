/**
 * Pipes and terminals as streams, with backpressure and without threads.
 *
 * The functions take ownership of the fds that they get: they close them, and no other code may poll them.
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

/** Small, because each chunk becomes garbage, and the garbage collector counts buffers rather than bytes. */
const chunkBytes = 16384;
/** Reads per wake-up, so that a busy stream does not starve others. */
const readsMax = 32;
/** The most that a pipe or terminal can hold when its writer has ended. Anything beyond is from another process, and is not waited for. */
const leftBytesMax = 1024 * 1024;

export type FdReader = {
  readonly stream: Readable;
  /**
   * Call it when the process whose output matters has ended: the remaining data is read, then the stream ends, even if other processes hold the write end.
   * @param graceMs how long to wait for more data: 0 for a pipe, where written data is readable at once.
   */
  readonly finish: (graceMs: number) => void;
  /** Call it when the stream is no longer read: data is discarded until finish(), so that the writer does not get SIGPIPE. */
  readonly discard: () => void;
};

/** Duplicates an fd with close-on-exec (F_DUPFD_CLOEXEC), for a second stream on the same pipe or terminal. */
export function duplicate(fd: number): number {
  return checked(c_fcntl(fd, F_DUPFD_CLOEXEC, 0), () => `duplicate fd ${fd}`);
}

function makeNonBlocking(fd: number): void {
  const flags = checked(c_fcntl(fd, F_GETFL, 0), () => `read the flags of fd ${fd}`);
  checked(c_fcntl(fd, F_SETFL, flags | O_NONBLOCK), () => `make fd ${fd} non-blocking`);
}

export type Watch = {
  /** Waits for the next event. */
  readonly start: () => void;
  /** Stops watching. Call it before closing the fd. */
  readonly end: () => void;
};

/** Calls back once after each start() when `fd` is ready or disconnected. */
export function watchFd(fd: number, events: { readable?: boolean; writable?: boolean; disconnect?: boolean }, callback: () => void): Watch {
  let handle: ReturnType<typeof koffi.node.poll> | undefined;
  let isWaiting = false;
  const onReady = () => {
    if (!isWaiting) return;
    isWaiting = false;
    handle?.stop();
    // The poll callback does not drain microtasks in every Node version.
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

/** Reads from the read end of a pipe, or from a terminal, and takes ownership of the fd. The stream of a hung-up terminal ends. */
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
      if (bytes === 'would block') return grace?.ms === 0 ? complete() : wait();
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
    // Stops waiting for the fd, and reads again. If the stream's buffer is full, reading continues when there is room.
    watch.end();
    if (isWanted) setImmediate(pump);
  };
  return { stream, finish, discard };
}

const chunk = Buffer.allocUnsafe(chunkBytes);

function readSome(fd: number): Buffer | 'would block' | 'end' {
  try {
    const count = readSync(fd, chunk);
    return count === 0 ? 'end' : Buffer.from(chunk.subarray(0, count));
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return 'would block';
    if (isErrno(error, 'EIO')) return 'end';
    throw error;
  }
}

/** Writes to the write end of a pipe, or to a terminal, and takes ownership of the fd. Without a reader, written data is discarded. */
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
    const count = isClosed ? 'no reader' : writeSome(fd, bytes);
    if (count === 'no reader') end();
    if (count === 'no reader' || count === bytes.length) {
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

/** Returns the number of bytes written, or `no reader`. */
function writeSome(fd: number, bytes: Buffer): number | 'no reader' {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return 0;
    if (isErrno(error, 'EPIPE', 'EIO')) return 'no reader';
    throw error;
  }
}
