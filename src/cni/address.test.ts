import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { test } from 'node:test';
import { ipVersionOf } from './address.ts';

test('ipVersionOf() agrees with net.isIP() on valid and almost valid addresses', () => {
  const texts = [
    ...[
      '10.0.0.1',
      '255.255.255.255',
      '0.0.0.0',
      '256.0.0.1',
      '1.2.3',
      '1.2.3.4.5',
      '1.2.3.',
      '.1.2.3',
      '1.2.3.4.',
      '01.2.3.4',
      '',
      ' 1.2.3.4',
      '1..2.3',
    ],
    ...[
      '::',
      '::1',
      'fd00::2',
      '1:2:3:4:5:6:7:8',
      '1:2:3:4:5:6:7',
      '1:2:3:4:5:6:7::',
      '::2:3:4:5:6:7:8',
      '1::2::3',
      ':::',
      ':1',
      '1:',
      '12345::',
      'g::',
    ],
    ...['::ffff:1.2.3.4', '1:2:3:4:5:6:1.2.3.4', '1:2:3:4:5:6:7:1.2.3.4', '1.2.3.4::', '::1.2.3.400', '1:2:3:4:5:6:7:8:9', '1:2:3:4::5:6:7:8'],
  ];
  for (const text of texts) assert.equal(ipVersionOf(text), isIP(text), text);
});
