import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planMaskedPaths } from './masked-paths.ts';
import { normalPath, orderMounts, type RootMount } from './mounts.ts';
import { encodePlan, type Op, type Plan } from './plan.ts';
import { standardMounts, withoutCovered } from './standard-mounts.ts';

const mount = (target: string, reg = target): RootMount => ({
  target,
  isDirectory: true,
  source: { kind: 'inherited', reg },
  attributes: 0,
  isRecursive: false,
});

test('orderMounts() puts parents first, and keeps the later of two mounts on one path', () => {
  const ordered = orderMounts([mount('/a/b/c'), mount('/a'), mount('/x/', 'first'), mount('/x', 'second'), mount('/a/b')]);
  assert.deepEqual(
    ordered.map(({ source }) => source.kind === 'inherited' && source.reg),
    ['/a', 'second', '/a/b', '/a/b/c'],
  );
});

test('normalPath() never goes above the root', () => {
  assert.equal(normalPath('/../..//a/./b/../c/'), '/a/c');
  assert.equal(normalPath('/..'), '/');
});

test('withoutCovered() removes all of /dev for a volume on /dev, and only /etc/hosts for one on /etc/hosts', () => {
  const defaults = standardMounts({
    isPrivileged: false,
    hasReadonlyRoot: false,
    cgroups: { version: 2 },
    shm: 'shm',
    files: [{ path: '/etc/hosts', reg: 'hosts' }],
  });
  const targets = withoutCovered(defaults, ['/dev/', '/etc/hosts']).map(({ target }) => target);
  assert.deepEqual(targets, ['/proc', '/sys', '/sys/fs/cgroup']);
  assert.ok(withoutCovered(defaults, ['/devices']).some(({ target }) => target === '/dev/shm'));
});

test('the masked directories that a kubelet lists for each of 1024 CPUs fit in a plan', () => {
  const paths = Array.from({ length: 1024 }, (_, i) => ({ path: `/sys/devices/system/cpu/cpu${i}/thermal_throttle`, isDirectory: true }));
  const child: Op[] = [...planMaskedPaths(paths, 'mask'), { call: 'execve', path: '/x', note: 'start' }];
  const plan: Plan = {
    fds: ['mask', 'tree/sys'],
    parent: [],
    clone: { namespaces: 0 },
    child,
    process: { argv: ['x'], env: [] },
    supervise: { mode: 'exec' },
  };
  assert.ok(encodePlan(plan).length > 0);
});
