/**
 * Random changes of text for fuzz tests. The same seed produces the same changes, so that a failure can be reproduced.
 */

/** Returns a generator of numbers in [0, 1). Source: mulberry32, a public-domain generator. */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Returns a random element. */
export function pick<T>(random: () => number, values: readonly T[]): T {
  return values[Math.floor(random() * values.length)] as T;
}

/** Returns the text after one to five random deletions, repetitions, and insertions of `fragments`. */
export function mutated(random: () => number, text: string, fragments: readonly string[]): string {
  let result = text;
  for (let changes = 1 + Math.floor(random() * 5); changes > 0; changes -= 1) {
    const start = Math.floor(random() * (result.length + 1));
    const end = Math.min(result.length, start + Math.floor(random() * 12));
    const middle = pick(random, [
      '',
      '',
      pick(random, fragments),
      result.slice(start, end).repeat(2),
      String.fromCodePoint(Math.floor(random() * 0xd7ff)),
    ]);
    result = (result.slice(0, start) + middle + result.slice(end)).slice(0, 4000);
  }
  return result;
}
