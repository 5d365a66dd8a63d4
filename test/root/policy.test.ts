/**
 * What a container may do, read in containers of a real daemon: devices, seccomp, capabilities, groups, sysctls, cgroups. Attacks are harmless.
 */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { buildImage, buildLayer } from '../../scripts/image-builder.ts';
import { serveRegistry } from '../../scripts/mini-registry.ts';
import { capabilityNames } from '../../src/engine/plan/capabilities.ts';
import { enterIsolation } from '../support/isolation.ts';
import { capabilitySets, dumpFilter } from '../support/seccomp-dump.ts';
import { type Answers, expand, type Table, tabulate } from '../support/seccomp-table.ts';
import { staticProgram } from '../support/static-program.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon } from './support/daemon.ts';
import { detailsOf, eventually, exec, logLines, type Pod, pullSample, runContainer, runPod, statusOf } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const workspace = createWorkspace();
let daemon: Daemon;
let image: string;
let pod: Pod | undefined;

before(async () => {
  if (skip) return;
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
  pod = await runPod(daemon.client, 'policy', workspace.directory);
});

after(async () => {
  if (pod !== undefined) await removePod(pod);
  if (daemon !== undefined) await daemon.end('SIGTERM');
  await workspace.remove();
});

async function removePod({ id }: Pod): Promise<void> {
  for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: id });
}

/** Fetched by pullSample(). */
const busyboxFile = join(import.meta.dirname, '../../build/sample/busybox');

const runtimeDefault = { seccomp: { profile_type: 'RuntimeDefault' } };
const idle = 'exec sleep 1000';
const run = (name: string, script: string, security_context: Message = {}, changes: Message = {}) =>
  runContainer(daemon.client, pod as Pod, image, name, script, { linux: { security_context }, ...changes });
const logOf = (name: string) => `${(pod as Pod).logDirectory}/${name}.log`;

/** Runs a script as a container's only process. @returns its output. */
async function outputOf(name: string, script: string, security_context: Message = {}, changes: Message = {}): Promise<string> {
  const id = await run(name, `${script}; echo end`, security_context, changes);
  await eventually(`${name} has ended`, async () => (await statusOf(daemon.client, id)).state === 'CONTAINER_EXITED');
  const lines = logLines(logOf(name));
  assert.equal(lines.pop(), 'end');
  return lines.join('\n');
}

/** The message starts with the number and the name of the gRPC code. */
const refusal = (code: string, message: RegExp) => ({ message: new RegExp(`^\\d+ ${code}: .*(${message.source})`) });

test("the host's console cannot be opened, and a terminal container has a console of its own", { skip }, async () => {
  const open = 'mknod /tmp/console c 5 1 && timeout 5 cat /tmp/console 2>&1; mknod /tmp/null c 1 3 && cat /tmp/null && echo null opened';
  const output = await outputOf('console', open, { capabilities: { add_capabilities: ['MKNOD'] } });
  assert.equal(output, "cat: can't open '/tmp/console': Operation not permitted\nnull opened");
  const id = await run('terminal', `echo to the console > /dev/console; ls -l /dev/console; ${idle}`, {}, { tty: true });
  assert.match(await exec(daemon.client, id, 'sh', '-c', 'ls -l /dev/console; echo x > /dev/console'), / 136,/);
  await eventually('the console has been written', () => readFileSync(logOf('terminal'), 'utf8').includes('to the console'));
});

type Peer = Readonly<Record<keyof typeof capabilitySets, Table>>;
const peer = JSON.parse(readFileSync(new URL('../data/seccomp-peer.json', import.meta.url), 'utf8')) as Peer;

/** Returns the values that get different answers, as `<own answer>, peer <answer>: <values>`. */
function differences(own: Answers, others: Answers): Record<string, string[]> {
  const expected = expand(others);
  const result: Record<string, string[]> = {};
  for (const [value, answer] of expand(own)) {
    if (answer === expected.get(value)) continue;
    const key = `${answer}, peer ${expected.get(value)}`;
    result[key] ??= [];
    result[key].push(String(value));
  }
  return result;
}

