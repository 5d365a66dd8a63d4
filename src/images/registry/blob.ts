/**
 * Streams a blob over one or more connections: after a broken connection it requests the rest.
 *
 * Counts bytes but does not hash them. `open` selects the host.
 */
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { chunksOf } from './body.ts';
import { failureOfError, HostFailure, retryDelayMs } from './registry-error.ts';

export type BlobResponse = {
  readonly message: IncomingMessage;
  /** For messages. */
  readonly host: string;
  /** Prefers other hosts from now on. @returns false when there is no other. */
  readonly leave: () => boolean;
};

/** A broken connection. The next one is opened after `delayMs`. */
export type Break = { readonly host: string; readonly failure: HostFailure; readonly position: number; readonly delayMs: number };

export type BlobDeps = {
  /** Returns a response with the bytes from `offset` on (status 206), or with all bytes (200). Has its own retries. */
  readonly open: (offset: number) => Promise<BlobResponse>;
  readonly timing: { readonly stallTimeoutMs: number; readonly backoffMs: number; readonly backoffMsMax: number };
  readonly signal: AbortSignal;
  /** For messages. */
  readonly subject: string;
  /** Throws when the caller has canceled. */
  readonly throwIfAborted: () => void;
  readonly onBreak: (broken: Break) => void;
};

/** Limit of consecutive broken connections without a received byte. */
const emptyBreaksMax = 5;
/** Limit of broken connections for a blob: stops a sender of one byte per connection. */
const breaksMax = 100;
/** Buffers one chunk only: several would be copied into one. The connection has its own buffers. */
const bufferBytes = 1;

/**
 * Opens a blob at `offset`. A failure before the first byte rejects. The stream ends exactly after the last byte of the blob, or fails with a
 * BerthError.
 *
 * @throws {BerthError} FAILED_PRECONDITION for an offset beyond the blob; else as `open`.
 */
export async function streamBlob(
  deps: BlobDeps,
  blob: { readonly sizeBytes: number },
  offset: number,
): Promise<{ stream: Readable; offset: number }> {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > blob.sizeBytes) {
    throw failedPrecondition(`${deps.subject}: offset ${offset} is beyond the size of ${blob.sizeBytes} bytes`);
  }
  // No request: a range cannot be empty.
  if (offset === blob.sizeBytes) return { stream: Readable.from([], { objectMode: false }), offset };
  const first = await deps.open(offset);
  // Destroying the stream must not wait for the sender's next byte.
  const destroyed = new AbortController();
  const signal = AbortSignal.any([deps.signal, destroyed.signal]);
  const bytes = bytesOf({ ...deps, signal }, blob.sizeBytes, offset, first);
  const stream = new Readable({
    highWaterMark: bufferBytes,
    read: () => {
      bytes.next().then(
        ({ done, value }) => stream.push(done === true ? null : value),
        (error: unknown) => stream.destroy(error instanceof Error ? error : new Error(String(error))),
      );
    },
    destroy: (error, done) => {
      destroyed.abort();
      // Before the first read, only this destroys it.
      first.message.destroy();
      done(error);
    },
  });
  return { stream, offset };
}

async function* bytesOf(deps: BlobDeps, sizeBytes: number, offset: number, first: BlobResponse): AsyncGenerator<Buffer, undefined> {
  let position = offset;
  let emptyBreaks = 0;
  let { message, host, leave } = first;
  for (let breaks = 0; ; breaks += 1) {
    const from = position;
    try {
      for await (const chunk of rest(deps, message, position)) {
        if (position + chunk.length > sizeBytes) throw new HostFailure('wrong', `response exceeds the ${sizeBytes} bytes of the blob`);
        position += chunk.length;
        yield chunk;
      }
      if (position === sizeBytes) return;
      throw new HostFailure('unreachable', `response ended after ${position} of ${sizeBytes} bytes`);
    } catch (error) {
      deps.throwIfAborted();
      emptyBreaks = position > from ? 0 : emptyBreaks + 1;
      const failure = failureOfError(error);
      // A host that keeps sending nothing, or something else, is left; one whose connection broke can send the rest.
      const hasLeft = (emptyBreaks > 0 || failure.kind === 'wrong') && leave();
      const delayMs = hasLeft ? 0 : retryDelayMs(failure, emptyBreaks, deps.timing, Math.random());
      if (hasLeft) emptyBreaks = 0;
      if (delayMs === undefined) throw new BerthError('FAILED_PRECONDITION', `pull ${deps.subject} from ${host}: ${failure.message}`, error);
      if (emptyBreaks >= emptyBreaksMax || breaks >= breaksMax)
        throw new BerthError(
          'UNAVAILABLE',
          `RegistryUnavailable: pull ${deps.subject} from ${host}: ${failure.message} (after ${breaks} retries)`,
          error,
        );
      deps.onBreak({ host, failure, position, delayMs });
      await sleep(delayMs, undefined, { signal: deps.signal }).catch(() => deps.throwIfAborted());
    }
    ({ message, host, leave } = await deps.open(position));
    if (!deps.signal.aborted) continue;
    message.destroy();
    deps.throwIfAborted();
    return;
  }
}

/** Yields the bytes of a response from `position` of the blob on. A host without range support starts again at 0. */
async function* rest(deps: BlobDeps, message: IncomingMessage, position: number): AsyncGenerator<Buffer> {
  let bytesToSkip = message.statusCode === 206 ? 0 : position;
  for await (const chunk of chunksOf(message, deps.timing.stallTimeoutMs, deps.signal)) {
    const skipped = Math.min(bytesToSkip, chunk.length);
    bytesToSkip -= skipped;
    if (skipped < chunk.length) yield chunk.subarray(skipped);
  }
}
