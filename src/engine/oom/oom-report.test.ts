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

test('a kill is told with its victim, whose limit it was, and what was in use there', () => {
  const use = '; in use there: 60 MiB anonymous, 3.3 MiB file';
  assert.equal(sentence({}), `OOM-killed: process 37 (stress), the container's first, pid 1 inside, at its limit of 64 MiB${use}`);
  const child = { pid: 40 };
  assert.equal(sentence(child), `OOM-killed: process 40 (stress) of the container, at its limit of 64 MiB${use}`);
  assert.match(sentence({ ...child, cgroup: `${own}/x`, limitedCgroup: `${own}/x` }), /at the limit of 64 MiB of a cgroup that the container made;/);
  const limited = { ...view, status: { ...view.status, resources: { memoryLimitBytes: 64 * MiB } } };
  const both = describeVictim(toVictim(kill({ limitedCgroup: '/kubepods/burstable/pod1' }), limited, true));
  assert.match(both, /, at the pod's limit of 64 MiB, which is its own too;/);
  assert.match(sentence({ ...child, limitedCgroup: '/kubepods/burstable/pod1' }), /, at the pod's limit of 64 MiB;/);
  assert.match(
    sentence({ ...child, limitedCgroup: '/kubepods/burstable/pod1' }, false),
    /at the limit of 64 MiB of cgroup \/kubepods\/burstable\/pod1;/,
  );
  assert.match(sentence({ ...child, limitedCgroup: '/kubepods', limitBytes: 3 * 1024 * MiB }), /at the limit of 3 GiB of cgroup \/kubepods;/);
  assert.match(sentence({ ...child, limitedCgroup: null, limitBytes: null }), /, for the node had no memory left; the process had 60 MiB anonymous/);
  assert.equal(
    sentence({ cgroup: null, limitedCgroup: null, limitBytes: null, memory: null, pid: 40 }),
    'OOM-killed: process 40 (stress) of the container',
  );
});

test('a kill belongs to the container whose id is in the path, and without a path to the one whose first process it was', () => {
  assert.equal(containerOfKill(kill({ pid: 40 }), [view]), view);
  assert.equal(containerOfKill(kill({ cgroup: `/kubepods/${'b'.repeat(64)}` }), [view]), undefined);
  assert.equal(containerOfKill(kill({ cgroup: null }), [view]), view);
  assert.equal(containerOfKill(kill({ cgroup: null, pid: 40 }), [view]), undefined);
  assert.equal(containerOfKill(kill({ cgroup: null, atUs: 1_000_000 }), [view]), undefined, 'an earlier process of the same pid');
});
