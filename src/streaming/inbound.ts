/**
 * The receive queue of one stream. It accounts for the memory it holds, so that the connection can stop reading in time.
 *
 * Pure. It copies nothing and never blocks; the caller of push() enforces the limit.
 */

/** Overhead of a chunk, so that a flood of 1-byte chunks counts as the memory it uses. */
const chunkCostBytes = 128;

export class Inbound {
  readonly #onTaken: (bytes: number) => void;
  #chunks: Buffer[] = [];
  /** The chunk that the consumer is processing. */
  #current: Buffer | undefined;
  #waiting: ((chunk: Buffer | null) => void) | undefined;
  #isEnded = false;
  #isDiscarding = false;
  #heldBytes = 0;

  /** @param onTaken called with the size of each chunk that the consumer has processed. */
  constructor(onTaken: (bytes: number) => void) {
    this.#onTaken = onTaken;
  }

  /** Bytes queued or being processed, including overhead. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  get isDiscarding(): boolean {
    return this.#isDiscarding;
  }

  push(chunk: Buffer): void {
    if (this.#isEnded || chunk.length === 0) return;
    this.#heldBytes += chunk.length + chunkCostBytes;
    if (this.#isDiscarding) this.#done(chunk);
    else if (this.#waiting === undefined) this.#chunks.push(chunk);
    else this.#give(chunk);
  }

  /** Marks the end of the stream. Queued chunks can still be read. */
  end(): void {
    this.#isEnded = true;
    if (this.#waiting !== undefined) this.#give(null);
  }

  /** Drops all queued and future chunks, which count as processed. */
  discard(): void {
    this.#isDiscarding = true;
    for (const chunk of this.#chunks.splice(0)) this.#done(chunk);
    this.#finishCurrent();
    if (this.#waiting !== undefined) this.#give(null);
  }

  /** Returns the next chunk, null at the end. There is one consumer; calling next() marks the previous chunk as processed. */
  next(): Promise<Buffer | null> {
    this.#finishCurrent();
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#current = chunk;
      return Promise.resolve(chunk);
    }
    if (this.#isEnded || this.#isDiscarding) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  #give(chunk: Buffer | null): void {
    const give = this.#waiting;
    this.#waiting = undefined;
    if (chunk !== null) this.#current = chunk;
    give?.(chunk);
  }

  #finishCurrent(): void {
    const chunk = this.#current;
    this.#current = undefined;
    if (chunk !== undefined) this.#done(chunk);
  }

  #done(chunk: Buffer): void {
    this.#heldBytes -= chunk.length + chunkCostBytes;
    this.#onTaken(chunk.length);
  }
}