const skipFilters = skip || (process.arch !== 'x64' && 'the table is for x86-64');
test("each of 1803 system calls gets the answer of containerd's default profile in runc, or a stricter one", { skip: skipFilters }, async () => {
  const held = BigInt(`0x${/CapBnd:\s*(\S+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`);
  for (const [name, names] of Object.entries(capabilitySets) as [keyof Peer, readonly string[]][]) {
    const add = names.filter((each) => (held >> BigInt(capabilityNames.indexOf(each as 'CHOWN'))) & 1n);
    const capabilities = { drop_capabilities: ['ALL'], add_capabilities: add };
    const id = await run(`filter-${name}`, idle, { ...runtimeDefault, capabilities });
    const table = tabulate(dumpFilter((await detailsOf(daemon.client, id)).pid));
    // socket and socketpair of family 0: below.
    const numbers = { 'EPERM, peer allow': ['41', '53'] };
    assert.deepEqual(differences(table.numbers.x86_64, peer[name].numbers.x86_64), numbers, name);
    assert.deepEqual(differences(table.numbers.i386, peer[name].numbers.i386), { 'EPERM, peer allow': ['359', '360'] }, name);
    // runc looks for newer calls only above the largest number, which is one of x32's variants of old calls.
    const newer = Array.from({ length: 512 - 467 }, (_, i) => String(467 + i));
    assert.deepEqual(differences(table.numbers.x32, peer[name].numbers.x32), { ...numbers, 'ENOSYS, peer EPERM': newer }, name);
    for (const call of ['personality', 'clone'] as const)
      assert.deepEqual(differences(table.firstArgument[call] ?? {}, peer[name].firstArgument[call] ?? {}), {}, `${name}: ${call}`);
    // AF_UNIX, INET, INET6, NETLINK, PACKET, also with a higher bit, which the kernel ignores.
    const families = ['1-2', '10', '16-17', '4294967297-4294967298', '4294967306', '4294967312-4294967313'].join(',');
    for (const call of ['socket', 'socketpair']) assert.equal(table.firstArgument[call]?.['allow'], families, `${name}: ${call}`);
  }
});

test('sockets of AF_ALG and AF_VSOCK cannot be created, in the first process and in an exec (CVE-2026-31431)', { skip: skipFilters }, async () => {
  const probes = `${workspace.directory}/probes`;
  mkdirSync(probes);
  copyFileSync(staticProgram(join(import.meta.dirname, 'seccomp-probe.c')), `${probes}/probe`);
  const mounts = [{ host_path: probes, container_path: '/probes', readonly: true }];
  const calls = ['64:41:38:5:0', '64:41:0x100000026:5:0', '64:41:40:1:0', '64:53:38:5:0', '32:359:38:5:0', 'x32:41:38:5:0', '64:600', '64:41:1:1:0'];
  const probe = `/probes/probe - 0 ${calls.join(' ')}`;
  const id = await run('families', `${probe}; ${idle}`, runtimeDefault, { mounts });
  const check = (lines: readonly string[]) => {
    assert.deepEqual(lines.slice(0, -1).map(Number), [-1, -1, -1, -1, -1, -1, -38]);
    assert.ok(Number(lines.at(-1)) > 2);
  };
  await eventually('the calls were made', () => readFileSync(logOf('families'), 'utf8').split('\n').length > calls.length);
  check(logLines(logOf('families')));
  check((await exec(daemon.client, id, ...probe.split(' '))).trim().split('\n'));
});

test('an unknown profile type of seccomp or AppArmor is refused, not taken for the default', { skip }, async () => {
  for (const field of ['seccomp', 'apparmor']) {
    const context = { [field]: { profile_type: 99 } };
    await assert.rejects(run(`unknown-${field}`, idle, context), refusal('INVALID_ARGUMENT', new RegExp(`${field}.profile_type: unknown type 99`)));
    const changes = { linux: { security_context: context } };
    await assert.rejects(runPod(daemon.client, `unknown-${field}`, workspace.directory, changes), refusal('INVALID_ARGUMENT', /unknown type 99/));
  }
});

/** Returns the sets of the process that runs the script, by the kernel's names without `Cap`. */
const printCapabilities = "grep -E '^Cap' /proc/self/status";
const parseCapabilities = (text: string) =>
  Object.fromEntries([...text.matchAll(/^Cap(\w+):\s+(\S+)$/gm)].map(([, set = '', value = '']) => [set, BigInt(`0x${value}`)]));
const maskOf = (...names: (typeof capabilityNames)[number][]) =>
  names.reduce((mask, name) => mask | (1n << BigInt(capabilityNames.indexOf(name))), 0n);

