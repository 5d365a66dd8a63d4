/** CDI devices: the edits of vendors' files to a container, their hooks, and errors. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDeviceFiles } from '../../src/cdi/device-files.ts';
import type { CriDeps } from '../../src/cri/deps.ts';
import { containerStatus } from '../../src/cri/rpc/container/container-status.ts';
import { createContainer } from '../../src/cri/rpc/container/create-container.ts';
import type { ContainerConfig } from '../../src/cri/wire/messages.ts';
import type { NamespaceModes, SandboxSpec } from '../../src/engine/state/spec.ts';
import { fakeDeps, fakeLog } from '../support/cri-fakes.ts';
import { sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const never = new AbortController().signal;
const user = { uids: { hostId: 100_000, length: 65536 }, gids: { hostId: 101_000, length: 65536 } };
const inUserNamespace: NamespaceModes = { network: 'pod', ipc: 'pod', pid: 'container', user };
let host: TestEngine;
let leftoversBefore: string[];
let directory: string;
const log = fakeLog();
let deps: CriDeps;

before(async () => {
  leftoversBefore = findLeftovers();
  host = await startEngine();
  // Root of a pod's user namespace must be able to access the bundle, as below /run.
  chmodSync(host.directory, 0o755);
  directory = join(host.directory, 'cdi');
  const { config, layerDirs, diffIds } = host.image;
  const image = { id: host.image.id, repoTags: ['test'], repoDigests: [], sizeBytes: 1, user: '', isPinned: false };
  const fakes = fakeDeps({ images: [image] });
  const images = { ...fakes.images, findUsable: () => ({ image, config, layerDirs, diffIds }) };
  deps = { ...fakes, items: {} as CriDeps['items'], engine: host.engine, images, devices: createDeviceFiles({ log }, [directory]) };
});
beforeEach(() => {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  log.lines.splice(0);
});
after(async () => {
  await host.end();
  assert.deepEqual(findLeftovers(), leftoversBefore, 'nothing is left');
});

/** Returns mounts and cgroups of this test, to detect leaks. */
function findLeftovers(): string[] {
  const cgroups = readdirSync(existsSync('/sys/fs/cgroup/pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup');
  return [...readFileSync('/proc/self/mounts', 'utf8').split('\n'), ...cgroups.filter((name) => name === `berth-test-${process.pid}`)];
}

/** Returns a CDI file with one device, `v.com/dev=0`. */
function writeDevice(edits: object, ofAll: object = {}): void {
  const file = { cdiVersion: '1.1.0', kind: 'v.com/dev', devices: [{ name: '0', containerEdits: edits }], containerEdits: ofAll };
  writeFileSync(join(directory, 'v.json'), JSON.stringify(file));
}

/** Creates an executable on the host. */
function writeProgram(name: string, script: string): string {
  const path = join(host.directory, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

const asked: ContainerConfig = { CDI_devices: [{ name: 'v.com/dev=0' }] };

async function create(config: ContainerConfig = asked, pod: Partial<SandboxSpec> = {}): Promise<string> {
  const sandbox = await host.engine.runSandbox(sandboxSpec(pod));
  const { namespaces } = host.engine.sandbox(sandbox).record.spec;
  const mapping = (range: { hostId: number; length: number }) => ({ host_id: range.hostId, container_id: 0, length: range.length });
  const userns = namespaces.user && { mode: 'POD' as const, uids: [mapping(namespaces.user.uids)], gids: [mapping(namespaces.user.gids)] };
  const { linux, ...others } = config;
  const request = {
    pod_sandbox_id: sandbox,
    config: {
      metadata: { name: 'main', attempt: 0 },
      image: { image: 'test' },
      command: ['sleep', '1000'],
      linux: {
        security_context: {
          namespace_options: { pid: 'CONTAINER' as const, ...(userns ? { userns_options: userns } : {}) },
          ...linux?.security_context,
        },
      },
      ...others,
    },
  };
  return (await createContainer(deps, request)).container_id ?? '';
}

async function start(config?: ContainerConfig, pod?: Partial<SandboxSpec>): Promise<string> {
  const id = await create(config, pod);
  await host.engine.startContainer(id);
  return id;
}

async function run(id: string, script: string): Promise<string> {
  const { stdout, stderr } = await host.engine.execSync(id, ['sh', '-c', script], 10_000, never);
  return `${stdout}${stderr}`;
}

const allEdits = () => {
  const shared = join(host.directory, 'shared');
  mkdirSync(shared, { recursive: true });
  writeFileSync(join(shared, 'lib'), 'library');
  return {
    env: ['DEVICE=zero', 'EQUALS=a=b'],
    deviceNodes: [
      { path: '/dev/vendor/zero', hostPath: '/dev/zero', permissions: 'r', fileMode: 0o640 },
      { path: '/dev/made', type: 'c', major: 1, minor: 3 },
      { path: '/dev/pipe', type: 'p', fileMode: 0o600 },
    ],
    mounts: [{ hostPath: shared, containerPath: '/usr/lib/vendor', options: ['ro', 'nosuid', 'nodev', 'rbind', 'rprivate'] }],
    additionalGids: [0, 44, 107],
  };
};

for (const [way, config] of [
  ['the field', asked],
  ['an annotation', { annotations: { 'cdi.k8s.io/plugin_0': 'v.com/dev=0' } }],
  ['both, as kubelets do', { ...asked, annotations: { 'cdi.k8s.io/plugin_0': 'v.com/dev=0,v.com/dev=0' } }],
] as const) {
  test(`a device requested by ${way} adds its nodes, mounts, variables and groups`, async () => {
    writeDevice(allEdits(), { env: ['OF_ALL=1', 'DEVICE=none'] });
    const id = await start(config);
    assert.equal(
      await run(id, 'stat -c "%t:%T %a %F" /dev/vendor/zero /dev/made /dev/pipe'),
      '1:5 640 character special file\n1:3 666 character special file\n0:0 600 fifo\n',
    );
    assert.equal(
      await run(id, 'head -c 3 /dev/vendor/zero | md5sum && echo gone > /dev/made && echo $DEVICE $EQUALS $OF_ALL'),
      '693e9af84d3dfcc71e640e005bdc5e2e  -\nzero a=b 1\n',
    );
    assert.match(
      await run(id, 'cat /usr/lib/vendor/lib; touch /usr/lib/vendor/x; id'),
      /^libraryuid=0\S* gid=0\S* groups=\S*44,107\b.*Read-only file system/s,
    );
    const { status, info } = await containerStatus(deps, { container_id: id, verbose: true });
    assert.deepEqual(status?.mounts, [], 'the status shows what was requested');
    assert.deepEqual(JSON.parse(info?.info ?? '').devices, { names: ['v.com/dev=0'], hooks: [] });
  });
}

/** Device nodes cannot be created in a user namespace. */
const allEditsMounted = () => ({ ...allEdits(), deviceNodes: allEdits().deviceNodes.filter(({ path }) => path !== '/dev/made') });

test('a pod in a user namespace gets its devices as bind mounts', async () => {
  writeDevice(allEdits());
  const refused = {
    code: 'FAILED_PRECONDITION',
    message: /device \/dev\/made does not exist on the host, and cannot be created in a user namespace/,
  };
  await assert.rejects(create(asked, { namespaces: inUserNamespace }), refused);
  writeDevice(allEditsMounted());
  const id = await start(asked, { namespaces: inUserNamespace });
  assert.equal(
    await run(id, 'stat -c "%t:%T %F" /dev/vendor/zero && echo gone > /dev/null && stat -c %F /dev/pipe'),
    '1:5 character special file\nfifo\n',
  );
  assert.equal(await run(id, 'cat /usr/lib/vendor/lib; stat -c " %u" /usr/lib/vendor/lib'), 'library 0\n');
});

test('nodes belong to the container user unless the file sets an owner, and a CDI device overrides one requested by path', async () => {
  writeDevice({
    deviceNodes: [
      { path: '/dev/a', hostPath: '/dev/zero' },
      { path: '/dev/b', hostPath: '/dev/zero', uid: 0, gid: 7 },
    ],
  });
  const devices = [{ container_path: '/dev/a', host_path: '/dev/null', permissions: 'r' }];
  const id = await start({ ...asked, devices, linux: { security_context: { run_as_username: 'web' } } });
  assert.equal(await run(id, 'stat -c "%T %u:%g" /dev/a /dev/b'), '5 1000:1001\n5 0:7\n');
});

test('a device whose path is a loop of links is refused with its path, requested or in a file', async () => {
  const loop = join(host.directory, 'loop');
  symlinkSync('loop', loop);
  const devices = [{ container_path: '/dev/a', host_path: loop, permissions: 'r' }];
  await assert.rejects(create({ devices }), { code: 'FAILED_PRECONDITION', message: /device .*loop: .*ELOOP/ });
  writeDevice({ deviceNodes: [{ path: '/dev/a', hostPath: loop }] });
  await assert.rejects(create(), { code: 'FAILED_PRECONDITION', message: /CDI device node .*loop: .*ELOOP/ });
});

test('the file determines the device cgroup rules, also after an update and in a privileged container', async () => {
  // Exists on every kernel, is not a default device, and can be written without a capability.
  const open = 'cat > /dev/kmsg 2>&1 | head -1; true';
  writeDevice({ deviceNodes: [{ path: '/dev/kmsg', permissions: 'none' }] });
  const denied = await start();
  assert.match(await run(denied, open), /Operation not permitted/, 'as before the update');
  writeDevice({ deviceNodes: [{ path: '/dev/kmsg' }] });
  const id = await start();
  assert.doesNotMatch(await run(id, ': > /dev/kmsg 2>&1'), /not permitted/);
  await host.engine.updateResources(id, { cpuShares: 512 });
  assert.doesNotMatch(await run(id, ': > /dev/kmsg 2>&1'), /not permitted/);
  const pod = { isPrivileged: true };
  writeDevice({ deviceNodes: [{ path: '/dev/other', hostPath: '/dev/kmsg' }], env: ['A=b'] });
  const privileged = await start({ ...asked, linux: { security_context: { privileged: true } } }, pod);
  assert.equal(await run(privileged, ': > /dev/other && echo $A'), 'b\n');
});

test('the error lists all unknown devices, the directories and unreadable files; an unreadable file does not affect others and is logged once', async () => {
  writeDevice({ env: ['A=b'] });
  writeFileSync(join(directory, 'bad.yaml'), 'cdiVersion: 1.0.0\nkind: [');
  const CDI_devices = [{ name: 'v.com/dev=0' }, { name: 'v.com/dev=1' }, { name: 'other.com/gpu=all' }];
  const refused = {
    code: 'FAILED_PRECONDITION',
    message: /^CDI devices v\.com\/dev=1, other\.com\/gpu=all: not found in \S+\/cdi; read \S+bad\.yaml: /,
  };
  await assert.rejects(create({ CDI_devices }), refused);
  await assert.rejects(create({ CDI_devices }), refused);
  await assert.rejects(create({ CDI_devices: [{ name: 'gpu0' }] }), { code: 'INVALID_ARGUMENT', message: /"gpu0"/ });
  assert.match(await run(await start(), 'echo $A'), /^b/);
  assert.deepEqual(
    log.lines.map(({ fields }) => fields.path),
    [join(directory, 'bad.yaml')],
  );
});

test('added, changed and removed files take effect for the next container', async () => {
  await assert.rejects(create(), /not found in/);
  writeFileSync(join(directory, 'v.yaml'), 'cdiVersion: "0.6.0"\nkind: v.com/dev\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=b]\n');
  assert.equal(await run(await start(), 'echo $A'), 'b\n');
  writeFileSync(join(directory, 'v.yaml'), 'cdiVersion: "0.6.0"\nkind: v.com/dev\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=c]\n');
  assert.equal(await run(await start(), 'echo $A'), 'c\n');
  writeDevice({});
  await assert.rejects(create(), { code: 'FAILED_PRECONDITION', message: /v\.com\/dev=0 is ambiguous: defined in \S+\/v\.json and \S+\/v\.yaml/ });
  rmSync(directory, { recursive: true });
  await assert.rejects(create(), /not found in/);
});

test('a missing path on the host is an error and is not created', async () => {
  writeDevice({ deviceNodes: [{ path: '/dev/berth-none' }] });
  await assert.rejects(create(), { code: 'FAILED_PRECONDITION', message: /\/dev\/berth-none: no such device/ });
  const path = join(host.directory, 'none');
  writeDevice({ mounts: [{ hostPath: path, containerPath: '/none' }] });
  await assert.rejects(create(), { code: 'FAILED_PRECONDITION', message: /none.*ENOENT/ });
  assert.equal(existsSync(path), false);
  writeDevice({ deviceNodes: [{ path: '/dev/x', hostPath: '/dev/null', type: 'b' }] });
  await assert.rejects(create(), { code: 'FAILED_PRECONDITION', message: /\/dev\/null: type is char on the host, but block in the CDI file/ });
});

for (const [kind, pod, owner] of [
  ['a container', {}, 0],
  ['one in a user namespace', { namespaces: inUserNamespace }, 100_000],
] as const) {
  test(`hooks run in the order of their points on the complete root of ${kind} before its program starts`, async () => {
    const seen = join(host.directory, 'seen');
    rmSync(seen, { force: true });
    writeFileSync(seen, '');
    chmodSync(seen, 0o666);
    // Reads the state from stdin, as vendors' hooks do. Bundle and root are paths of the host, also inside the container's namespaces.
    const hook = writeProgram(
      'hook',
      `state=$(cat)
root=$(echo "$state" | sed 's/.*"root":"\\([^"]*\\)".*/\\1/')
pid=$(echo "$state" | sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
echo "$0 $1 $2 $(pwd | sed 's/.*[/]//' | wc -c) $(grep -c "$root" config.json) pid1=$([ "$pid" = 1 ] && echo yes) proc=$([ -e "$root/proc/1" ] && echo yes) zero=$([ -c "$root/dev/vendor/zero" ] && echo yes) $VAR" >> ${seen}
[ "$1" = createContainer ] && mkdir -p "$root/etc/made" && ln -s /target "$root/etc/made/link" && mount --bind ${host.directory}/hook "$root/proc/version"
[ "$1" = createContainer ] && echo 'cached' > "$root/etc/made/cache"
true`,
    );
    const hookAt = (hookName: string) => ({ hookName, path: hook, args: ['hook', hookName, 'arg'], env: [`VAR=v${hookName}`] });
    const points = ['poststop', 'poststart', 'createContainer', 'createRuntime', 'prestart'];
    writeDevice({ ...allEditsMounted(), hooks: points.map(hookAt) });
    const id = await start({ ...asked, linux: { security_context: { readonly_rootfs: true } } }, pod);
    assert.equal(
      await run(id, 'cat /etc/made/cache && ls -l /etc/made/link | grep -c -- "-> /target" && head -n 1 /proc/version'),
      'cached\n1\n#!/bin/sh\n',
    );
    assert.match(await run(id, 'touch /etc/made/more'), /Read-only file system/);
    assert.equal(await run(id, `ls -d ${host.directory} 2>&1 | grep -c "No such file"`), '1\n', "the host's tree is gone");
    assert.equal(await run(id, 'grep -c rootfs /proc/self/mounts; true'), '0\n');
    await host.engine.removeContainer(id);
    const line = (point: string, rest: string) => `${hook} ${point} arg 65 1 ${rest} v${point}`;
    const outside = 'pid1= proc= zero=';
    assert.deepEqual(readFileSync(seen, 'utf8').trim().split('\n'), [
      line('prestart', outside),
      line('createRuntime', outside),
      line('createContainer', 'pid1=yes proc=yes zero=yes'),
      line('poststart', outside),
      line('poststop', outside),
    ]);
    assert.equal(statSync(seen).uid, 0);
    assert.ok(owner >= 0);
  });
}

test('a hook that fails or times out fails the start with its output, and its processes are killed', async () => {
  const failing = writeProgram('failing', 'echo first; echo "no driver" >&2; exit 3');
  writeDevice({ hooks: [{ hookName: 'createContainer', path: failing }] });
  const id = await create();
  const text = /hook createContainer \S+failing: exit code 3: first; no driver$/;
  await assert.rejects(host.engine.startContainer(id), { code: 'FAILED_PRECONDITION', message: text });
  assert.equal(host.engine.container(id).status.reason, 'StartError');
  assert.match(host.engine.container(id).status.message ?? '', text);
  const late = writeProgram('late', 'sleep 98765 & exec sleep 98765');
  for (const hookName of ['createContainer', 'createRuntime']) {
    writeDevice({ hooks: [{ hookName, path: late, timeout: 1 }] });
    await assert.rejects(start(), { code: 'DEADLINE_EXCEEDED', message: /late: timeout after 1 s; killed/ });
    for (let tries = 0; tries < 100 && sleepers().length > 0; tries++) await sleep(20);
    assert.deepEqual(sleepers(), [], hookName);
  }
  writeDevice({ hooks: [{ hookName: 'createRuntime', path: '/none/such' }] });
  await assert.rejects(start(), { code: 'FAILED_PRECONDITION', message: /hook createRuntime \/none\/such: start "\/none\/such": .*ENOENT/ });
});

function sleepers(): string[] {
  const { stdout } = spawnSync('grep', [
    '-lzx',
    '98765',
    ...readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [`/proc/${name}/cmdline`] : [])),
  ]);
  return String(stdout).trim().split('\n').filter(Boolean);
}

test('failing poststart and poststop hooks do not affect the container', async () => {
  const failing = writeProgram('failing', 'exit 1');
  writeDevice({ hooks: ['poststart', 'poststop'].map((hookName) => ({ hookName, path: failing })) });
  const id = await start();
  assert.equal(await run(id, 'echo there'), 'there\n');
  await host.engine.removeContainer(id);
});
