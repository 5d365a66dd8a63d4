/**
 * The seccomp filter of containers started through the daemon, from the default profile and from files: tests by errno which system calls reach the kernel.
 */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { enterIsolation } from '../support/isolation.ts';
import { staticProgram } from '../support/static-program.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon } from './support/daemon.ts';
import { eventually, exec, logLines, type Pod, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = isBuilt ? process.arch !== 'x64' && 'the probe is for x86-64' : 'berth is not built';
if (!skip) enterIsolation();

const [EPERM, EBADF, EFAULT, EINVAL, ENOSYS] = [-1, -9, -14, -22, -38];

/** x86-64 calls whose arguments fail with different errnos with and without the filter. unshare() is last: it may create a user namespace. */
const calls: readonly { readonly name: string; readonly call: string; readonly filtered: number; readonly unfiltered: number }[] = [
  { name: 'mount(NULL)', call: '64:165:0:0', filtered: EPERM, unfiltered: EFAULT },
  { name: 'setns(-1)', call: '64:308:-1:0', filtered: EPERM, unfiltered: EBADF },
  { name: 'bpf(-1)', call: '64:321:-1:0:0', filtered: EPERM, unfiltered: EINVAL },
  { name: 'perf_event_open(NULL)', call: '64:298:0:0:-1:-1', filtered: EPERM, unfiltered: EFAULT },
  { name: 'clone3(NULL, 0)', call: '64:435:0:0', filtered: ENOSYS, unfiltered: EINVAL },
  { name: 'unshare(CLONE_NEWUSER)', call: '64:272:0x10000000', filtered: EPERM, unfiltered: 0 },
];
const words = calls.map(({ call }) => call);
const expected = (kind: 'filtered' | 'unfiltered') => Object.fromEntries(calls.map((each) => [each.name, each[kind]]));
const parseResults = (output: string) =>
  Object.fromEntries(output.split('\n').flatMap((line, index) => (line === '' ? [] : [[calls[index]?.name, Number(line)]])));

test('containers get the filter for their capabilities, in the first process and in every exec', { skip }, async () => {
  const workspace = createWorkspace();
  const probes = join(workspace.directory, 'probes');
  mkdirSync(probes);
  copyFileSync(staticProgram(join(import.meta.dirname, 'seccomp-probe.c')), join(probes, 'probe'));
  const mounts = [{ host_path: probes, container_path: '/probes', readonly: true }];
  let daemon: Daemon = await startDaemon(workspace);
  try {
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'filters', workspace.directory);
    const runtimeDefault = { seccomp: { profile_type: 'RuntimeDefault' } };
    const start = async (name: string, security_context: Message) => {
      const script = `/probes/probe - 0 ${words.join(' ')}; exec sleep 1000`;
      return runContainer(daemon.client, pod, image, name, script, { mounts, linux: { security_context } });
    };
    const ids = {
      ordinary: await start('ordinary', runtimeDefault),
      restricted: await start('restricted', { ...runtimeDefault, capabilities: { drop_capabilities: ['ALL'] }, no_new_privs: true }),
      admin: await start('admin', { ...runtimeDefault, capabilities: { add_capabilities: ['SYS_ADMIN', 'BPF', 'PERFMON'] } }),
      unconfined: await start('unconfined', { seccomp: { profile_type: 'Unconfined' }, capabilities: { add_capabilities: ['BPF', 'PERFMON'] } }),
    };
    const probe = async (id: string) => parseResults(await exec(daemon.client, id, '/probes/probe', '-', '0', ...words));
    const assertFilters = async () => {
      assert.deepEqual(await probe(ids.ordinary), expected('filtered'));
      assert.deepEqual(await probe(ids.restricted), expected('filtered'));
      assert.deepEqual(await probe(ids.admin), expected('unfiltered'));
      assert.deepEqual(await probe(ids.unconfined), expected('unfiltered'));
    };
    assert.deepEqual(await firstProcessResults(pod, 'ordinary'), expected('filtered'));
    assert.deepEqual(await firstProcessResults(pod, 'restricted'), expected('filtered'));
    assert.deepEqual(await firstProcessResults(pod, 'admin'), expected('unfiltered'));
    await assertFilters();
    await daemon.end('SIGKILL');
    daemon = await startDaemon(workspace);
    await assertFilters();
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

/** Several rules for a call, each with several conditions. */
const difficultProfile = {
  defaultAction: 'SCMP_ACT_ALLOW',
  architectures: ['SCMP_ARCH_X86_64'],
  syscalls: [
    // Both rules begin with the same condition.
    reject('getpriority', 77, [0, 'NE', 7], [1, 'EQ', 1]),
    reject('getpriority', 77, [0, 'NE', 7], [2, 'EQ', 1]),
    // The same argument has opposite comparisons.
    reject('sched_get_priority_max', 78, [0, 'GT', 2]),
    reject('sched_get_priority_max', 78, [1, 'GT', 3], [0, 'LT', 2]),
  ],
};

/** getpriority(2) knows no kind 5 or 7: it fails with EINVAL if the filter allows it. */
const difficultCalls: Readonly<Record<string, (result: number) => boolean>> = {
  '64:140:5:1:0': (result) => result === -77,
  '64:140:5:0:1': (result) => result === -77,
  '64:140:5:0:0': (result) => result === EINVAL,
  '64:140:7:1:1': (result) => result === EINVAL,
  '64:146:3:0': (result) => result === -78,
  '64:146:0:4': (result) => result === -78,
  '64:146:0:3': (result) => result >= 0,
};

function reject(name: string, errnoRet: number, ...args: [number, string, number][]) {
  return { names: [name], action: 'SCMP_ACT_ERRNO', errnoRet, args: args.map(([index, op, value]) => ({ index, op: `SCMP_CMP_${op}`, value })) };
}

test('Localhost profiles are compiled as written, or refused with the file and the cause, while the daemon answers other calls', {
  skip,
}, async () => {
  const workspace = createWorkspace();
  const probes = join(workspace.directory, 'probes');
  mkdirSync(probes);
  copyFileSync(staticProgram(join(import.meta.dirname, 'seccomp-probe.c')), join(probes, 'probe'));
  const mounts = [{ host_path: probes, container_path: '/probes', readonly: true }];
  const context = (name: string, profile: object): Message => {
    const localhost_ref = join(workspace.directory, `${name}.json`);
    writeFileSync(localhost_ref, JSON.stringify(profile));
    return { mounts, linux: { security_context: { seccomp: { profile_type: 'Localhost', localhost_ref } } } };
  };
  const daemon = await startDaemon(workspace);
  try {
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'localhost', workspace.directory);
    const start = (name: string, profile: object) => runContainer(daemon.client, pod, image, name, 'exec sleep 1000', context(name, profile));

    let isStarted = false;
    const starting = start('difficult', difficultProfile).finally(() => {
      isStarted = true;
    });
    // If the daemon is blocked, the next call fails first, with its deadline.
    starting.catch(() => {});
    while (!isStarted) await daemon.client.call('ListContainers', {}, 20_000);
    const words = Object.keys(difficultCalls);
    const results = (await exec(daemon.client, await starting, '/probes/probe', '-', '0', ...words)).trim().split('\n').map(Number);
    assert.deepEqual(
      words.filter((word, i) => difficultCalls[word]?.(results[i] ?? Number.NaN) !== true),
      [],
      results.join(' '),
    );

    const manyRules = Array.from({ length: 2000 }, (_, i) => reject('getpriority', 77, [0, 'EQ', i], [1, 'EQ', i]));
    const refusal = /INVALID_ARGUMENT: .*compile seccomp profile \S*large\.json: the program exceeds the kernel's limit of 4096 instructions/;
    for (let attempt = 0; attempt < 2; attempt++) await assert.rejects(start('large', { ...difficultProfile, syscalls: manyRules }), refusal);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    // A blocked daemon does not end on SIGTERM.
    await daemon.end('SIGKILL');
    await workspace.remove();
  }
});

/** Returns the results of a container's first process from its log. */
async function firstProcessResults(pod: Pod, name: string): Promise<Record<string, number>> {
  const file = join(pod.logDirectory, `${name}.log`);
  await eventually(`${name} has made its calls`, () => readFileSync(file, 'utf8').split('\n').length > calls.length);
  return parseResults(logLines(file).join('\n'));
}
