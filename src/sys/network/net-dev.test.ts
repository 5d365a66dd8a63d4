import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseNetDev } from './net-dev.ts';

const heading = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
`;

test('parseNetDev() reads both halves of each line, and skips loopback', () => {
  const text = `${heading}    lo:  840      10    0    0    0     0          0         0      840      10    0    0    0     0       0          0
  eth0: 18446744  91234    3    7    0     1          0         5   912345     812    2    4    0     0       1          0
`;
  assert.deepEqual(parseNetDev(text), [
    {
      name: 'eth0',
      receive: { bytes: 18446744, packets: 91234, errors: 3, dropped: 7 },
      transmit: { bytes: 912345, packets: 812, errors: 2, dropped: 4 },
    },
  ]);
});

test('parseNetDev() reads a counter without a space after the name', () => {
  const [each] = parseNetDev('veth12345678901:99999999999 2 0 0 0 0 0 0 8 1 0 0 0 0 0 0');
  assert.deepEqual([each?.name, each?.receive.bytes, each?.transmit.bytes], ['veth12345678901', 99999999999, 8]);
});

test('parseNetDev() skips the heading, empty text and incomplete lines', () => {
  assert.deepEqual([heading, '', 'eth0: 1 2 3'].flatMap(parseNetDev), []);
});
