/** Fuzzes the scanner of the kernel log: any line, with any program and cgroup name, gives an OOM kill with a pid and a one-line message, or nothing. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeVictim, toVictim } from '../../src/engine/oom/oom-report.ts';
import { createOomScanner } from '../../src/engine/oom/oom-scan.ts';
import type { ContainerView } from '../../src/engine/state/records.ts';
import { createRandom, mutated, pick } from '../support/mutate.ts';

const rounds = 20_000;
const path = `/kubepods/pod1/${'a'.repeat(64)}`;
const seeds = [
  'dd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0',
  'memory: usage 15360kB, limit 15360kB, failcnt 0',
  'kmem: usage 208kB, limit 9007199254740988kB, failcnt 0',
  'anon 15515648',
  'anon 15515648\\x0afile 0\\x0akernel 4096',
  `Tasks in ${path} are going to be killed due to memory.oom.group set`,
  `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=${path},task_memcg=${path},task=dd,pid=289,uid=0`,
  `oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=x,mems_allowed=0,global_oom,task_memcg=${path},task=dd,pid=289,uid=0`,
  'Memory cgroup out of memory: Killed process 289 (dd) total-vm:23060kB, anon-rss:15104kB, file-rss:1464kB, shmem-rss:0kB, UID:0 pgtables:76kB',
];
const fragments = [
  ',pid=1,uid=0',
  ',task=',
  ',task_memcg=',
  ',oom_memcg=',
  'global_oom',
  '\\x0a',
  'kB',
  ') ',
  '(',
  '99999999999999999999',
  '-1',
  '=',
];

const view = {
  record: { id: 'a'.repeat(64), spec: { security: { namespaces: { pid: 'container' } } } },
  status: { process: { pid: 289, startTime: '0' }, resources: {} },
} as unknown as ContainerView;

test('mutated lines give an OOM kill that can be described, or none', () => {
  const random = createRandom(7);
  const scan = createOomScanner();
  let found = 0;
  for (let sequence = 0; sequence < rounds; sequence += 1) {
    const seed = pick(random, seeds);
    const text = (random() < 0.3 ? seed : mutated(random, seed, fragments)).replaceAll('\n', '');
    const kill = scan({ sequence, atUs: sequence, text });
    if (kill === null) continue;
    found += 1;
    assert.ok(Number.isInteger(kill.pid) && kill.pid >= 0, text);
    for (const bytes of Object.values(kill.memory ?? {})) assert.ok(bytes >= 0, text);
    assert.doesNotMatch(describeVictim(toVictim(kill, view, true)), /NaN|undefined|\n/, text);
  }
  assert.ok(found > 100, `${found} kills`);
});
