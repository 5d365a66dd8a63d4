/** Fuzzes the monitor's plan decoder for a fixed number of runs, starting with valid plans. `scripts/build-monitor.mjs --fuzz` builds the fuzzer. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type ArgKind, callNames, calls } from '../../src/engine/plan/calls.ts';
import { encodePlan, type Op, type Plan } from '../../src/engine/plan/plan.ts';

/** Takes about ten seconds. FUZZ_RUNS sets another number. */
const runs = process.env.FUZZ_RUNS ?? '3000000';

test('the decoder never reads outside the bytes of a plan', { timeout: 300_000 }, (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-fuzz-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const corpus = join(dir, 'corpus');
  mkdirSync(corpus);
  for (const [i, plan] of seeds().entries()) writeFileSync(join(corpus, `plan-${i}`), encodePlan(plan));
  const fuzzer = fileURLToPath(new URL('../../build/monitor-fuzz', import.meta.url));
  const result = spawnSync(fuzzer, [`-runs=${runs}`, '-seed=1', '-max_len=8192', `-artifact_prefix=${dir}/`, corpus], { encoding: 'utf8' });
  assert.equal(result.status, 0, result.error?.message ?? result.stderr.slice(-4000));
});

const samples: { readonly [K in ArgKind]?: unknown } = {
  fd: 'a',
  text: 'dev/shm',
  bytes: Buffer.alloc(16, 6),
  openHow: { flags: 1, resolve: 16 },
  mountAttr: { set: 1 },
  ids: [1, 2, 3],
  rlimit: { soft: 1n, hard: 2n },
  capabilities: { effective: 1n, permitted: 1n, inheritable: 0n },
  struct: Buffer.alloc(8, 1),
};

/** Returns a plan with every operation, and a plan for each single operation. */
function seeds(): Plan[] {
  const ops = callNames
    .filter((call) => !['execve', 'reap', 'close'].includes(call))
    .map((call, i) => {
      const args = Object.entries(calls[call].args as Record<string, ArgKind>).map(([name, kind]) => [name, samples[kind] ?? 1]);
      return { call, ...Object.fromEntries(args), note: 'sample', out: `r${i}`, tolerate: ['ENOENT', 'EPERM'] } as unknown as Op;
    });
  const last: Op = { call: 'execve', path: '/bin/sh', note: 'starting' };
  const plan = (child: Op[]): Plan => ({
    fds: ['a', 'b'],
    parent: [],
    clone: { namespaces: 0x20000000, cgroup: 'b' },
    child: [...child, last],
    process: { argv: ['sh', '-c'], env: ['PATH=/bin'] },
    supervise: { mode: 'container', stdout: 'a', hasTerminal: true, exitDir: 'b', log: { dir: 'b', name: '0.log', lineBytesMax: 16384 } },
  });
  return [plan(ops), ...ops.map((op) => plan([op]))];
}
