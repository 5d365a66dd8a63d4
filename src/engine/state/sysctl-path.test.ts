import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sysctlPath } from './sysctl-path.ts';

test('sysctlPath() accepts both separators, and the other one in a part', () => {
  assert.equal(sysctlPath('net.ipv4.ip_forward'), 'net/ipv4/ip_forward');
  assert.equal(sysctlPath('net/ipv4/ip_forward'), 'net/ipv4/ip_forward');
  for (const name of ['net.ipv4.conf.eth0/100.forwarding', 'net/ipv4/conf/eth0.100/forwarding'])
    assert.equal(sysctlPath(name), 'net/ipv4/conf/eth0.100/forwarding');
});

test('sysctlPath() refuses names that lead elsewhere or contain more than a name (CVE-2022-0811)', () => {
  const outside = [
    '',
    '/',
    '.',
    '..',
    '/proc/sys/net/x',
    'net/../kernel/panic',
    '../kernel/panic',
    'net..x',
    'net.//.kernel.x',
    'net/./x',
    'net/',
    'net.',
  ];
  const more = ['net.x+kernel.core_pattern', 'net.x=1', 'net.x 1', 'net.x\nkernel.y', 'net.x\0', 'net.é', 'net.x,y', 'panic', '.net.x'];
  for (const name of [...outside, ...more]) assert.equal(sysctlPath(name), undefined, JSON.stringify(name));
});
