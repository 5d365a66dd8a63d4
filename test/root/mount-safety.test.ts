/**
 * Mounts of containers started through the daemon: hostile images and volumes redirect none of them, and no mount shares a peer group with the host.
 *
 * Each class of attack is named after the first of its CVEs. The payloads are harmless.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { buildLayer, type Entry, type RunConfig } from '../../scripts/image-builder.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { enterIsolation } from '../support/isolation.ts';
import { staticProgram } from '../support/static-program.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { exec, type Pod, pullImage, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

let workspace: Workspace;
let daemon: Daemon;
let sample: string;
let pod: Pod;
let count = 0;

before(async () => {
  if (skip) return;
  // As on a host with systemd. The daemon clones mounts of these peer groups.
  execFileSync('mount', ['--make-rshared', '/']);
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  sample = await pullSample(daemon.client);
  pod = await runPod(daemon.client, 'hostile', workspace.directory);
});
after(async () => {
  if (skip) return;
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

const masked_paths = ['/proc/keys', '/proc/timer_list', '/proc/kcore', '/sys/firmware', '/proc/acpi'];
const readonly_paths = ['/proc/sys', '/proc/irq'];
const runtimeDefault = { seccomp: { profile_type: 'RuntimeDefault' }, masked_paths, readonly_paths };
const bind = (host_path: string, container_path: string, changes: Message = {}): Message => ({ host_path, container_path, ...changes });

/** Creates an empty directory on the host, for a volume. */
function directory(): string {
  const path = join(workspace.directory, `volume-${++count}`);
  mkdirSync(path);
  return path;
}

async function imageWith(entries: readonly Entry[], config: RunConfig = {}): Promise<string> {
  return pullImage(daemon.client, `berth/hostile${++count}:1`, await buildSampleImage([await buildLayer(entries)], config));
}
const link = (path: string, target: string): Entry => ({ kind: 'symlink', path, target });

type Request = {
  readonly image?: string;
  readonly mounts?: readonly Message[];
  readonly devices?: readonly Message[];
  readonly cdi?: readonly string[];
  readonly security?: Message;
  readonly tty?: boolean;
  readonly pod?: Pod;
  readonly script?: string;
};

async function start(request: Request = {}): Promise<string> {
  const { image = sample, mounts = [], devices = [], cdi = [], security = {}, tty = false, script = 'sleep 1000' } = request;
  const security_context = { ...runtimeDefault, ...security };
  const changes = { mounts, devices, CDI_devices: cdi.map((name) => ({ name })), tty, linux: { security_context } };
  return runContainer(daemon.client, request.pod ?? pod, image, `c${++count}`, script, changes);
}

async function assertRefused(request: Request, code: RegExp, message: RegExp): Promise<void> {
  await assert.rejects(start(request), (error) => {
    const text = String(error);
    assert.match(text, code);
    assert.match(text, message);
    assert.doesNotMatch(text, /register|assert|\n\s+at /i, 'no internal text reaches the caller');
    return true;
  });
}

const run = (id: string, script: string) => exec(daemon.client, id, 'sh', '-c', script);
const mountinfo = () => readFileSync('/proc/self/mountinfo', 'utf8');

/** Asserts that masked files are the null device, that masked directories are empty, and that nothing below /proc/sys is writable. */
async function assertMasked(id: string): Promise<void> {
  const files = ['/proc/keys', '/proc/timer_list', '/proc/kcore'].filter((path) => existsSync(path));
  for (const path of files) assert.equal(await run(id, `stat -c '%F %t,%T' ${path}; cat ${path}`), 'character special file 1,3\n', path);
  assert.equal(await run(id, 'ls -A /sys/firmware'), '');
  await assert.rejects(run(id, 'echo x > /proc/sys/kernel/domainname'), /Read-only/);
}

test('CVE-2025-31133: masks do not come from the /dev/null of a volume or an image', { skip }, async () => {
  const dev = directory();
  writeFileSync(join(dev, 'null'), 'not null', { mode: 0o666 });
  const id = await start({ mounts: [bind(dev, '/dev')] });
  await assertMasked(id);
  const linked = directory();
  symlinkSync('/proc/sys/kernel/domainname', join(linked, 'null'));
  await assertMasked(await start({ mounts: [bind(linked, '/dev')] }));
  const fifo = directory();
  execFileSync('mkfifo', [join(fifo, 'null')]);
  await assertMasked(await start({ mounts: [bind(fifo, '/dev')] }));
  await assert.rejects(run(id, 'chmod 600 /proc/keys'), /Read-only/, "the host's node cannot be changed through a mask");
  assert.equal(statSync('/dev/null').mode & 0o777, 0o666);
});

