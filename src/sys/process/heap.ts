/**
 * Memory given back earlier than V8 and the C library would: for moments when much has passed through and nothing of it is needed.
 *
 * Never needed for correctness.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { libc } from '../call/ffi.ts';

const c_malloc_trim = libc.func('int malloc_trim(size_t pad)');

/** Frees the buffers that have become garbage since the last call. */
export type BufferSweeper = (passedBytes: number) => void;

/**
 * V8 counts buffers by their few bytes of heap, and lets 64 MiB of them gather; this collects the young ones, in a fraction of a
 * millisecond, whenever `everyBytes` have passed through.
 */
export function createBufferSweeper(everyBytes: number): BufferSweeper {
  // Half a millisecond: made when there is something to collect.
  let collect: Collector | undefined;
  let passed = 0;
  return (passedBytes) => {
    passed += passedBytes;
    if (passed < everyBytes) return;
    passed = 0;
    collect ??= exposeCollector();
    collect({ type: 'minor' });
  };
}

/**
 * Frees the memory of a buffer that nobody will read again: it is empty afterwards. One that shares its memory with others is left as it is.
 *
 * V8 counts such memory in the size of its heap, and marks all of it whenever that has grown by a few megabytes.
 */
export function freeBuffer(buffer: Buffer<ArrayBuffer>): void {
  if (buffer.length === buffer.buffer.byteLength) buffer.buffer.transfer(0);
}

/**
 * Collects all garbage and gives it back once nothing has been going on for a while; to be told of what goes on.
 * Some tens of milliseconds, in a moment when nobody waits for them.
 */
export function createIdleCollector(idleMs: number): () => void {
  const collect = exposeCollector();
  const timer = setTimeout(() => {
    collect({ type: 'major' });
    trimHeap();
  }, idleMs);
  timer.unref();
  return () => timer.refresh();
}

type Collector = (options: { readonly type: 'minor' | 'major' }) => void;

function exposeCollector(): Collector {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as Collector;
}

/** Gives memory that is free back to the kernel: malloc_trim(3). Some milliseconds. */
export function trimHeap(): void {
  c_malloc_trim(0);
}
