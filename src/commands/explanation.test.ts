import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerStatusResponse } from '../cri/wire/messages.ts';
import { explanationOf } from './explanation.ts';

const status = {
  id: 'c1',
  metadata: { name: 'main', attempt: 2 },
  state: 'CONTAINER_EXITED',
  image: { image: 'docker.io/library/busybox:1' },
  message: 'killed',
} as ContainerStatusResponse['status'];

const about = { pid: 7, monitorPid: 6, cgroupPath: '/pods/c1', sandboxID: 's1' };

test('explanationOf() prints the container, the duration of each step and their sum, and the plan', () => {
  const info = {
    info: JSON.stringify(about),
    timeline: JSON.stringify({ 'create.root': 1.5, 'start.monitor': 10.25 }),
    plan: JSON.stringify(['inherit state', 'child setsid # starting a session']),
  };
  assert.deepEqual(explanationOf({ status, info } as ContainerStatusResponse).split('\n'), [
    'container c1 (main, attempt 2): exited',
    'message   killed',
    'image     docker.io/library/busybox:1',
    'sandbox   s1',
    'cgroup    /pods/c1',
    'pid       7 (monitor 6)',
    '',
    'duration of each step, in ms',
    '  create.root            1.500',
    '  start.monitor         10.250',
    '  total                 11.750',
    '',
    'plan, 2 lines in execution order',
    '  inherit state',
    '  child setsid # starting a session',
  ]);
});

test('explanationOf() prints the time and outcome of each executed operation', () => {
  const plan = [
    'inherit state',
    'parent fchdir # entering',
    'clone namespaces=NEWNS',
    'child mkdirat # making /dev',
    'child execve # starting',
    'process argv=[]',
  ];
  const ran = [
    { us: 12.34, outcome: 'done' },
    { us: 300, outcome: 'done' },
    { us: 2, outcome: 'EEXIST' },
  ];
  const info = { info: JSON.stringify(about), plan: JSON.stringify(plan), ran: JSON.stringify(ran) };
  assert.deepEqual(
    explanationOf({ status, info } as ContainerStatusResponse)
      .split('\n')
      .slice(-7),
    [
      'plan, 6 lines in execution order; time in μs, up to the next timed operation',
      '                      inherit state',
      '        12            parent fchdir # entering',
      '       300            clone namespaces=NEWNS',
      '       2.0 EEXIST     child mkdirat # making /dev',
      '                      child execve # starting',
      '                      process argv=[]',
    ],
  );
});

test('explanationOf() reports that a container was not started', () => {
  const info = { info: JSON.stringify({ ...about, pid: 0 }) };
  const lines = explanationOf({ status, info } as ContainerStatusResponse).split('\n');
  assert.equal(lines.at(-1), 'no plan: the container has not been started');
  assert.ok(!lines.some((line) => line.startsWith('pid')));
});
