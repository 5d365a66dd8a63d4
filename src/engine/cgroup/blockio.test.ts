import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { blockioClassOf, blockioValues, parseBlockioClasses } from './blockio.ts';

const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message);
const disks: Readonly<Record<string, readonly string[]>> = { '/dev/sd*': ['8:0', '8:16'], '/dev/sdb': ['8:16'] };
const like = (pattern: string) => disks[pattern] ?? [];
const classes = (rules: unknown) => parseBlockioClasses(JSON.stringify({ Classes: { slow: rules } }));

test('blockioValues() merges the entries of a class, later ones over earlier ones, disk by disk', () => {
  const slow = classes([
    { Weight: 80 },
    { Devices: ['/dev/sd*', '/dev/none'], ThrottleReadBps: '50M', ThrottleWriteIOPS: '5k', Weight: '50' },
    { Devices: ['/dev/sdb'], ThrottleReadBps: '1Mi' },
  ]);
  assert.deepEqual(blockioValues(slow, 'slow', like, 'io.bfq.weight'), {
    'io.max': '8:0 rbps=50000000 wiops=5000\n8:16 rbps=1048576 wiops=5000',
    'io.bfq.weight': 'default 80\n8:0 50\n8:16 50',
  });
  assert.equal(blockioValues(classes([{ Weight: 1000 }]), 'slow', like, 'io.weight')['io.weight'], 'default 10000');
  assert.deepEqual(blockioValues(classes([]), 'slow', like, 'io.weight'), {});
  assert.throws(() => blockioValues(slow, 'fast', like, 'io.weight'), refusal(/"fast" is not on this node; there are slow/));
});

test('parseBlockioClasses() says what it cannot read', () => {
  assert.throws(() => parseBlockioClasses('Classes:'), refusal(/no JSON/));
  assert.throws(() => parseBlockioClasses('{}'), refusal(/no object Classes/));
  for (const [rule, message] of [
    [{ Devices: ['/dev/sda'], ThrottleReadBps: 'much' }, /ThrottleReadBps: "much" is not a quantity/],
    [{ Devices: ['/dev/sda'], ThrottleReadBps: 0 }, /a rate of 0/],
    [{ ThrottleReadBps: 1 }, /rates are given without Devices/],
    [{ Weight: 5 }, /Weight 5 is not between 10 and 1000/],
    [{ Wait: 5 }, /no field Wait/],
    ['x', /no object/],
  ] as const)
    assert.throws(() => classes([rule]), refusal(message));
});

test("blockioClassOf() takes the container's own annotation before the pod's for it, and that before the pod's for all", () => {
  const prefix = 'blockio.resources.beta.kubernetes.io';
  const pod = { [`${prefix}/pod`]: 'all', [`${prefix}/container.main`]: 'one' };
  assert.equal(blockioClassOf('main', { 'io.kubernetes.cri.blockio-class': 'own' }, pod), 'own');
  assert.equal(blockioClassOf('main', {}, pod), 'one');
  assert.equal(blockioClassOf('other', {}, pod), 'all');
  assert.equal(blockioClassOf('main', {}, {}), undefined);
});
