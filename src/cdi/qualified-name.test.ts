import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkedNames, isKind } from './qualified-name.ts';

test('checkedNames() accepts the names that vendors use and returns each once, in order', () => {
  const names = [
    'nvidia.com/gpu=all',
    'nvidia.com/gpu=0:1',
    'k8s.gpu.nvidia.com/claim=4b3c-gpu.0',
    'v/c=0',
    'nvidia.com/gpu=all',
    'Vendor_1.com/Net-dev.x=A',
  ];
  assert.deepEqual(checkedNames(names), [...new Set(names)]);
});

test('checkedNames() reports all invalid names', () => {
  const wrong = [
    '',
    '/dev/null',
    'gpu0',
    'vendor.com=gpu',
    'vendor.com/gpu',
    'vendor.com/gpu=',
    'vendor.com/=0',
    '/gpu=0',
    '=0',
    'vendor.com/gpu/x=0',
    '0vendor.com/gpu=0',
    'vendor.com/0gpu=0',
    'vendor-/gpu=0',
    'vendor.com/gpu_=0',
    'vendor.com/gpu=-0',
    'vendor.com/gpu=0.',
    'vendor.com/gpu=a=b',
    'vendor.com/gpu=0 ',
    'vendor.com/gpu=0\n',
    'vendor.com/gpü=0',
    '../etc/x=0',
  ];
  for (const name of wrong) {
    assert.throws(() => checkedNames(['v/c=0', name]), {
      code: 'INVALID_ARGUMENT',
      message: `invalid CDI device ${JSON.stringify(name)}: want VENDOR/CLASS=DEVICE, such as vendor.com/gpu=0`,
    });
  }
  assert.throws(() => checkedNames(['a', 'v/c=0', 'b']), /"a", "b"/);
});

test('isKind() enforces the length limits of the specification', () => {
  assert.equal(isKind(`v/${'c'.repeat(63)}`), true);
  assert.equal(isKind(`v/${'c'.repeat(64)}`), false);
  assert.equal(isKind(`${'v'.repeat(253)}/c`), true);
  assert.equal(isKind(`${'v'.repeat(254)}/c`), false);
});
