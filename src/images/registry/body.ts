/**
 * Reads response bodies: complete ones up to a limit, long ones as chunks, both with a timeout for each wait.
 *
 * Does no I/O itself, and knows nothing about registries or digests.
 */
import type { IncomingMessage } from 'node:http';
import { HostFailure } from './registry-error.ts';

/**
 * Yields the chunks of a body as they arrive. The timeout applies only while waiting for the sender, not while the reader is busy.
 *
 * @throws {Error} of the connection; HostFailure `unreachable` after `stallTimeoutMs` without a byte.
 */
export async function* chunksOf(message: IncomingMessage, stallTimeoutMs: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  let isWaiting = false;
  const onStall = () => {
    if (isWaiting) message.destroy(new HostFailure('unreachable', `no data received for ${stallTimeoutMs / 1000} s`));
  };
  const timer = setTimeout(onStall, stallTimeoutMs);
  const abort = () => message.destroy(new HostFailure('wrong', 'the pull has ended'));
  signal.addEventListener('abort', abort);
  const iterator = message[Symbol.asyncIterator]();
  try {
    if (signal.aborted) abort();
    for (;;) {
      isWaiting = true;
      timer.refresh();
      const next = await iterator.next();
      isWaiting = false;
      if (next.done === true) return;
      yield next.value as Buffer;
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
    message.on('error', () => undefined);
    // After the end of the body this does nothing, and the connection is kept.
    await iterator.return?.();
  }
}

/**
 * Reads a complete body.
 *
 * @throws {Error} as chunksOf(); HostFailure `wrong` for more than `bytesMax`.
 */
export async function readBody(message: IncomingMessage, bytesMax: number, stallTimeoutMs: number, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let lengthBytes = 0;
  for await (const chunk of chunksOf(message, stallTimeoutMs, signal)) {
    lengthBytes += chunk.length;
    if (lengthBytes > bytesMax) throw new HostFailure('wrong', `response exceeds ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, lengthBytes);
}

/** Reads the body of an error response; returns an empty buffer when it is too long or incomplete. */
export async function readExplanation(message: IncomingMessage, stallTimeoutMs: number, signal: AbortSignal): Promise<Buffer> {
  return await readBody(message, explanationBytesMax, Math.min(stallTimeoutMs, explanationWaitMs), signal).catch(() => Buffer.alloc(0));
}

const explanationBytesMax = 16 << 10;
const explanationWaitMs = 5000;
