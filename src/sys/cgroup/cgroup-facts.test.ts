import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CgroupFacts, cgroupDirectories, controllerDirectory, findCgroupMounts, flatKeyed, hugepageSizeOf } from './cgroup-facts.ts';

const v1Line = (id: number, point: string, options: string): string => `${id} 31 0:${id} / ${point} rw,relatime - cgroup cgroup ${options}`;
const v2Line = (point: string): string => `41 31 0:38 / ${point} rw,relatime - cgroup2 cgroup2 rw,nsdelegate`;

test('findCgroupMounts() treats a hybrid node as v1', () => {
  const lines = [
    v1Line(32, '/sys/fs/cgroup/cpu,cpuacct', 'rw,cpu,cpuacct'),
    v1Line(33, '/sys/fs/cgroup/memory', 'rw,memory'),
    v1Line(34, '/sys/fs/cgroup/systemd', 'rw,xattr,name=systemd,release_agent=/bin/x'),
    v2Line('/sys/fs/cgroup/unified'),
  ];
  const found = findCgroupMounts(lines.join('\n'));
  assert(found?.version === 1);
  assert.equal(found.unifiedRoot, '/sys/fs/cgroup/unified');
  assert.deepEqual(
    [...found.mounts],
    [
      ['cpu', '/sys/fs/cgroup/cpu,cpuacct'],
      ['cpuacct', '/sys/fs/cgroup/cpu,cpuacct'],
      ['memory', '/sys/fs/cgroup/memory'],
      ['name=systemd', '/sys/fs/cgroup/systemd'],
    ],
  );
});

test('findCgroupMounts() returns v2 for cgroup2, also with a v1 hierarchy without controllers', () => {
  assert.deepEqual(findCgroupMounts(v2Line('/sys/fs/cgroup')), { version: 2, root: '/sys/fs/cgroup' });
  const lines = [v1Line(34, '/run/elogind', 'rw,name=elogind'), v2Line('/sys/fs/cgroup')];
  assert.deepEqual(findCgroupMounts(lines.join('\n')), { version: 2, root: '/sys/fs/cgroup' });
});

test('findCgroupMounts() prefers /sys/fs/cgroup to bind mounts elsewhere, and returns null without cgroups', () => {
  assert.deepEqual(findCgroupMounts([v2Line('/var/other/cgroup'), v2Line('/sys/fs/cgroup')].join('\n')), { version: 2, root: '/sys/fs/cgroup' });
  assert.deepEqual(findCgroupMounts(v2Line('/cg')), { version: 2, root: '/cg' });
  assert.equal(findCgroupMounts('23 1 8:1 / / rw - ext4 /dev/sda1 rw\n'), null);
});

test('hugepageSizeOf() returns sizes as in the names of cgroup files', () => {
  const table = { 'hugepages-2048kB': '2MB', 'hugepages-1048576kB': '1GB', 'hugepages-64kB': '64KB', 'hugepages-16777216kB': '16GB' };
  for (const [directory, size] of Object.entries(table)) assert.equal(hugepageSizeOf(directory), size);
  assert.equal(hugepageSizeOf('something'), null);
});

test('cgroupDirectories() returns a co-mounted hierarchy once, and the unified one last', () => {
  const mounts = new Map([
    ['cpu', '/c/cpu,cpuacct'],
    ['cpuacct', '/c/cpu,cpuacct'],
    ['memory', '/c/memory'],
  ]);
  const facts: CgroupFacts = { version: 1, mounts, unifiedRoot: '/c/unified', controllers: new Set(), hasSwapAccounting: false, hugepageSizes: [] };
  assert.deepEqual(cgroupDirectories(facts, '/a/b'), ['/c/cpu,cpuacct/a/b', '/c/memory/a/b', '/c/unified/a/b']);
  assert.equal(controllerDirectory(facts, '/a', 'cpuacct'), '/c/cpu,cpuacct/a');
  assert.equal(controllerDirectory(facts, '/a', 'pids'), null);
});

test('flatKeyed() matches only whole keys', () => {
  assert.equal(flatKeyed('low 0\noom 3\noom_kill 2\n', 'oom_kill'), 2);
  assert.equal(flatKeyed('oom_kill_disable 0\nunder_oom 0\n', 'oom_kill'), null);
});
