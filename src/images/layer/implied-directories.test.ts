import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { restoreParents, writeImplied } from './implied-directories.ts';

test('restoreParents() refuses an image with more directories than a worker can look up, and creates nothing', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-implied-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const [filesDir, impliedFile, target] = ['diff', 'implied', 'parents'].map((name) => join(directory, name)) as [string, string, string];
  mkdirSync(filesDir);
  const job = { layers: [{ filesDir, impliedFile }], target };
  writeImplied(
    impliedFile,
    Array.from({ length: 300_001 }, (_, i) => `${i}`),
  );
  assert.throws(() => restoreParents(job), { code: 'RESOURCE_EXHAUSTED', message: /too many directories without entries/ });
  assert.ok(!existsSync(target));
});
