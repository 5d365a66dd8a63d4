/**
 * What came in on one stream and nobody has taken yet: in order, with an account of what it holds, so that the reader of the connection can stop in time.
 *
 * Pure: copies nothing and waits for nobody; the bound is kept by who pushes.
 */

/** What a chunk costs beside its bytes: a flood of chunks of one byte is to count as what it takes. */
const chunkCostBytes = 128;

export class Inbound {
  readonly #onTaken: (bytes: number) => void;
  #chunks: Buffer[] = [];
  /** The chunk that the taker works on. */
  #current: Buffer | undefined;
  #waiting: ((chunk: Buffer | null) => void) | undefined;
  #isEnded = false;
  #isDiscarding = false;
  #heldBytes = 0;

  /** @param onTaken told of the bytes of each chunk that the taker is done with. */
  constructor(onTaken: (bytes: number) => void) {
    this.#onTaken = onTaken;
  }

  /** Memory that waits to be taken or is being worked on, overhead included. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Nobody wants the rest. */
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

  /** No more will come; what is there can still be taken. */
  end(): void {
    this.#isEnded = true;
    if (this.#waiting !== undefined) this.#give(null);
  }

  /** Nobody wants the rest: what is there and what comes counts as taken at once. */
  discard(): void {
    this.#isDiscarding = true;
    for (const chunk of this.#chunks.splice(0)) this.#done(chunk);
    this.#finishCurrent();
    if (this.#waiting !== undefined) this.#give(null);
  }

  /** The next chunk; null at the end. To be called when the one before has been dealt with, by one taker. */
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
