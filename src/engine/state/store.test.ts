import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStore } from './store.ts';
import { unreadableContainer } from './unreadable-record.ts';

test('openStore() reads records back unchanged: bytes of variables, and labels that look like them', (context) => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-store-'));
  context.after(() => rmSync(directory, { recursive: true }));
  const { record, status } = unreadableContainer('c1', 'placeholder', '1');
  const env = [
    { name: 'BYTES', value: Buffer.from([0, 0xff, 0x41]) },
    { name: 'EMPTY', value: Buffer.alloc(0) },
  ];
  const spec = { ...record.spec, env, labels: { base64: 'abcd' }, annotations: { name: 'n', value: 'v' } };
  openStore(directory).containers.create({ ...record, spec }, status);
  assert.deepEqual(openStore(directory).containers.get('c1')?.record.spec, spec);
});