test('a masked path that a volume hides leaves no other path unmasked, and paths are compared without `..` and slashes', { skip }, async () => {
  const image = await imageWith([
    { kind: 'file', path: 'a/secret/x', data: 'secret' },
    { kind: 'file', path: 'b/secret/x', data: 'secret' },
    { kind: 'file', path: 'a/file', data: 'secret' },
    { kind: 'file', path: 'b/file', data: 'secret' },
  ]);
  const masked = { masked_paths: ['/a/secret', '/a/file', '/b/secret', '/b/file', '/proc//keys', '/proc/../proc/timer_list/'], readonly_paths };
  const id = await start({ image, mounts: [bind(directory(), '/a')], security: masked });
  assert.equal(await run(id, 'ls -A /b/secret; cat /b/file /proc/keys /proc/timer_list'), '');
});

test('CVE-2019-16884: a volume that the image declares on or above /proc uncovers nothing', { skip }, async () => {
  const Volumes = { '/proc': {}, '/proc/sys': {}, '/sys': {}, '/': {}, '/tmp': {} };
  const id = await start({ image: await imageWith([], { Volumes }), security: { readonly_rootfs: true } });
  await assertMasked(id);
  await run(id, 'touch /tmp/writable');
  await assert.rejects(run(id, 'touch /new'), /Read-only/);
});

test('CVE-2019-19921: an image whose /proc, /sys or /dev is a link is refused, with or without a volume there', { skip }, async () => {
  const volume = directory();
  for (const [name, target] of [
    ['proc', '/volume/proc'],
    ['sys', 'volume'],
    ['dev', '/sys'],
    ['dev', '/volume'],
  ] as const) {
    const image = await imageWith([link(name, target)]);
    const refusal = new RegExp(`mount on /${name}: must be a directory in the image, but is a symbolic link`);
    await assertRefused({ image, mounts: [bind(volume, '/volume')] }, /FAILED_PRECONDITION/, refusal);
    await assertRefused({ image, mounts: [bind(volume, `/${name}`)] }, /FAILED_PRECONDITION|INVALID_ARGUMENT/, /mount on/);
  }
  assert.deepEqual(readdirSync(volume), []);
});

test('CVE-2026-41579: an image whose /dev is a link to a directory of the host removes and creates nothing there', { skip }, async () => {
  const host = directory();
  const volume = directory();
  const names = ['console', 'core', 'fd', 'null', 'ptmx', 'stdin'];
  for (const at of [host, volume]) for (const name of names) writeFileSync(join(at, name), name);
  mkdirSync('/run/cdi', { recursive: true });
  const hooks = ['createRuntime', 'createContainer'].map((hookName) => ({ hookName, path: '/bin/true' }));
  const device = { cdiVersion: '0.6.0', kind: 'berth.test/dev', devices: [{ name: 'hook', containerEdits: { hooks } }] };
  writeFileSync('/run/cdi/dev.json', JSON.stringify(device));
  const requests: Request[] = [
    {},
    { tty: true },
    { devices: [{ host_path: '/dev/zero', container_path: '/dev/zero', permissions: 'r' }] },
    // The root is then attached in the host's tree while the hooks run.
    { cdi: ['berth.test/dev=hook'] },
    { mounts: [bind(volume, '/dev/shm')] },
  ];
  for (const target of [host, `../../../../../..${host}`, `/proc/self/root${host}`, `/proc/self/cwd/../../../../..${host}`]) {
    const image = await imageWith([link('dev', target)]);
    const refusal = /mount on \/dev: must be a directory in the image, but is a symbolic link/;
    for (const request of requests) await assertRefused({ ...request, image }, /FAILED_PRECONDITION/, refusal);
  }
  // A container of another image can still be started with the hook, and its own /dev has the names that the attack looks for.
  const id = await start({ cdi: ['berth.test/dev=hook'] });
  assert.match(await run(id, 'readlink /dev/ptmx'), /pts\/ptmx/);
  for (const at of [host, volume]) {
    assert.deepEqual(readdirSync(at).sort(), names);
    for (const name of names) assert.equal(readFileSync(join(at, name), 'utf8'), name);
  }
});

