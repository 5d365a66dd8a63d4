import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { OomKill } from '../state/oom-kill.ts';
import type { ContainerView } from '../state/records.ts';
import { containerOfKill, describeVictim, toVictim } from './oom-report.ts';

const MiB = 2 ** 20;
const id = 'a'.repeat(64);
const own = `/kubepods/burstable/pod1/crio-${id}.scope`;

const view = {
  record: { id, spec: { security: { namespaces: { pid: 'container' } } } },
  status: { startedAtNs: '1', process: { pid: 37, startTime: '500' }, resources: {} },
} as unknown as ContainerView;

const kill = (changes: Partial<OomKill> = {}): OomKill => ({
  sequence: 5,
  atUs: 9_000_000,
  pid: 37,
  command: 'stress',
  cgroup: own,
  limitedCgroup: own,
  limitBytes: 64 * MiB,
  memory: { anonBytes: 60 * MiB, fileBytes: 3.26 * MiB, shmemBytes: 0, kernelBytes: 0 },
  isOfGroup: false,
  ...changes,
});
const sentence = (changes: Partial<OomKill>, hasPodCgroup = true) => describeVictim(toVictim(kill(changes), view, hasPodCgroup));

test('describeVictim() contains the victim, whose limit was reached, and the memory usage', () => {
  const usage = '; memory usage: 60 MiB anonymous, 3.3 MiB file';
  assert.equal(sentence({}), `OOM-killed: process 37 (stress), pid 1 in the container, at the container's memory limit of 64 MiB${usage}`);
  const child = { pid: 40 };
  assert.equal(sentence(child), `OOM-killed: process 40 (stress) of the container, at the container's memory limit of 64 MiB${usage}`);
  assert.match(
    sentence({ ...child, cgroup: `${own}/x`, limitedCgroup: `${own}/x` }),
    /at the memory limit of 64 MiB of a cgroup inside the container;/,
  );
  const limited = { ...view, status: { ...view.status, resources: { memoryLimitBytes: 64 * MiB } } };
  const both = describeVictim(toVictim(kill({ limitedCgroup: '/kubepods/burstable/pod1' }), limited, true));
  assert.match(both, /, at the memory limit of 64 MiB of both the container and the pod;/);
  assert.match(sentence({ ...child, limitedCgroup: '/kubepods/burstable/pod1' }), /, at the pod's memory limit of 64 MiB;/);
  assert.match(
    sentence({ ...child, limitedCgroup: '/kubepods/burstable/pod1' }, false),
    /at the memory limit of 64 MiB of cgroup \/kubepods\/burstable\/pod1;/,
  );
  assert.match(sentence({ ...child, limitedCgroup: '/kubepods', limitBytes: 3 * 1024 * MiB }), /at the memory limit of 3 GiB of cgroup \/kubepods;/);
  assert.match(
    sentence({ ...child, limitedCgroup: null, limitBytes: null }),
    /, because the node was out of memory; memory of the process: 60 MiB anonymous/,
  );
  assert.equal(
    sentence({ cgroup: null, limitedCgroup: null, limitBytes: null, memory: null, pid: 40 }),
    'OOM-killed: process 40 (stress) of the container',
  );
});

test('containerOfKill() finds the container by the id in the path, and without a path by its first process', () => {
  assert.equal(containerOfKill(kill({ pid: 40 }), [view]), view);
  assert.equal(containerOfKill(kill({ cgroup: `/kubepods/${'b'.repeat(64)}` }), [view]), undefined);
  assert.equal(containerOfKill(kill({ cgroup: null }), [view]), view);
  assert.equal(containerOfKill(kill({ cgroup: null, pid: 40 }), [view]), undefined);
  assert.equal(containerOfKill(kill({ cgroup: null, atUs: 1_000_000 }), [view]), undefined, 'an earlier process with the same pid');
});
