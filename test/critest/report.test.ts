import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countStates, readReport, type Spec, unexpectedResults, unknownNames } from './report.ts';

const spec = (name: string, state: Spec['state'], message = ''): Spec => ({ name, state, seconds: 1, startedAtMs: 0, endedAtMs: 1000, message });
const ginkgo = (LeafNodeText: string, State: string, Message?: string) => ({
  ContainerHierarchyTexts: ['[k8s.io] Container'],
  LeafNodeText,
  LeafNodeType: 'It',
  State,
  RunTime: 2e9,
  StartTime: '2026-11-28T12:00:00.123456789Z',
  EndTime: '2026-11-28T12:00:02.123456789Z',
  Failure: Message === undefined ? {} : { Message },
});

test('readReport() returns specs that ran or skipped themselves, without those that the focus excluded', () => {
  const setup = { ContainerHierarchyTexts: null, LeafNodeText: '', LeafNodeType: 'BeforeSuite', State: 'passed', RunTime: 0 };
  const specs = [setup, ginkgo('b', 'panicked', 'boom'), ginkgo('a', 'passed'), ginkgo('c', 'skipped', 'no AppArmor'), ginkgo('d', 'skipped')];
  const report = readReport(JSON.stringify([{ SpecReports: specs }]));
  assert.deepEqual(
    report.map(({ name, state }) => [name, state]),
    [
      ['[k8s.io] Container a', 'passed'],
      ['[k8s.io] Container b', 'failed'],
      ['[k8s.io] Container c', 'skipped'],
    ],
  );
  assert.equal((report[0]?.endedAtMs ?? 0) - (report[0]?.startedAtMs ?? 0), 2000);
  assert.deepEqual(countStates(report), { passed: 1, failed: 1, skipped: 1 });
});

test('unexpectedResults() accepts a listed failure and reports an unlisted one', () => {
  const specs = [spec('a', 'failed', 'one\ntwo'), spec('b', 'failed')];
  assert.deepEqual(unexpectedResults(specs, [{ name: 'b', reason: 'later' }]), ['failed: a: one']);
});

test('unexpectedResults() reports a listed spec that passes, unless it depends on the machine', () => {
  const specs = [spec('a', 'passed'), spec('b', 'passed')];
  const expected = [
    { name: 'a', reason: 'later' },
    { name: 'b', reason: 'no AppArmor here', needs: 'AppArmor' },
  ];
  assert.deepEqual(unexpectedResults(specs, expected), ['passes, but is listed as not passing (later): a']);
});

test('unexpectedResults() reports an unlisted spec that skips itself', () => {
  assert.deepEqual(unexpectedResults([spec('a', 'skipped', 'user namespaces not supported')], []), ['skipped: a: user namespaces not supported']);
});

test('unknownNames() reports a listed name that matches no spec', () => {
  assert.equal(unknownNames([spec('a', 'passed')], [{ name: 'b', reason: '' }]).length, 1);
});