test('CVE-2023-27561: a volume on /proc must be a proc file system, and only files that programs replace can be mounted below', {
  skip,
}, async () => {
  const volume = directory();
  writeFileSync(join(volume, 'file'), 'emulated\n');
  const into = await imageWith([link('into', '/proc/self/attr'), link('proclink', '/proc')]);
  for (const [path, source] of [
    ['/proc', volume],
    ['/proc/self', volume],
    ['/proc/sys/kernel', volume],
    ['/proc/self/attr/apparmor', volume],
    ['/proc/sys/kernel/core_pattern', join(volume, 'file')],
    ['/x/../proc/1', volume],
    ['/into/apparmor', volume],
    ['/proclink', volume],
  ] as const)
    await assertRefused({ image: into, mounts: [bind(source, path)] }, /INVALID_ARGUMENT/, /below \/proc|proc file system/);
  const id = await start({ mounts: [bind(join(volume, 'file'), '/proc/uptime')] });
  assert.equal(await run(id, 'cat /proc/uptime'), 'emulated\n');
  await assertMasked(await start({ mounts: [bind('/proc', '/proc')] }));
});

test('CVE-2025-52881: a link in a volume cannot lead a mount to /proc or /sys', { skip }, async () => {
  const volume = directory();
  symlinkSync('/proc/self', join(volume, 'self'));
  symlinkSync('/sys/kernel', join(volume, 'kernel'));
  const source = directory();
  writeFileSync(join(source, 'file'), '');
  const mounts = (path: string, from = source) => ({ mounts: [bind(volume, '/volume'), bind(from, path)] });
  await assertRefused(mounts('/volume/self/attr'), /FAILED_PRECONDITION/, /mount on \/volume\/self\/attr/);
  await assertRefused(mounts('/volume/kernel'), /FAILED_PRECONDITION/, /mount on \/volume\/kernel/);
  await assertRefused(mounts('/volume/self/attr/exec', join(source, 'file')), /FAILED_PRECONDITION/, /mount on \/volume\/self/);
});

test('a mount below a read-only one that has nothing there is refused, and both are named; one that exists is mounted', { skip }, async () => {
  const [outer, inner] = [directory(), directory()];
  writeFileSync(join(inner, 'word'), 'inner\n');
  mkdirSync(join(outer, 'there'));
  const within = (...paths: readonly string[]) => ({ mounts: [bind(outer, '/m', { readonly: true }), ...paths.map((path) => bind(inner, path))] });
  const named = /mount on \/m\/sub: the mount on \/m is read-only and has no \/sub/;
  for (const readonly_rootfs of [false, true]) {
    const security = { readonly_rootfs };
    await assertRefused({ ...within('/m/sub'), security }, /FAILED_PRECONDITION/, named);
    await assertRefused(
      { mounts: [bind(outer, '/m', { readonly: true }), bind(join(inner, 'word'), '/m/sub')], security },
      /FAILED_PRECONDITION/,
      named,
    );
    assert.equal(await run(await start({ ...within('/m/there'), security }), 'cat /m/there/word'), 'inner\n');
  }
  // The nearest mount counts, and a link of the image does not hide it.
  const writable = directory();
  await run(await start({ mounts: [...within().mounts, bind(writable, '/m/there'), bind(inner, '/m/there/sub')] }), 'cat /m/there/sub/word');
  const linked = await imageWith([link('l', '/m')]);
  await assertRefused({ image: linked, ...within('/l/sub') }, /FAILED_PRECONDITION/, named);
  // So do the files that every container has.
  await assertRefused(
    { mounts: [bind(outer, '/etc', { readonly: true })] },
    /FAILED_PRECONDITION/,
    /mount on \/etc\/host.*: the mount on \/etc is read-only/,
  );
  assert.deepEqual(readdirSync(outer), ['there']);
});

test('CVE-2025-52565: the console is never mounted on another file, and a terminal is one of a devpts', { skip }, async () => {
  const dev = directory();
  mkdirSync(join(dev, 'pts'));
  for (const name of ['shm', 'mqueue']) mkdirSync(join(dev, name));
  symlinkSync('/proc/sys/kernel/domainname', join(dev, 'console'));
  writeFileSync(join(dev, 'pts/ptmx'), '');
  await assertRefused({ mounts: [bind(dev, '/dev')], tty: true }, /FAILED_PRECONDITION/, /devpts|\/dev\/pts/);
  // With terminals of a real devpts, but a console that is a link.
  const pts = join(dev, 'pts');
  execFileSync('mount', ['-t', 'devpts', '-o', 'newinstance,ptmxmode=0666', 'devpts', pts]);
  try {
    await assertRefused({ mounts: [bind(dev, '/dev')], tty: true }, /FAILED_PRECONDITION/, /\/dev\/console/);
  } finally {
    execFileSync('umount', [pts]);
  }
});