test('the inheritable set is empty, and ambient capabilities exist only on request (CVE-2022-24769)', { skip }, async () => {
  const standard = maskOf(...(capabilitySets.standard as (typeof capabilityNames)[number][]));
  const [bind, none] = [maskOf('NET_BIND_SERVICE'), 0n];
  const root = { Inh: none, Prm: standard, Eff: standard, Bnd: standard, Amb: none };
  const user = { ...root, Prm: none, Eff: none };
  const only = { Inh: none, Prm: bind, Eff: bind, Bnd: bind, Amb: none };
  const cases: [string, Message, Record<string, bigint>][] = [
    ['root', {}, root],
    ['user', { run_as_user: { value: '1000' } }, user],
    ['dropped', { capabilities: { drop_capabilities: ['ALL'], add_capabilities: ['NET_BIND_SERVICE'] } }, only],
    [
      'ambient',
      { run_as_user: { value: '1000' }, capabilities: { drop_capabilities: ['ALL'], add_ambient_capabilities: ['NET_BIND_SERVICE'] } },
      { Inh: bind, Prm: bind, Eff: bind, Bnd: bind, Amb: bind },
    ],
  ];
  for (const [name, context, expected] of cases) {
    const id = await run(`capabilities-${name}`, `${printCapabilities}; ${idle}`, context);
    await eventually('the sets are printed', () => readFileSync(logOf(`capabilities-${name}`), 'utf8').includes('CapAmb'));
    assert.deepEqual(parseCapabilities(logLines(logOf(`capabilities-${name}`)).join('\n')), expected, name);
    assert.deepEqual(parseCapabilities(await exec(daemon.client, id, 'sh', '-c', printCapabilities)), expected, `exec in ${name}`);
  }
});

test('ALL and privileged mean all capabilities that the node can grant; a named one that it cannot is left out, an unknown one refused', {
  skip,
}, async () => {
  const held = parseCapabilities(readFileSync('/proc/self/status', 'utf8'))['Bnd'] ?? 0n;
  const known = maskOf(...capabilityNames) & held;
  const all = { capabilities: { add_capabilities: ['ALL'] } };
  assert.equal(parseCapabilities(await outputOf('all', printCapabilities, all))['Eff'], known);
  const missing = capabilityNames.find((_, number) => !((held >> BigInt(number)) & 1n));
  if (missing !== undefined) {
    const add = { capabilities: { add_capabilities: [missing] } };
    const ordinary = parseCapabilities(await outputOf('ordinary', printCapabilities, {}));
    assert.deepEqual(parseCapabilities(await outputOf('missing', printCapabilities, add)), ordinary);
  }
  const dropped = { capabilities: { drop_capabilities: ['NO_SUCH', 'KILL'] } };
  assert.equal((parseCapabilities(await outputOf('dropped', printCapabilities, dropped))['Bnd'] ?? 0n) & maskOf('KILL'), 0n);
  const unknown = { capabilities: { add_capabilities: ['NO_SUCH'] } };
  await assert.rejects(run('unknown', idle, unknown), refusal('INVALID_ARGUMENT', /add capability "NO_SUCH": unknown capability/));
});

/** The lines of /proc/self/status, as `uid:gid:groups`. */
const printIds = 'echo $(id -u):$(id -g):$(grep ^Groups: /proc/self/status | cut -f2)';

test('the primary group is among the supplementary groups, in the first process and in an exec (CVE-2023-25173)', { skip }, async () => {
  const cases: [string, Message, string][] = [
    ['root', {}, '0:0:0'],
    ['number', { run_as_user: { value: '1000' } }, '1000:0:0'],
    ['group', { run_as_user: { value: '1000' }, run_as_group: { value: '3000' } }, '1000:3000:3000'],
    [
      'groups',
      { run_as_user: { value: '1000' }, run_as_group: { value: '3000' }, supplemental_groups: ['4000', '5000'] },
      '1000:3000:3000 4000 5000',
    ],
    ['largest', { run_as_user: { value: '4294967294' }, run_as_group: { value: '4294967294' } }, '4294967294:4294967294:4294967294'],
  ];
  for (const [name, context, expected] of cases) {
    const id = await run(`ids-${name}`, `${printIds}; ${idle}`, context);
    await eventually('the ids are printed', () => readFileSync(logOf(`ids-${name}`), 'utf8').includes(':'));
    assert.deepEqual(
      [logLines(logOf(`ids-${name}`))[0]?.trim(), (await exec(daemon.client, id, 'sh', '-c', printIds)).trim()],
      [expected, expected],
      name,
    );
  }
});

