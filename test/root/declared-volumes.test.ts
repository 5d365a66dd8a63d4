/**
 * Volumes that an image declares, through the daemon: what the container has there, and which mounts of the pod lie on them.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Message } from '../../scripts/cri-client.ts';
import { digestOf } from '../../scripts/image-builder.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { enterIsolation } from '../support/isolation.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { eventually, exec, type Pod, pullImage, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const range = [{ host_id: 200_000, container_id: 0, length: 65_536 }];
const ownIds = { namespace_options: { network: 'POD', userns_options: { mode: 'POD', uids: range, gids: range } } };

let workspace: Workspace;
let daemon: Daemon;
/** Pods without and with a user namespace. */
let pods: readonly { readonly name: string; readonly pod: Pod; readonly context: Message; readonly firstId: number }[];
let count = 0;

before(async () => {
  if (skip) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  const ordinary = await runPod(daemon.client, 'ordinary', workspace.directory);
  const mapped = await runPod(daemon.client, 'mapped', workspace.directory, { linux: { security_context: ownIds } });
  pods = [
    { name: 'ids of the node', pod: ordinary, context: {}, firstId: 0 },
    { name: 'a user namespace', pod: mapped, context: ownIds, firstId: 200_000 },
  ];
});
after(async () => {
  if (skip) return;
  for (const { pod } of pods) await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  assert.deepEqual(readdirSync(join(workspace.root, 'containers')), [], 'volumes are removed with their containers');
  await daemon.end('SIGTERM');
  await workspace.remove();
});

async function imageWith(members: readonly Member[], ...volumes: readonly string[]): Promise<string> {
  const tar = makeTar(members);
  const layer = { blob: gzipSync(tar), diffId: digestOf(tar) };
  const config = { Volumes: Object.fromEntries(volumes.map((path) => [path, {}])) };
  return pullImage(daemon.client, `berth/declared${++count}:1`, await buildSampleImage([layer], config));
}

/** Runs the script in four containers: with and without user namespace, with writable and read-only root. @returns the results by name. */
async function runEach(image: string, mounts: readonly Message[], script: string): Promise<Record<string, string>> {
  const results: Record<string, string> = {};
  for (const { name, pod, context } of pods) {
    const given = mounts.map((mount) => (context === ownIds ? { ...mount, uid_mappings: range, gid_mappings: range } : mount));
    for (const readonly_rootfs of [false, true]) {
      const linux = { security_context: { ...context, readonly_rootfs } };
      const id = await runContainer(daemon.client, pod, image, `c${++count}`, 'sleep 1000', { mounts: given, linux });
      results[`${name}, ${readonly_rootfs ? 'read-only' : 'writable'} root`] = await exec(daemon.client, id, 'sh', '-c', script);
    }
  }
  return results;
}

/** Asserts that the script prints the same in all four containers. */
async function assertEach(image: string, mounts: readonly Message[], script: string, expected: string): Promise<void> {
  const results = await runEach(image, mounts, script);
  assert.deepEqual(results, Object.fromEntries(Object.keys(results).map((name) => [name, expected])));
}

/** Creates a directory on the node with a file, which a pod mounts. */
function hostDirectory(): string {
  const path = join(workspace.directory, `host-${++count}`);
  mkdirSync(path);
  writeFileSync(join(path, 'word'), 'of the pod\n');
  return path;
}

const link = (path: string, target: string): Member => ({ path, type: '2', link: target });

test('a declared volume is a directory of its own, with what the image has there, mode and owner', { skip }, async () => {
  const image = await imageWith(
    [
      { path: 'data/', uid: 1000, gid: 1001, mode: 0o1770 },
      { path: 'data/file', content: 'of the image\n', uid: 33, gid: 34, mode: 0o640 },
      { path: 'data/sub/', uid: 1000, gid: 1000, mode: 0o700 },
      link('data/link', 'file'),
      { path: 'real/', mode: 0o750 },
      link('alias', '/real'),
    ],
    '/data',
    '/alias',
    '/missing/deep',
    'relative',
    '/data/sub',
  );
  const script = `
    stat -c '%n %a %u:%g' /data /data/file /data/sub /real /missing /missing/deep /relative; cat /data/link
    for each in /data /data/sub /real /missing/deep /relative; do grep -q " $each " /proc/self/mountinfo && touch $each/new && echo $each; done
    stat -f -c %T / /data`;
  const expected = `/data 1770 1000:1001
/data/file 640 33:34
/data/sub 700 1000:1000
/real 750 0:0
/missing 755 0:0
/missing/deep 755 0:0
/relative 755 0:0
of the image
/data
/data/sub
/real
/missing/deep
/relative
`;
  const results = await runEach(image, [], script);
  for (const [name, text] of Object.entries(results)) {
    const [root, data] = text.slice(expected.length).split('\n');
    assert.equal(text.slice(0, expected.length), expected, name);
    assert.notEqual(root, data, `${name}: the volume is not on overlayfs`);
  }
  // Each container began with its own copy.
  assert.equal(Object.keys(results).length, 4);
});

