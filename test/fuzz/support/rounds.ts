/**
 * Rounds of a fuzz test: one seed each, for a bounded time.
 *
 * BERTH_FUZZ_SECONDS makes it longer for a run by hand, BERTH_FUZZ_SEED begins with that seed: a failure names its own.
 */
import type { TestContext } from 'node:test';
import { createRandom } from '../../support/mutate.ts';

const secondsDefault = 5;

/** @returns how many rounds there were. @throws the round's failure, the seed before its message. */
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
