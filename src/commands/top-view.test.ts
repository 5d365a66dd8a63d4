import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PodUse } from './top-rows.ts';
import { tableLines, titleLine } from './top-view.ts';

const use = { cpuMillis: 12.34, memoryBytes: 1536, restarts: 0, ageSeconds: 90 };
const pod: PodUse = {
  ...use,
  name: 'kube-system/dns',
  processes: 9,
  rxBytesPerSecond: 512,
  txBytesPerSecond: undefined,
  containers: [{ ...use, name: 'dns', cpuMillis: 0.04, memoryBytes: undefined, restarts: 4, ageSeconds: 7199 }],
};

test('tableLines() puts each pod above its containers, and marks the sort column', () => {
  assert.deepEqual(tableLines({ pods: [pod], sort: 'memory', width: 100 }), [
    'POD              CPU(cores)*MEMORY(bytes)  PIDS RX(B/s) TX(B/s) RESTARTS   AGE',
    'kube-system/dns         12m         1.5Ki     9     512       -        0   90s',
    '  dns                  0.0m             -                              4  119m',
  ]);
});

test('tableLines() fits into 80 columns', () => {
  assert.ok(tableLines({ pods: [pod], sort: 'age', width: 80 }).every((line) => line.length < 80));
  assert.match(tableLines({ pods: [pod], sort: 'age', width: 80 })[0] ?? '', /\*AGE$/);
});

test('tableLines() prints sizes and ages with few digits', () => {
  const cells = (memoryBytes: number, ageSeconds: number) =>
    tableLines({ pods: [{ ...pod, memoryBytes, ageSeconds, containers: [] }], sort: 'cpu', width: 100 })[1]
      ?.split(/\s+/)
      .filter((_, i) => i === 2 || i === 7);
  assert.deepEqual(cells(0, 119), ['0', '119s']);
  assert.deepEqual(cells(1023, 7200), ['1.0Ki', '2h']);
  assert.deepEqual(cells(220 * 2 ** 20, 172_800), ['220Mi', '2d']);
  assert.deepEqual(cells(5 * 2 ** 50, 0), ['5120Ti', '0s']);
});

test('tableLines() cuts names and lines to the width, and replaces control characters', () => {
  const long = { ...pod, name: `ns/${'x'.repeat(80)}`, containers: [{ ...use, name: 'evil\x1b[2J\u202e' }] };
  for (const width of [79, 30, 200]) assert.ok(tableLines({ pods: [long], sort: 'cpu', width }).every((line) => line.length <= width));
  const [, row = '', container = ''] = tableLines({ pods: [long], sort: 'cpu', width: 100 });
  assert.match(row, /^ns\/x+… /);
  assert.match(container, /^ {2}evil\?\[2J\? /);
});

test('titleLine() prints the counts, or why the values are old', () => {
  assert.equal(titleLine({ pods: [pod], sort: 'cpu', width: 80 }, undefined), 'berth top: 1 pods, 1 containers');
  assert.equal(titleLine({ pods: [], sort: 'cpu', width: 20 }, 'no daemon answers\n'), 'berth top: no daemon');
});
