/**
 * Runs the rounds of a fuzz test, each with its own seed, for a limited time.
 *
 * BERTH_FUZZ_SECONDS sets the duration, BERTH_FUZZ_SEED the first seed. A failure prints the seed of its round.
 */
import type { TestContext } from 'node:test';
import { createRandom } from '../../support/mutate.ts';

const secondsDefault = 5;

/** Runs rounds until the time is over. @returns the number of rounds. @throws the error of a failed round, prefixed with its seed. */
export async function rounds(test: TestContext, round: (random: () => number) => void | Promise<void>): Promise<number> {
  const first = Number(process.env['BERTH_FUZZ_SEED'] ?? 1);
  const untilMs = performance.now() + Number(process.env['BERTH_FUZZ_SECONDS'] ?? secondsDefault) * 1000;
  let seed = first;
  for (; performance.now() < untilMs; seed += 1) {
    try {
      await round(createRandom(seed));
    } catch (error) {
      throw new Error(`BERTH_FUZZ_SEED=${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
  test.diagnostic(`seeds ${first} to ${seed - 1}`);
  return seed - first;
}
