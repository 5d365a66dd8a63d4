/**
 * Runs the daemon with an incompatible ISA-L library: it logs this once and unpacks gzip layers with zlib.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, runBerth, startDaemon } from './support/daemon.ts';
import { pullSample } from './support/pods.ts';

if (isBuilt) enterIsolation();

/** A library with the same functions that sets none of the fields. */
const source = `
#include <stdint.h>
void isal_inflate_init(void *state) {}
int isal_inflate(void *state) { return 0; }
uint32_t crc32_gzip_refl(uint32_t crc, const void *bytes, uint64_t length) { return 0; }
`;

test('a daemon with an incompatible ISA-L logs this once and unpacks layers with zlib', { skip: !isBuilt && 'berth is not built' }, async () => {
  const workspace = createWorkspace();
  execFileSync('cc', ['-shared', '-fPIC', '-x', 'c', '-o', join(workspace.directory, 'libisal.so.2'), '-'], { input: source });
  process.env['LD_LIBRARY_PATH'] = workspace.directory;
  try {
    const daemon = await startDaemon(workspace);
    await pullSample(daemon.client);
    assert.equal(await daemon.end('SIGTERM'), 0);
    const { output, code } = await runBerth(['image', 'verify', '--root', workspace.root]);
    assert.match(output, /^1 image, .*: ok$/m);
    assert.equal(code, 0);
    const logged = readFileSync(workspace.logFile, 'utf8')
      .split('\n')
      .filter((line) => line.includes('libisal'));
    assert.equal(logged.length, 1);
    assert.match(logged[0] ?? '', /"library":"libisal\.so\.2","reason":"self-test failed: [^"]+","msg":"gzip layers are decompressed with zlib/);
  } finally {
    delete process.env['LD_LIBRARY_PATH'];
    await workspace.remove();
  }
});
