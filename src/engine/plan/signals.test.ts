import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import { parseSignal, signalName } from './signals.ts';

test('parseSignal() knows every name of the C library', () => {
  for (const [name, number] of Object.entries(constants.signals)) assert.equal(parseSignal(name), number, name);
});

const forms: [string, number][] = [
  ['9', 9],
  ['64', 64],
  ['KILL', 9],
  ['sigterm', 15],
  ['SIGNAL_SIGUSR1', 10],
  [' SIGQUIT ', 3],
  ['SIGRTMIN', 34],
  ['SIGRTMIN+3', 37],
  ['RTMIN+30', 64],
  ['SIGRTMAX-30', 34],
  ['SIGRTMAX', 64],
  ['SIGRTMINPLUS15', 49],
  ['SIGNAL_SIGRTMAXMINUS14', 50],
  ['SIGCLD', 17],
  ['SIGPOLL', 29],
];
for (const [text, number] of forms) test(`parseSignal() parses ${text} as ${number}`, () => assert.equal(parseSignal(text), number));

for (const text of [
  '',
  'SIG',
  '0',
  '65',
  '-9',
  '1e1',
  'TERMINATE',
  'SIGRTMIN+31',
  'SIGRTMAX-31',
  'SIGRTMIN-1',
  'SIGRTMAX+1',
  'SIGRTMIN+',
  'RUNTIME_DEFAULT',
  'constructor',
]) {
  test(`parseSignal() rejects ${JSON.stringify(text)}`, () => assert.throws(() => parseSignal(text), /unknown signal/));
}

test('signalName() returns a name that parseSignal() parses back, for all 64 signals', () => {
  for (let number = 1; number <= 64; number++) assert.equal(parseSignal(signalName(number)), number);
  assert.deepEqual([15, 34, 37, 49, 50, 64, 32].map(signalName), [
    'SIGTERM',
    'SIGRTMIN',
    'SIGRTMIN+3',
    'SIGRTMIN+15',
    'SIGRTMAX-14',
    'SIGRTMAX',
    '32',
  ]);
});
