import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openProgressDisplay } from './progress-display.ts';

test('a terminal display redraws lines in place, cuts them to its width, and clears them at the end', () => {
  const written: string[] = [];
  const display = openProgressDisplay({ isTTY: true, columns: 21, rows: 10, write: (text) => written.push(text) });
  display.show(['one', 'x'.repeat(50)]);
  display.show(['two']);
  display.end();
  display.end();
  assert.deepEqual(written, [`one\n${'x'.repeat(20)}\n`, '\x1b[2A\x1b[Jtwo\n', '\x1b[1A\x1b[J', '']);
  assert.equal(display.rowsMax(), 8);
});

test('without a terminal, the summary is printed every ten seconds, and nothing for short work', () => {
  const written: string[] = [];
  let now = 0;
  const display = openProgressDisplay({ write: (text) => written.push(text) }, () => now);
  for (now = 0; now <= 25_000; now += 1000) display.show([`at ${now}`, 'more']);
  display.end();
  assert.deepEqual(written, ['at 10000\n', 'at 20000\n']);
});