test('CVE-2022-23648: a volume that the image declares at a link shows nothing of the host', { skip }, async () => {
  const secret = directory();
  writeFileSync(join(secret, 'secret'), 'secret');
  const up = `../../../../../../..${secret}`;
  const image = await imageWith([link('data', up), link('absolute', secret)], { Volumes: { '/data': {}, '/absolute': {} } });
  for (const readonly_rootfs of [false, true]) {
    const id = await start({ image, security: { readonly_rootfs } });
    assert.equal(
      await run(id, 'cat /data/secret /absolute/secret 2>&1 || true').then((text) => text.includes('secret\n') || text === 'secret'),
      false,
    );
    assert.doesNotMatch(await run(id, 'ls -A /data/ /absolute/ 2>&1 || true'), /^secret$/m);
  }
  assert.deepEqual(readdirSync(secret), ['secret']);
});

test("links of an image lead neither berth's files nor devices into a volume, /proc or /sys", { skip }, async () => {
  const volume = directory();
  writeFileSync(join(volume, 'kept'), 'kept');
  const mounts = [bind(volume, '/volume')];
  const files = await imageWith([link('etc/hosts', '/volume/hosts'), link('etc/resolv.conf', '../volume/resolv'), link('etc/hostname', '/run/gone')]);
  const id = await start({ image: files, mounts });
  assert.match(await run(id, 'cat /etc/hosts'), /localhost/);
  assert.equal(await run(id, 'cat /etc/hostname'), 'hostile\n');
  assert.deepEqual(readdirSync(volume), ['kept']);
  for (const target of ['/dev/null', '/proc/sys/kernel/domainname', '../sys/kernel/x'])
    await assertRefused({ image: await imageWith([link('etc/hosts', target)]) }, /FAILED_PRECONDITION/, /mount on \/etc\/hosts: .*link/);
  await assertRefused({ image: await imageWith([link('etc', '/volume')]), mounts }, /FAILED_PRECONDITION/, /mount on \/etc\/host/);
  assert.deepEqual(readdirSync(volume), ['kept']);

  const device = (container_path: string) => [{ host_path: '/dev/zero', container_path, permissions: 'rwm' }];
  const linked = await imageWith([link('vol', '/volume'), link('kern', '/proc/sys/kernel'), link('fw', '/sys')]);
  const held = await start({ image: linked, mounts, devices: device('/vol/kept') });
  assert.equal(await run(held, "stat -c '%t,%T' /volume/kept"), '1,5\n', 'the device is mounted on the file of the volume');
  assert.equal(readFileSync(join(volume, 'kept'), 'utf8'), 'kept');
  for (const path of ['/kern/x', '/fw/x', '/proc/x', '/sys/kernel/x'])
    await assertRefused({ image: linked, devices: device(path) }, /FAILED_PRECONDITION|INVALID_ARGUMENT/, /device .*(\/proc|\/sys)/);
});

test('a link of the image to /dev counts as /dev: its default mounts do not shadow a volume there', { skip }, async () => {
  const dev = directory();
  writeFileSync(join(dev, 'null'), 'not null');
  const image = await imageWith([link('devices', '/dev')]);
  const id = await start({ image, mounts: [bind(dev, '/devices')] });
  await assertMasked(id);
  assert.deepEqual(readdirSync(dev), ['null']);
});

const tagOf = (line: string) => / (shared|master|propagate_from):\d+/.exec(line)?.[1];

test('no mount of a container shares a peer group with the host, unless the request says bidirectional', { skip }, async () => {
  const shared = directory();
  const tags = async (id: string) =>
    (await exec(daemon.client, id, 'cat', '/proc/self/mountinfo')).split('\n').flatMap((line) => (tagOf(line) ? [line] : []));
  const volume = directory();
  const mounts = [bind(volume, '/volume'), bind(shared, '/readonly', { readonly: true })];
  assert.deepEqual(await tags(await start({ mounts })), [], 'ordinary');
  assert.deepEqual(await tags(await start({ mounts, tty: true })), [], 'with a terminal');
  const privileged = { privileged: true, masked_paths: [], readonly_paths: [] };
  const privilegedPod = await runPod(daemon.client, 'privileged', workspace.directory, { linux: { security_context: { privileged: true } } });
  assert.deepEqual(await tags(await start({ pod: privilegedPod, mounts, security: privileged })), [], 'privileged');
  const asked = await start({
    pod: privilegedPod,
    mounts: [bind(shared, '/shared', { propagation: 'PROPAGATION_BIDIRECTIONAL' })],
    security: privileged,
  });
  assert.deepEqual(
    (await tags(asked)).map((line) => `${line.split(' ')[4]} ${tagOf(line)}`),
    ['/shared shared'],
  );
  const slave = await start({ mounts: [bind(shared, '/slave', { propagation: 'PROPAGATION_HOST_TO_CONTAINER' })] });
  assert.deepEqual(
    (await tags(slave)).map((line) => `${line.split(' ')[4]} ${tagOf(line)}`),
    ['/slave master'],
  );
});

