import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { blockioClassOf, blockioValues, parseBlockioClasses } from './blockio.ts';

const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message);
const disks: Readonly<Record<string, readonly string[]>> = { '/dev/sd*': ['8:0', '8:16'], '/dev/sdb': ['8:16'] };
const devicesLike = (pattern: string) => disks[pattern] ?? [];
const classes = (rules: unknown) => parseBlockioClasses(JSON.stringify({ Classes: { slow: rules } }));

test('blockioValues() merges the entries of a class for each disk, and later entries win', () => {
  const slow = classes([
    { Weight: 80 },
    { Devices: ['/dev/sd*', '/dev/none'], ThrottleReadBps: '50M', ThrottleWriteIOPS: '5k', Weight: '50' },
    { Devices: ['/dev/sdb'], ThrottleReadBps: '1Mi' },
  ]);
  assert.deepEqual(blockioValues(slow, 'slow', devicesLike, 'io.bfq.weight'), {
    'io.max': '8:0 rbps=50000000 wiops=5000\n8:16 rbps=1048576 wiops=5000',
    'io.bfq.weight': 'default 80\n8:0 50\n8:16 50',
  });
  assert.equal(blockioValues(classes([{ Weight: 1000 }]), 'slow', devicesLike, 'io.weight')['io.weight'], 'default 10000');
  assert.deepEqual(blockioValues(classes([]), 'slow', devicesLike, 'io.weight'), {});
  assert.throws(
    () => blockioValues(slow, 'fast', devicesLike, 'io.weight'),
    refusal(/unknown block I\/O class "fast"; the classes of this node are slow/),
  );
});

test('parseBlockioClasses() reports what is invalid', () => {
  assert.throws(() => parseBlockioClasses('Classes:'), refusal(/invalid JSON/));
  assert.throws(() => parseBlockioClasses('{}'), refusal(/missing field Classes/));
  for (const [rule, message] of [
    [{ Devices: ['/dev/sda'], ThrottleReadBps: 'much' }, /ThrottleReadBps: "much" is not a quantity/],
    [{ Devices: ['/dev/sda'], ThrottleReadBps: 0 }, /rate 0 must be greater than 0/],
    [{ ThrottleReadBps: 1 }, /a rate requires the field Devices/],
    [{ Weight: 5 }, /invalid Weight 5: must be from 10 to 1000/],
    [{ Wait: 5 }, /unknown field Wait/],
    ['x', /entries must be objects/],
  ] as const)
    assert.throws(() => classes([rule]), refusal(message));
});

test("blockioClassOf() prefers the container's annotation, then the pod's for this container, then the pod's for all containers", () => {
  const prefix = 'blockio.resources.beta.kubernetes.io';
  const pod = { [`${prefix}/pod`]: 'all', [`${prefix}/container.main`]: 'one' };
  assert.equal(blockioClassOf('main', { 'io.kubernetes.cri.blockio-class': 'own' }, pod), 'own');
  assert.equal(blockioClassOf('main', {}, pod), 'one');
  assert.equal(blockioClassOf('other', {}, pod), 'all');
  assert.equal(blockioClassOf('main', {}, {}), undefined);
});
