import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { OomKill } from '../state/oom-kill.ts';
import { createOomScanner } from './oom-scan.ts';

const MiB = 2 ** 20;
const path = `/kubepods/pod1/${'a'.repeat(64)}`;

function kills(...texts: readonly string[]): OomKill[] {
  const scan = createOomScanner();
  return texts.flatMap((text, sequence) => scan({ sequence, atUs: sequence * 10, text }) ?? []);
}

const invoked = 'stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0';
const victim = (where: string, task = 'stress', pid = 37) =>
  `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0-1,3,${where},task=${task},pid=${pid},uid=0`;
const killed = (pid = 37, task = 'stress', what = 'Memory cgroup out of memory') =>
  `${what}: Killed process ${pid} (${task}) total-vm:34972kB, anon-rss:20300kB, file-rss:1024kB, shmem-rss:0kB, UID:0 pgtables:84kB oom_score_adj:0`;
const v2 = [invoked, 'memory: usage 65536kB, limit 65536kB, failcnt 45', 'swap: usage 0kB, limit 0kB, failcnt 0', `Memory cgroup stats for ${path}:`];

test('createOomScanner() parses victim, limit and memory usage from a report of cgroup v2', () => {
  const usage = ['anon 62914560', 'file 3145728', 'kernel 1048576', 'shmem 1048576', 'oom_kill 7'];
  assert.deepEqual(kills(...v2, ...usage, victim(`oom_memcg=${path},task_memcg=${path}`), killed()), [
    {
      sequence: 9,
      atUs: 90,
      pid: 37,
      command: 'stress',
      cgroup: path,
      limitedCgroup: path,
      limitBytes: 64 * MiB,
      memory: { anonBytes: 60 * MiB, fileBytes: 2 * MiB, shmemBytes: MiB, kernelBytes: MiB },
      isOfGroup: false,
    },
  ]);
});

test('createOomScanner() parses the usage of cgroup v1, and usage in one record of kernels before 6.6', () => {
  const v1 = ['memory: usage 15360kB, limit 15360kB, failcnt 0', 'kmem: usage 208kB, limit 9007199254740988kB, failcnt 0'];
  const own = ['rss 1', 'total_cache 4096', 'total_rss 8192', 'total_shmem 0'];
  const where = victim(`oom_memcg=${path},task_memcg=${path}`);
  assert.deepEqual(kills(invoked, ...v1, ...own, where)[0]?.memory, { anonBytes: 8192, fileBytes: 4096, shmemBytes: 0, kernelBytes: 208 * 1024 });
  const [old] = kills(...v2, 'anon 8192\\x0afile 4096\\x0akernel_stack 1\\x0ashme', where);
  assert.deepEqual(old?.memory, { anonBytes: 8192, fileBytes: 4096, shmemBytes: 0 });
});

test('createOomScanner() does not carry the usage of one report into the next', () => {
  const where = victim(`oom_memcg=${path},task_memcg=${path}`);
  const [, second] = kills(...v2, 'anon 8192', where, invoked, where);
  assert.deepEqual([second?.memory, second?.limitBytes], [null, null]);
});

test('createOomScanner() reports a kill because the node was out of memory, with the memory of the victim', () => {
  const [kill, ...others] = kills(invoked, victim(`global_oom,task_memcg=${path}`), killed(37, 'stress', 'Out of memory'));
  assert.equal(others.length, 0);
  assert.deepEqual([kill?.cgroup, kill?.limitedCgroup, kill?.limitBytes], [path, null, null]);
  assert.deepEqual(kill?.memory, { anonBytes: 20300 * 1024, fileBytes: MiB, shmemBytes: 0 });
});

test('createOomScanner() reports processes killed with the victim, and kills with a shortened report', () => {
  const where = victim(`oom_memcg=/kubepods/pod1,task_memcg=${path}`);
  const group = `Tasks in ${path} are going to be killed due to memory.oom.group set`;
  const found = kills(invoked, where, killed(), group, killed(), killed(38, 'other'), invoked, killed(39, 'late'));
  assert.deepEqual(
    found.map(({ pid, cgroup, limitedCgroup, isOfGroup }) => ({ pid, cgroup, limitedCgroup, isOfGroup })),
    [
      { pid: 37, cgroup: path, limitedCgroup: '/kubepods/pod1', isOfGroup: false },
      { pid: 38, cgroup: path, limitedCgroup: '/kubepods/pod1', isOfGroup: true },
      { pid: 39, cgroup: null, limitedCgroup: null, isOfGroup: false },
    ],
  );
});

test('createOomScanner() takes the pid from the end of a line, whatever the names of program and cgroup', () => {
  const names = ['a,pid=1,uid=0', ',task=x', 'x) (y', 'oom-kill:', '\\x0a\\xff', ''];
  for (const name of names) {
    const [kill] = kills(invoked, victim(`oom_memcg=${path},task_memcg=${path}`, name), killed(37, name));
    assert.deepEqual([kill?.pid, kill?.command, kill?.cgroup], [37, name, path], name);
  }
  const [inner] = kills(victim(`oom_memcg=${path}/,task=no,task_memcg=/other,task_memcg=${path}/x`));
  assert.equal(inner?.limitedCgroup, `${path}/,task=no`);
});

test('createOomScanner() ignores other lines', () => {
  assert.deepEqual(kills('berth0: port 8(veth) entered disabled state', 'anon 5', 'Killed process 1 (x)', 'oom-kill:', 'oom-kill:constraint=X'), []);
});
