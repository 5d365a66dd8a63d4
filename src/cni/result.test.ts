import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressesOf, excerpt, parseError, parseResult, parseSupportedVersions } from './result.ts';

const inSandbox = { name: 'eth0', sandbox: '/run/netns/x' };
const host = [{ name: 'berth0' }, { name: 'veth1' }];

test('addressesOf() reads the results of every CNI version', () => {
  const ips = [
    { version: '4', address: '10.0.0.2/16', gateway: '10.0.0.1', interface: 2 },
    { version: '6', address: 'fd00::2/64', interface: 2 },
  ];
  const newest = ips.map(({ version: _, ...ip }) => ip);
  const results: readonly Record<string, unknown>[] = [
    { cniVersion: '0.1.0', ip4: { ip: '10.0.0.2/16' }, ip6: { ip: 'fd00::2/64' } },
    { cniVersion: '0.2.0', ip4: { ip: '10.0.0.2/16', routes: [] }, ip6: { ip: 'fd00::2/64' } },
    { cniVersion: '0.3.0', interfaces: [...host, inSandbox], ips },
    { cniVersion: '0.3.1', interfaces: [...host, inSandbox], ips },
    { cniVersion: '0.4.0', interfaces: [...host, inSandbox], ips },
    { cniVersion: '1.0.0', interfaces: [...host, inSandbox], ips: newest },
    { cniVersion: '1.1.0', interfaces: [...host, inSandbox], ips: newest },
  ];
  for (const result of results) assert.deepEqual(addressesOf(result, 'eth0'), ['10.0.0.2', 'fd00::2'], String(result.cniVersion));
});

test('addressesOf() puts the first IPv4 address first and keeps the others in their order', () => {
  const ips = ['fd00::2/64', '10.0.0.2/16', 'fd00::3/64', '10.0.0.3/16', '10.0.0.2/16'].map((address) => ({ address }));
  assert.deepEqual(addressesOf({ cniVersion: '1.0.0', ips }, 'eth0'), ['10.0.0.2', 'fd00::2', 'fd00::3', '10.0.0.3']);
});

test('addressesOf() ignores addresses of the host and of other interfaces', () => {
  const interfaces = [{ name: 'eth0' }, { name: 'net1', sandbox: '/x' }, inSandbox];
  const ips = [0, 1, 2].map((i) => ({ address: `10.0.0.${i}/24`, interface: i }));
  assert.deepEqual(addressesOf({ cniVersion: '1.0.0', interfaces, ips }, 'eth0'), ['10.0.0.2']);
});

test('addressesOf() accepts an interface without sandbox if no other has its name', () => {
  assert.deepEqual(addressesOf({ cniVersion: '0.4.0', interfaces: [{ name: 'eth0' }], ips: [{ address: '10.0.0.2/24', interface: 0 }] }, 'eth0'), [
    '10.0.0.2',
  ]);
});

test('addressesOf() refuses results without an address on the interface, and malformed ones', () => {
  const none: readonly Record<string, unknown>[] = [
    {},
    { cniVersion: '1.0.0' },
    { cniVersion: '1.0.0', ips: 'x' },
    { cniVersion: '1.0.0', ips: [null, 4] },
    { cniVersion: '1.0.0', interfaces: host, ips: [{ address: '10.0.0.2/24', interface: 7 }] },
    { cniVersion: '0.2.0', ips: [{ address: '10.0.0.2/24' }] },
  ];
  for (const result of none)
    assert.throws(() => addressesOf(result, 'eth0'), { message: 'no address on eth0 in the result' }, JSON.stringify(result));
  for (const address of ['10.0.0.2/33', '10.0.0/8', 'x', '10.0.0.2/24/1', '10.0.0.2/', 7, 'fd00::2/129']) {
    assert.throws(() => addressesOf({ cniVersion: '1.0.0', ips: [{ address }] }, 'eth0'), /invalid address .* in the result$/, String(address));
  }
});

test('parseResult() sets a missing version to the requested one', () => {
  assert.deepEqual(parseResult('{"ips":[]}', '0.4.0'), { ips: [], cniVersion: '0.4.0' });
  assert.deepEqual(parseResult('{"cniVersion":"0.2.0"}', '0.4.0'), { cniVersion: '0.2.0' });
});

test('parseResult() quotes output that is not a result', () => {
  assert.throws(() => parseResult(' \n', '1.0.0'), { message: 'no result on stdout' });
  assert.throws(() => parseResult('hello\nworld', '1.0.0'), { message: 'stdout is not a CNI result: hello world' });
  assert.throws(() => parseResult('[]', '1.0.0'), { message: 'stdout is not a CNI result: []' });
  assert.throws(() => parseResult('{"cniVersion":"3.0.0"}', '1.0.0'), { message: /^unsupported cniVersion "3.0.0" in the result/ });
});

test('parseError() accepts error objects only', () => {
  assert.deepEqual(parseError('{"code":7,"msg":"m","details":"d"}'), { code: 7, msg: 'm', details: 'd' });
  assert.deepEqual(parseError('{"code":7}'), { code: 7, msg: '', details: '' });
  for (const text of ['', 'x', '{}', '{"code":0,"msg":"fine"}', '{"code":"7"}', 'null', '[7]']) assert.equal(parseError(text), null, text);
});

test('parseSupportedVersions() reads replies to VERSION, including those of 0.1.0', () => {
  assert.deepEqual(parseSupportedVersions('{"supportedVersions":["0.4.0",5,"1.0.0"]}'), ['0.4.0', '1.0.0']);
  assert.deepEqual(parseSupportedVersions('{"cniVersion":"0.1.0"}'), ['0.1.0']);
  assert.equal(parseSupportedVersions('usage: plugin'), null);
});

test('results, errors and versions are read with keys in any case', () => {
  const text = '{"CNIVersion":"1.0.0","IPs":[null,{"Address":"10.0.0.2/24","Interface":0}],"INTERFACES":[{"Name":"eth0","SandBox":"/x"},null]}';
  const result = parseResult(text, '0.4.0');
  assert.equal(result.cniVersion, '1.0.0');
  assert.deepEqual(addressesOf(parseResult(text.replace('null,', ''), '0.4.0'), 'eth0'), ['10.0.0.2']);
  assert.deepEqual(addressesOf(parseResult('{"CniVersion":"0.2.0","IP4":{"IP":"10.0.0.3/24"}}', '0.4.0'), 'eth0'), ['10.0.0.3']);
  assert.deepEqual(parseError('{"Code":11,"Msg":"m"}'), { code: 11, msg: 'm', details: '' });
  assert.deepEqual(parseSupportedVersions('{"SupportedVersions":["1.0.0"]}'), ['1.0.0']);
});

test('excerpt() returns one line, with the beginning and the end of a long text', () => {
  assert.equal(excerpt(' a\n\tb\u0000c '), 'a b c');
  assert.equal(excerpt('x'.repeat(1000)), 'x'.repeat(1000));
  assert.equal(excerpt(`panic${'x'.repeat(2000)}end`), `panic${'x'.repeat(295)}...${'x'.repeat(697)}end`);
});
