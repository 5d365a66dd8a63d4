import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeDumpAnswer, encodeDumpRequest, errorsOfLog } from './criu-request.ts';

const request = {
  imagesDirFd: 20,
  workDirFd: 21,
  pid: 4711,
  freezerDirectory: '/f',
  externalMounts: ['/v'],
  externalNamespaces: ['net[1]:n'],
};

test('encodeDumpRequest() requests a dump that leaves the processes running', () => {
  const expected = [
    ...['08 01', '12 46'], // type, length of the options
    ...['08 14', '10 e7 24', '18 01', '20 01', '28 01', '40 01', '48 04'],
    ...['52 08 64 75 6d 70 2e 6c 6f 67', '88 01 15'],
    ...['ba 01 08 0a 02 2f 76 12 02 2f 76', 'c0 01 01', 'e8 01 01', 'f0 01 01', '90 02 03'],
    ...['aa 02 08 6e 65 74 5b 31 5d 3a 6e', 'e2 02 02 2f 66', '90 03 01'],
  ];
  assert.equal(encodeDumpRequest(request).toString('hex'), expected.join('').replaceAll(' ', ''));
});

test('decodeDumpAnswer() returns the result and the message of criu', () => {
  const answer = (hex: string) => decodeDumpAnswer(Buffer.from(hex, 'hex'));
  assert.deepEqual(answer('08011001'), { isDone: true, message: '' });
  assert.deepEqual(answer('080110003810' + '4a036e6f21'), { isDone: false, message: 'no!' });
  // A negative errno is encoded in ten bytes.
  assert.deepEqual(answer('08011000' + '38ffffffffffffffffff01'), { isDone: false, message: '' });
});

test('decodeDumpAnswer() returns null for an invalid response', () => {
  for (const hex of ['', '08', '0801', '4a7f61', '0d00000000', 'ffffffffffffffffffffff'])
    assert.equal(decodeDumpAnswer(Buffer.from(hex, 'hex')), null, hex);
});

test('errorsOfLog() returns the last errors, without uninformative ones', () => {
  const log = [
    '(00.041492) Error (criu/util.c:1534): rlimit: Can not setup',
    '(00.05) Warn  (x.c:1): warned',
    ...['a', 'b', 'c', 'd'].map((text) => `(00.1) Error (criu/tty.c:1): tty: ${text}`),
    '(00.2) Error (criu/cr-dump.c:1975): Dumping FAILED.',
  ].join('\n');
  assert.equal(errorsOfLog(log), 'tty: b; tty: c; tty: d');
  assert.equal(errorsOfLog(''), '');
});
