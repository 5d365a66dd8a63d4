import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Attributes, Span } from '../../lib/spans.ts';
import type { Op, Plan } from '../plan/plan.ts';
import { addPlanParts, planParts } from './plan-spans.ts';

const op = (note: string): Op => ({ call: 'setsid', note });
const plan: Plan = {
  fds: [],
  parent: [op('enter')],
  clone: { namespaces: 0 },
  child: [op('mount'), { call: 'execve', path: '/bin/sh', note: 'start' }],
  process: { argv: ['sh'], env: [] },
  supervise: { mode: 'exec' },
};
const run = [
  { us: 1, outcome: 'done' },
  { us: 2, outcome: 'done' },
  { us: 9, outcome: 'done' },
  { us: 3, outcome: 'unfinished' },
] as const;
const clock = { nowMs: 50, monotonicNs: 10e6 };

function recorder(isRecorded = true) {
  const parts: [string, number, number, Attributes | undefined][] = [];
  const span: Span = {
    isRecorded,
    set: () => {},
    fail: () => {},
    addPart: (name, from, to, attributes) => void parts.push([name, from, to, attributes]),
  };
  return { span, parts };
}

test('addPlanParts() adds parent operations, clone and child operations by the daemon’s clock, with the slowest of each', () => {
  const { span, parts } = recorder();
  addPlanParts(span, plan, { run, times: { beganNs: 4e6, clonedNs: 5e6, childNs: 7e6, endedNs: 9e6 } }, clock);
  assert.deepEqual(parts, [
    ['plan.parent', 44, 45, { 'plan.operations': 1, 'plan.slowest': 'enter', 'plan.slowest_us': 1 }],
    ['plan.clone', 45, 47, {}],
    ['plan.child', 47, 49, { 'plan.operations': 2, 'plan.slowest': 'mount', 'plan.slowest_us': 9 }],
  ]);
});

test('addPlanParts() ends with the part that failed, and adds nothing to an unrecorded span or without an end', () => {
  const failed = recorder();
  addPlanParts(failed.span, plan, { run: run.slice(0, 1), times: { beganNs: 4e6, clonedNs: 0, childNs: 0, endedNs: 9e6 } }, clock);
  assert.deepEqual(
    failed.parts.map(([name, , until]) => [name, until]),
    [['plan.parent', 49]],
  );
  const killed = recorder();
  addPlanParts(killed.span, plan, { run, times: { beganNs: 4e6, clonedNs: 5e6, childNs: 7e6, endedNs: 0 } }, clock);
  assert.deepEqual(killed.parts, []);
  assert.deepEqual(planParts(recorder(false).span, plan), {});
});
