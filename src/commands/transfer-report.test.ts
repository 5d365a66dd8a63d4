import assert from 'node:assert/strict';
import { test } from 'node:test';
import { archiveLine, bar, createRate, pullsTable, summaryLine, transferLines } from './transfer-report.ts';

const layer = (state: string, done: number, total: number, digest = `sha256:${'a'.repeat(64)}`) => ({
  digest,
  state,
  done_bytes: String(done),
  total_bytes: String(total),
});

const transfer = {
  image: 'docker.io/library/x:1',
  started_at_ms: '1000',
  state: 'fetching',
  layers: [layer('done', 1e6, 1e6), layer('waiting', 0, 2e6), layer('fetching', 1.5e6, 3e6, `sha256:${'b'.repeat(64)}`)],
  received_bytes: '2500000',
  host: 'mirror.example',
  retries: 1,
};

test('bar() fills up to its width, and not beyond', () => {
  assert.equal(bar(0, 10), `[${' '.repeat(30)}]`);
  assert.equal(bar(5, 10), `[${'='.repeat(14)}>${' '.repeat(15)}]`);
  assert.equal(bar(10, 10), `[${'='.repeat(30)}]`);
  assert.equal(bar(11, 10), `[${'='.repeat(30)}]`);
  assert.equal(bar(0, 0), `[${'='.repeat(30)}]`);
});

test('createRate() computes the rate of the last seconds', () => {
  const rate = createRate();
  assert.equal(rate.add(0, 0), 0);
  assert.equal(rate.add(1000, 500), 500);
  assert.equal(rate.add(2000, 500), 250);
  for (let seconds = 3; seconds <= 20; seconds += 1) rate.add(seconds * 1000, 500);
  assert.equal(rate.add(21_000, 500), 0);
});

test('transferLines() prints the summary, then active layers, as many as fit', () => {
  assert.deepEqual(transferLines(transfer, 3e6, 10), [
    'docker.io/library/x:1: fetching 2 of 3 layers, 2.5MB/6.0MB, 3.0MB/s, mirror.example, 1 retry',
    `  bbbbbbbbbbbb  [${'='.repeat(14)}>${' '.repeat(15)}]  1.5MB/3.0MB`,
    `  aaaaaaaaaaaa  waiting${' '.repeat(25)}  0.0MB/2.0MB`,
  ]);
  assert.equal(transferLines(transfer, 0, 2).length, 2);
});

test('summaryLine() describes a pull before the layers are known, and while it is published', () => {
  assert.equal(summaryLine({ image: 'archive', state: 'resolving', received_bytes: '1000000' }, 0), 'archive: resolving, 1.0MB, 0.0MB/s');
  assert.equal(
    summaryLine({ image: 'x', state: 'publishing', layers: [layer('done', 1e6, 1e6)], retries: 2 }, 5),
    'x: publishing 0 of 1 layer, 1.0MB/1.0MB, 2 retries',
  );
});

test('archiveLine() and pullsTable() print completed and total bytes', () => {
  assert.equal(archiveLine(1e6, 2e6, 1e6), `[${'='.repeat(14)}>${' '.repeat(15)}]  1.0MB/2.0MB, 1.0MB/s`);
  assert.deepEqual(pullsTable([transfer, { image: 'y', state: 'resolving', started_at_ms: '6000' }], 6000).split('\n'), [
    'IMAGE                  STATE      LAYERS  SIZE         RATE     HOST            RETRIES  AGE',
    'docker.io/library/x:1  fetching   1/3     2.5MB/6.0MB  0.5MB/s  mirror.example  1        5s',
    'y                      resolving  0/0     0.0MB/0.0MB  0.0MB/s  -               0        0s',
  ]);
});
