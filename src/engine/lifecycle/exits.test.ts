import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerView } from '../state/records.ts';
import { describeEnd } from './exits.ts';

const view = { status: { startedAtNs: '1000', resources: {} } } as unknown as ContainerView;
const record = (exitCode: number, signal = 0) => ({ pid: 1, exitCode, signal, finishedAtNs: 2000n, droppedLogBytes: 0, oomKills: null });

test('describeEnd() distinguishes completion, failure, OOM kill and a lost monitor', () => {
  const reason = (exitCode: number, kills: number) => describeEnd(view, record(exitCode), kills, '3000').reason;
  assert.equal(reason(0, 0), 'Completed');
  assert.equal(reason(2, 0), 'Error');
  assert.equal(reason(137, 1), 'OOMKilled');
  assert.equal(reason(0, 1), 'Completed');
  const lost = describeEnd(view, null, 0, '3000');
  assert.deepEqual([lost.exitCode, lost.reason, lost.finishedAtNs], [255, 'Unknown', '3000']);
});

test('describeEnd() never returns an end before the start, and reports dropped log output', () => {
  const late = { status: { startedAtNs: '9000', resources: {} } } as unknown as ContainerView;
  const end = describeEnd(late, { ...record(0), droppedLogBytes: 7 }, 0, '3000');
  assert.equal(end.finishedAtNs, '9000');
  assert.match(end.message ?? '', /7 bytes of output/);
});