test('a mount that a container in a user namespace makes over its own files does not reach the host', { skip }, async () => {
  const uids = [{ host_id: 200_000, container_id: 0, length: 65_536 }];
  const options = { network: 'POD', pid: 'CONTAINER', ipc: 'POD', userns_options: { mode: 'POD', uids, gids: uids } };
  const userPod = await runPod(daemon.client, 'user', workspace.directory, { linux: { security_context: { namespace_options: options } } });
  const before = mountinfo();
  const security = { capabilities: { add_capabilities: ['SYS_ADMIN'] }, namespace_options: options, masked_paths: [], readonly_paths: [] };
  const id = await start({ pod: userPod, security });
  const own = (await exec(daemon.client, id, 'cat', '/proc/self/mountinfo')).split('\n');
  assert.deepEqual(own.filter(tagOf), []);
  const targets = own.flatMap((line) => (/^\/(dev|etc|sys\/fs\/cgroup)\/./.test(line.split(' ')[4] ?? '') ? [line.split(' ')[4] ?? ''] : []));
  assert.ok(targets.includes('/dev/null') && targets.includes('/etc/hosts'));
  const script = targets.map((path) => `if [ -d ${path} ]; then mount -t tmpfs none ${path}; else mount --bind /etc/passwd ${path}; fi`).join('\n');
  await run(id, `${script}\nmount --bind /etc/passwd /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null; true`);
  assert.equal(mountinfo(), before, "the host's mounts are unchanged");
  assert.ok(statSync('/dev/null').isCharacterDevice());
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: userPod.id });
});

test('CVE-2021-30465, CVE-2024-45310: a container that exchanges a link in a shared volume redirects no mount', { skip }, async () => {
  const programs = directory();
  copyFileSync(staticProgram(join(import.meta.dirname, 'mount-exchange.c')), join(programs, 'exchange'));
  const outside = directory();
  const shared = join(outside, 'shared');
  mkdirSync(join(shared, 'place'), { recursive: true });
  // In the attacker's root this leads to the host's directory if it were resolved on the host; in the victim's root to its /proc.
  symlinkSync('/proc/sys', join(shared, 'link'));
  mkdirSync(join(shared, 'other'));
  symlinkSync(`../../../../../..${outside}`, join(shared, 'up'));
  const source = directory();
  writeFileSync(join(source, 'seen'), '');
  const attack = (name: string, other: string) =>
    start({ mounts: [bind(shared, '/s'), bind(programs, '/p')], script: `/p/exchange /s ${name} ${other}` });
  await attack('place', 'link');
  await attack('other', 'up');
  const paths = ['/s/place/kernel', '/s/place/made/deep', '/s/other/made/deep', '/s/other/shared/x'];
  const end = Date.now() + 4000;
  const seen = { started: 0, refused: 0 };
  while (Date.now() < end) {
    const path = paths[(seen.started + seen.refused) % paths.length] as string;
    const mounts = [bind(shared, '/s'), bind(source, path)];
    const id = await start({ mounts, security: { masked_paths: ['/proc/keys'], readonly_paths: ['/proc/sys'] } }).catch((error: unknown) => {
      assert.match(String(error), /FAILED_PRECONDITION/);
      seen.refused += 1;
    });
    if (id === undefined) continue;
    seen.started += 1;
    const points = (await exec(daemon.client, id, 'cat', '/proc/self/mountinfo')).split('\n').map((line) => line.split(' ')[4] ?? '');
    assert.deepEqual(
      points.filter((point) => /^\/proc\/./.test(point)).sort(),
      ['/proc/keys', '/proc/sys'].filter((path) => existsSync(path)).sort(),
    );
    await daemon.client.call('RemoveContainer', { container_id: id });
  }
  assert.ok(seen.started + seen.refused > 3, JSON.stringify(seen));
  assert.deepEqual(readdirSync(outside), ['shared'], 'nothing is created outside of the volume');
  assert.deepEqual(readdirSync(shared).sort(), ['link', 'other', 'place', 'up']);
});
