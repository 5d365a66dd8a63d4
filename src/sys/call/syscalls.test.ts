import { mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { close, O_PATH, openat2, RESOLVE_IN_ROOT } from './syscalls.ts';

/** Renames a directory for ever. */
const renamer = `
  const { renameSync } = require('node:fs');
  const { workerData } = require('node:worker_threads');
  for (;;) for (const [from, to] of [['a', 'b'], ['b', 'a']]) renameSync(workerData + from, workerData + to);
`;

test('openat2() opens a path with `..` while another program renames directories elsewhere', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-openat2-'));
  for (const path of ['root/dir', 'elsewhere/a']) mkdirSync(join(directory, path), { recursive: true });
  writeFileSync(join(directory, 'root/file'), '');
  const root = openSync(join(directory, 'root'), 'r');
  const worker = new Worker(renamer, { eval: true, workerData: join(directory, 'elsewhere/') });
  t.after(async () => {
    await worker.terminate();
    rmSync(directory, { recursive: true });
  });
  await new Promise((settle) => worker.once('online', settle));
  for (let opens = 0; opens < 50_000; opens += 1) close(openat2(root, 'dir/../file', { flags: O_PATH, resolve: RESOLVE_IN_ROOT }));
  close(root);
});
