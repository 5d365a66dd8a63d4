/**
 * Frees memory earlier than V8 and the C library would, after large amounts of data have passed through.
 *
 * Not needed for correctness.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { libc } from '../call/ffi.ts';

const c_malloc_trim = libc.func('int malloc_trim(size_t pad)');

/** Collects unused buffers after enough bytes have passed through. */
export type BufferSweeper = (passedBytes: number) => void;

/**
 * V8 counts a buffer only by its few bytes of heap, so up to 64 MiB of unused buffers accumulate. This collects the young ones, in a fraction of a
 * millisecond, whenever `everyBytes` have passed through.
 */
export function createBufferSweeper(everyBytes: number): BufferSweeper {
  // Created on demand, because it takes half a millisecond.
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
 * Frees the memory of a buffer that is no longer used: it is empty afterwards. A buffer that shares its memory with others is not changed.
 *
 * V8 includes such memory in the size of its heap, and marks the whole heap whenever it has grown by a few megabytes.
 */
export function freeBuffer(buffer: Buffer<ArrayBuffer>): void {
  if (buffer.length === buffer.buffer.byteLength) buffer.buffer.transfer(0);
}

/**
 * Collects all garbage and returns it to the kernel after a period without activity. Takes tens of milliseconds.
 *
 * @returns a function to call on each activity.
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

/** Returns free memory to the kernel: malloc_trim(3). Takes some milliseconds. */
export function trimHeap(): void {
  c_malloc_trim(0);
}
