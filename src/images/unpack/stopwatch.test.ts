import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startStopwatch, sumTimes } from './stopwatch.ts';

test('startStopwatch() assigns all time to exactly one stage', () => {
  let nowMs = 100;
  const watch = startStopwatch(() => nowMs);
  const spend = (ms: number): void => {
    nowMs += ms;
  };
  spend(1);
  watch.enter('digest');
  spend(2);
  watch.enter('decompress');
  spend(4);
  watch.enter('files');
  spend(8);
  watch.enter('decompress');
  spend(16);
  assert.deepEqual(watch.times(), { wait: 1, digest: 2, decompress: 20, diffId: 0, files: 8 });
});

test('sumTimes() adds the times of layers in milliseconds', () => {
  const times = { wait: 0.4, digest: 1.4, decompress: 2, diffId: 3, files: 4 };
  assert.deepEqual(sumTimes([times, times]), { wait: 1, digest: 3, decompress: 4, diffId: 6, files: 8 });
});
