/**
 * One blob as one stream, over as many connections as it takes: after a break it asks for the rest.
 *
 * Counts bytes; never hashes them. Which host answers is the business of `open`.
 */
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { chunksOf } from './body.ts';
import { failureOfError, HostFailure, retryDelayMs } from './registry-error.ts';

/** `host` for messages. */
export type BlobResponse = { readonly message: IncomingMessage; readonly host: string };

/** A connection that broke, and is followed by another in `delayMs`. */
export type Break = { readonly host: string; readonly failure: HostFailure; readonly position: number; readonly delayMs: number };

export type BlobDeps = {
  /** A response with the bytes from `offset` on (status 206), or with all of them (200). Has its own retries. */
  readonly open: (offset: number) => Promise<BlobResponse>;
  readonly timing: { readonly stallTimeoutMs: number; readonly backoffMs: number; readonly backoffMsMax: number };
  readonly signal: AbortSignal;
  /** For messages. */
  readonly subject: string;
  /** Throws when the caller has given up. */
  readonly throwIfOver: () => void;
  readonly onBreak: (broken: Break) => void;
};

/** Breaks one after the other without a byte between them. */
const barrenBreaksMax = 5;
/** Breaks of one blob in all: a sender of one byte a connection must come to an end. */
const breaksMax = 100;
/** One chunk waits for the reader, no more: several would be copied into one. The connection has buffers of its own. */
const bufferBytes = 1;

/**
 * Opens a blob at `offset`; what fails before the first byte fails here. The stream ends after exactly the blob's last byte, or fails
 * with a BerthError.
 *
 * @throws {BerthError} FAILED_PRECONDITION for an offset beyond the blob; else as `open`.
 */
export async function streamBlob(
  deps: BlobDeps,
  blob: { readonly sizeBytes: number },
  offset: number,
): Promise<{ stream: Readable; offset: number }> {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > blob.sizeBytes) {
    throw failedPrecondition(`${deps.subject}: no offset ${offset} in ${blob.sizeBytes} bytes`);
  }
  // Ranges cannot name nothing, and every host has it.
  if (offset === blob.sizeBytes) return { stream: Readable.from([], { objectMode: false }), offset };
  const first = await deps.open(offset);
  // A reader that goes away must not wait for the sender's next byte.
  const left = new AbortController();
  const signal = AbortSignal.any([deps.signal, left.signal]);
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
      left.abort();
      // Before the first read nothing else holds it.
      first.message.destroy();
      done(error);
    },
  });
  return { stream, offset };
}

async function* bytesOf(deps: BlobDeps, sizeBytes: number, offset: number, first: BlobResponse): AsyncGenerator<Buffer, undefined> {
  let position = offset;
  let barrenBreaks = 0;
  let { message, host } = first;
  for (let breaks = 0; ; breaks += 1) {
    const from = position;
    try {
      for await (const chunk of rest(deps, message, position)) {
        position += chunk.length;
        if (position > sizeBytes) throw new HostFailure('wrong', `sends more than the ${sizeBytes} bytes of the blob`);
        yield chunk;
      }
      if (position === sizeBytes) return;
      throw new HostFailure('unreachable', `ended after ${position} of ${sizeBytes} bytes`);
    } catch (error) {
      deps.throwIfOver();
      barrenBreaks = position > from ? 0 : barrenBreaks + 1;
      const failure = failureOfError(error);
      const delayMs = retryDelayMs(failure, barrenBreaks, deps.timing, Math.random());
      if (delayMs === undefined) throw new BerthError('FAILED_PRECONDITION', `pulling ${deps.subject} from ${host}: ${failure.message}`, error);
      if (barrenBreaks >= barrenBreaksMax || breaks >= breaksMax)
        throw new BerthError(
          'UNAVAILABLE',
          `RegistryUnavailable: pulling ${deps.subject} from ${host}: ${failure.message}, after ${breaks} breaks`,
          error,
        );
      deps.onBreak({ host, failure, position, delayMs });
      await sleep(delayMs, undefined, { signal: deps.signal }).catch(() => deps.throwIfOver());
    }
    ({ message, host } = await deps.open(position));
    if (!deps.signal.aborted) continue;
    message.destroy();
    deps.throwIfOver();
    return;
  }
}

/** The bytes of a response from `position` of the blob on. A host without ranges begins at 0 again. */
async function* rest(deps: BlobDeps, message: IncomingMessage, position: number): AsyncGenerator<Buffer> {
  let unwanted = message.statusCode === 206 ? 0 : position;
  for await (const chunk of chunksOf(message, deps.timing.stallTimeoutMs, deps.signal)) {
    const skipped = Math.min(unwanted, chunk.length);
    unwanted -= skipped;
    if (skipped < chunk.length) yield chunk.subarray(skipped);
  }
}