test('an id that does not fit is refused, from the request and from the image, and is never root (CVE-2024-40635)', { skip }, async () => {
  for (const value of ['-1', '4294967295', '4294967296', '9223372036854775807']) {
    await assert.rejects(run(`uid${value}`, idle, { run_as_user: { value } }), refusal('INVALID_ARGUMENT', /run_as_user/), value);
    const group = { run_as_user: { value: '1' }, run_as_group: { value } };
    await assert.rejects(run(`gid${value}`, idle, group), refusal('INVALID_ARGUMENT', /run_as_group/), value);
    await assert.rejects(run(`groups${value}`, idle, { supplemental_groups: [value] }), refusal('INVALID_ARGUMENT', /supplemental_groups/), value);
  }
  const refusedUsers = [
    '4294967297',
    '4294967296',
    '4294967295',
    '-1',
    '18446744073709551616',
    '0:4294967296',
    '0:-1',
    '1e3',
    '0x0',
    ' 0',
    '+0',
    '0:0:0',
  ];
  const busybox = await buildLayer([{ kind: 'file', path: 'bin/sh', data: readFileSync(busyboxFile), mode: 0o755 }]);
  const users = [...refusedUsers, '2147483648:2147483648'];
  const images = await Promise.all(users.map((User) => buildImage([busybox], { User, Cmd: ['sh'] })));
  const registry = await serveRegistry(new Map(images.map((each, i) => [`ids/u${i}:1`, each])));
  try {
    const names = users.map((_, i) => `${registry.host}/ids/u${i}:1`);
    for (const [i, name] of names.entries()) {
      await daemon.client.call('PullImage', { image: { image: name } });
      const start = runContainer(
        daemon.client,
        pod as Pod,
        name,
        `image-user-${i}`,
        'while read line; do case $line in Uid:*|Gid:*) echo $line;; esac; done < /proc/self/status',
      );
      const { image: shown } = await daemon.client.call<{ image: Message }>('ImageStatus', { image: { image: name } });
      // What is no id is a name, which the kubelet refuses if the pod must not run as root.
      const isId = /^\d+$/.test(users[i]?.split(':')[0] ?? '') && Number(users[i]?.split(':')[0]) < 2 ** 32 - 1;
      assert.equal(shown['username'], isId ? '' : users[i]?.split(':')[0], users[i]);
      if (i < refusedUsers.length) await assert.rejects(start, refusal('INVALID_ARGUMENT', /user|group/), users[i]);
      else await start;
    }
    const log = logOf(`image-user-${users.length - 1}`);
    await eventually('the ids are printed', () => readFileSync(log, 'utf8').includes('Gid:'));
    const id = '2147483648';
    assert.deepEqual(
      logLines(log),
      ['Uid:', 'Gid:'].map((what) => [what, id, id, id, id].join(' ')),
    );
  } finally {
    registry.stop();
  }
});

test("sysctls reach only the pod's own namespaces, and none sets a second one (CVE-2022-0811)", { skip }, async () => {
  const node = () => ['kernel/core_pattern', 'kernel/domainname', 'net/core/somaxconn'].map((name) => readFileSync(`/proc/sys/${name}`, 'utf8'));
  const before = node();
  const sysctls = {
    'net.core.somaxconn': '77',
    'net/ipv4/conf/lo/forwarding': '1',
    'kernel.shm_rmid_forced': '1',
    'kernel.domainname': 'pod.example',
  };
  const own = await runPod(daemon.client, 'sysctls', workspace.directory, { linux: { sysctls } });
  const files = ['net/core/somaxconn', 'net/ipv4/conf/lo/forwarding', 'kernel/shm_rmid_forced', 'kernel/domainname'];
  const id = await runContainer(daemon.client, own, image, 'reader', idle);
  assert.equal(await exec(daemon.client, id, 'sh', '-c', `cd /proc/sys; cat ${files.join(' ')}`), '77\n1\n1\npod.example\n');
  await removePod(own);
  const invalid: [Message, RegExp][] = [
    [{ 'kernel.shm_rmid_forced+kernel.core_pattern': '|/bin/x' }, /invalid name/],
    [{ 'kernel.shm_rmid_forced=1 kernel.core_pattern': '|/bin/x' }, /invalid name/],
    [{ 'net.ipv4.conf.default/../../../../kernel/core_pattern': 'x' }, /invalid name|is not namespaced/],
    [{ '/proc/sys/kernel/core_pattern': 'x' }, /invalid name/],
    [{ 'net/../kernel/core_pattern': 'x' }, /invalid name/],
    [{ 'kernel.shm_rmid_forced': '1\nkernel.core_pattern=x' }, /control character/],
    [{ 'kernel.core_pattern': '|/bin/x' }, /kernel.core_pattern is not namespaced/],
    [{ 'kernel.hostname': 'x' }, /set the hostname of the sandbox/],
    [{ 'user.max_user_namespaces': '1' }, /user.max_user_namespaces would change the node/],
    [{ 'net.core.somaxconn': '1', 'net/core/somaxconn': '2' }, /set twice/],
  ];
  for (const [values, message] of invalid) {
    const attempt = runPod(daemon.client, 'bad-sysctls', workspace.directory, { linux: { sysctls: values } });
    await assert.rejects(attempt, refusal('INVALID_ARGUMENT', message), JSON.stringify(values));
  }
  // Accepted names whose value the kernel refuses: the value is one, whatever it contains.
  const plus = runPod(daemon.client, 'plus', workspace.directory, { linux: { sysctls: { 'kernel.shm_rmid_forced': '1+kernel.core_pattern=x' } } });
  await assert.rejects(plus, /INVALID_ARGUMENT.*set sysctl kernel.shm_rmid_forced to 1\+kernel.core_pattern=x: /);
  assert.deepEqual(node(), before);
});

