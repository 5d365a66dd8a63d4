/**
 * Reads bodies of responses: whole ones up to a limit, long ones as chunks, both with a deadline on silence.
 *
 * Knows nothing of registries or digests.
 */
import type { IncomingMessage } from 'node:http';
import { HostFailure } from './registry-error.ts';

/**
 * The chunks of a body as they arrive. Only waiting for the sender counts as silence, not a reader that takes its time.
 *
 * @throws {Error} of the connection; HostFailure `unreachable` after `stallTimeoutMs` without a byte.
 */
export async function* chunksOf(message: IncomingMessage, stallTimeoutMs: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  let isWaiting = false;
  const silent = () => {
    if (isWaiting) message.destroy(new HostFailure('unreachable', `sent no byte for ${stallTimeoutMs / 1000} s`));
  };
  const timer = setTimeout(silent, stallTimeoutMs);
  const abort = () => message.destroy(new HostFailure('wrong', 'the pull is over'));
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
    // Read to its end it is already gone, and its connection kept.
    await iterator.return?.();
  }
}

/**
 * A whole body.
 *
 * @throws {Error} as chunksOf(); HostFailure `wrong` for more than `bytesMax`.
 */
export async function readBody(message: IncomingMessage, bytesMax: number, stallTimeoutMs: number, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let lengthBytes = 0;
  for await (const chunk of chunksOf(message, stallTimeoutMs, signal)) {
    lengthBytes += chunk.length;
    if (lengthBytes > bytesMax) throw new HostFailure('wrong', `sends more than ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, lengthBytes);
}

/** As much of a body as may hold an explanation; empty when it breaks off. */
export async function readExplanation(message: IncomingMessage, stallTimeoutMs: number, signal: AbortSignal): Promise<Buffer> {
  return await readBody(message, explanationBytesMax, Math.min(stallTimeoutMs, explanationWaitMs), signal).catch(() => Buffer.alloc(0));
}

const explanationBytesMax = 16 << 10;
const explanationWaitMs = 5000;
