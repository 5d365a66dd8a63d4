import assert from 'node:assert/strict';
import { test } from 'node:test';
import { valueBefore } from './cgroup-undo.ts';

test("valueBefore() returns the file's text, and an empty line for an empty list", () => {
  assert.equal(valueBefore('cpu.max', '5000 100000', 'max 100000\n'), 'max 100000\n');
  assert.equal(valueBefore('cpuset.cpus', '0', '\n'), '\n');
});

test('valueBefore() returns the line of the written device for a file with a line per device', () => {
  const before = '8:0 rbps=max wbps=5 riops=max wiops=max\n8:16 rbps=7 wbps=max riops=max wiops=max\n';
  assert.equal(valueBefore('io.max', '8:16 rbps=1', before), '8:16 rbps=7 wbps=max riops=max wiops=max');
  assert.equal(valueBefore('io.max', '8:32 rbps=1', before), '8:32 rbps=max wbps=max riops=max wiops=max');
  assert.equal(valueBefore('blkio.throttle.read_bps_device', '8:0 100', ''), '8:0 0');
  assert.equal(valueBefore('io.weight', '200', 'default 100\n8:0 50\n'), 'default 100');
  assert.equal(valueBefore('io.weight', '8:16 200', 'default 100\n8:0 50\n'), '8:16 default');
});