test('a pod with a user namespace sets sysctls of that namespace and of its others, and a value that the kernel refuses fails', {
  skip,
}, async () => {
  const mapping = [{ container_id: 0, host_id: 131072, length: 65536 }];
  const security_context = { namespace_options: { userns_options: { mode: 'POD', uids: mapping, gids: mapping } } };
  const node = () => ['user/max_user_namespaces', 'kernel/domainname'].map((name) => readFileSync(`/proc/sys/${name}`, 'utf8'));
  const before = node();
  const podWith = (sysctls: Record<string, string>) => runPod(daemon.client, 'userns', workspace.directory, { linux: { security_context, sysctls } });
  const mapped = await podWith({ 'user.max_user_namespaces': '7', 'net.core.somaxconn': '77', 'kernel.domainname': 'pod.example' });
  const id = await runContainer(daemon.client, mapped, image, 'reader', idle, { linux: { security_context } });
  assert.equal(
    await exec(daemon.client, id, 'sh', '-c', 'cd /proc/sys; cat user/max_user_namespaces net/core/somaxconn kernel/domainname'),
    '7\n77\npod.example\n',
  );
  await removePod(mapped);
  assert.deepEqual(node(), before);
  // __NEW_UTS_LEN is 64.
  await assert.rejects(podWith({ 'kernel.domainname': 'x'.repeat(65) }), /set sysctl kernel.domainname to x{65}: .*EINVAL/);
});

test('labels for SELinux are ignored on a node without it, as is a request to relabel; the log names containers that asked for confinement', {
  skip: skip || (existsSync('/sys/fs/selinux/enforce') && 'has SELinux'),
}, async () => {
  const mounts = [{ host_path: workspace.directory, container_path: '/w', selinux_relabel: true, readonly: true }];
  for (const [name, selinux_options] of [
    ['label-spc', { type: 'spc_t', level: 's0:c1,c2' }],
    ['label-empty', {}],
    ['label-type', { type: 'container_t' }],
    ['label-level', { level: 's0:c1,c2' }],
  ] as const)
    assert.equal(await outputOf(name, 'echo ran', { selinux_options }, { mounts }), 'ran');
  const warned = readFileSync(workspace.logFile, 'utf8').matchAll(/"name":"(label-[a-z]+)","msg":"SELinux label ignored/g);
  assert.deepEqual(
    [...warned].map(([, name]) => name),
    ['label-type', 'label-level'],
  );
  await assert.rejects(run('level', idle, { selinux_options: { level: 's0:c9999' } }), refusal('INVALID_ARGUMENT', /selinux_options.level/));
});

test('a privileged container sees its own part of each v1 hierarchy, and the whole v2 hierarchy', { skip }, async () => {
  const security_context = { privileged: true };
  const privileged = await runPod(daemon.client, 'privileged', workspace.directory, { linux: { security_context } });
  const id = await runContainer(daemon.client, privileged, image, 'privileged', idle, { linux: { security_context } });
  const isV2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  const inside = (script: string) => exec(daemon.client, id, 'sh', '-c', `cd /sys/fs/cgroup; ${script}`);
  assert.equal(await inside('find . -name release_agent'), '');
  // Only the root of a v2 hierarchy does not have it.
  if (isV2) assert.equal(await inside('test -e cgroup.type || echo root'), 'root\n');
  else {
    const script =
      'for each in */; do grep -qx $$ $each/cgroup.procs && mkdir $each/own && rmdir $each/own && echo own || echo $each; done | sort | uniq';
    assert.equal(await inside(script), 'own\n');
  }
  await removePod(privileged);
});