test("a pod's mounts at or below a declared volume lie on it, also through links, and a mount above replaces it", { skip }, async () => {
  const run: Member[] = [{ path: 'run/', mode: 0o755 }, { path: 'run/kept', content: 'kept\n' }, { path: 'var/' }, link('var/run', '/run')];
  const at = (container_path: string) => [{ host_path: hostDirectory(), container_path, readonly: true }];
  const below = await imageWith(run, '/run');
  const token = 'cat /var/run/secrets/token/word /run/kept; stat -c "%a %u %n" /run /run/secrets; touch /run/new && echo writable';
  const shown = 'of the pod\nkept\n755 0 /run\n755 0 /run/secrets\nwritable\n';
  await assertEach(below, at('/var/run/secrets/token'), token, shown);
  await assertEach(below, at('/run/secrets/token'), token, shown);
  // The volume is declared by the name of the link.
  await assertEach(await imageWith(run, '/var/run'), at('/run/secrets/token'), token, shown);
  for (const [declared, mounted] of [
    ['/run', '/run'],
    ['/run', '/var/run'],
    ['/var/run', '/run'],
    ['/var/run/deep', '/run'],
  ] as const)
    await assertEach(await imageWith(run, declared), at(mounted), 'cat /run/word; ls /run', 'of the pod\nword\n');
  // A link in the declared directory leads to another one.
  const inner = [{ path: 'data/' }, { path: 'other/' }, link('data/inner', '/other')];
  await assertEach(await imageWith(inner, '/data', '/other'), at('/data/inner/token'), 'cat /other/token/word', 'of the pod\n');
});

test('declared volumes do not cover the files and file systems of berth, nor the root', { skip }, async () => {
  const members = [{ path: 'etc/own', content: 'own\n' }, link('all', '/'), link('etc/resolv.conf', '../run/deep/resolv.conf'), { path: 'run/' }];
  const image = await imageWith(members, '/etc', '/all', '/dev', '/dev/shm', '/proc', '/sys/fs/cgroup', '/run');
  const script =
    'cat /etc/own; grep -q localhost /etc/hosts && echo hosts; test -s /etc/resolv.conf && readlink /etc/resolv.conf; test -c /dev/null && test -d /proc/1 && ls /bin/sh';
  await assertEach(image, [], script, 'own\nhosts\n../run/deep/resolv.conf\n/bin/sh\n');
});

test('more declared volumes than any image needs are refused before anything is copied', { skip }, async () => {
  const names = Array.from({ length: 65 }, (_, i) => `/v${i}/deep`);
  const [{ pod }] = pods as [(typeof pods)[0]];
  const create = async (volumes: readonly string[]) => runContainer(daemon.client, pod, await imageWith([], ...volumes), `c${++count}`, 'sleep 1000');
  await assert.rejects(create(names), /FAILED_PRECONDITION.*the image declares 65 volumes/);
  assert.equal((await exec(daemon.client, await create(names.slice(1)), 'sh', '-c', 'ls -d /v*/deep')).split('\n').length, 65);
});

test('a declared volume is counted in the disk usage of its container, and removed with it', { skip }, async () => {
  const image = await imageWith([{ path: 'data/' }, { path: 'data/seed', content: Buffer.alloc(1 << 20, 1) }], '/data');
  for (const { name, pod, context, firstId } of pods) {
    const script = 'dd if=/dev/zero of=/data/written bs=1M count=2 2>/dev/null; touch /ready; sleep 1000';
    const id = await runContainer(daemon.client, pod, image, `c${++count}`, script, { linux: { security_context: context } });
    await eventually('the file is written', async () => (await exec(daemon.client, id, 'ls', '/')).includes('ready'));
    const { stats } = await daemon.client.call<{ stats: { writable_layer: { used_bytes: { value: string } } } }>('ContainerStats', {
      container_id: id,
    });
    const used = Number(stats.writable_layer.used_bytes.value);
    assert.ok(used >= 3 << 20 && used < 4 << 20, `${name}: ${used} bytes`);
    const directory = join(workspace.root, 'containers', id);
    assert.ok(existsSync(directory));
    await daemon.client.call('RemoveContainer', { container_id: id });
    assert.ok(!existsSync(directory));
    assert.ok(firstId >= 0);
  }
});
