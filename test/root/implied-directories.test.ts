/**
 * Layers whose archives have no entries for directories that exist in lower layers, in containers of a real daemon: the directories keep owner and mode.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { buildImage, digestOf, type Layer } from '../../scripts/image-builder.ts';
import { buildSampleLayer } from '../../scripts/sample-image.ts';
import { verifyStore } from '../../src/images/store/verify.ts';
import { readXattrs } from '../../src/sys/filesystem/xattrs.ts';
import { enterIsolation } from '../support/isolation.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon } from './support/daemon.ts';
import { detailsOf, exec, type Pod, pullImage, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const workspace = createWorkspace();
let daemon: Daemon;
let pod: Pod;
let busybox: Layer;

before(async () => {
  if (skip) return;
  busybox = await buildSampleLayer();
  daemon = await startDaemon(workspace);
  pod = await runPod(daemon.client, 'implied', workspace.directory);
});

after(async () => {
  if (daemon !== undefined) await daemon.end('SIGTERM');
  await workspace.remove();
});

function layerOf(...members: readonly Member[]): Layer {
  const tar = makeTar(members);
  return { blob: gzipSync(tar), diffId: digestOf(tar) };
}

const base = layerOf(
  { path: 'srv/', mode: 0o2750, uid: 7, gid: 8, mtime: 1000, pax: { 'SCHILY.xattr.user.key': 'value' } },
  { path: 'srv/deep/', mode: 0o700, uid: 9, gid: 9 },
  { path: 'caf\xe9/', mode: 0o711 },
  { path: 'gone/', mode: 0o700 },
  { path: 'remade/', mode: 0o700 },
  { path: 'remade/sub/', mode: 0o700 },
  { path: 'emptied/', mode: 0o700 },
  { path: 'emptied/old' },
  { path: 'emptied/sub/', mode: 0o700 },
  { path: 'way', type: '2', link: 'srv' },
  { path: 'plain' },
);
const middle = layerOf(
  { path: 'srv/deep/more/x' },
  { path: '.wh.gone' },
  { path: '.wh.remade' },
  { path: 'remade/sub/x' },
  { path: 'emptied/.wh..wh..opq' },
  { path: 'emptied/sub/x' },
);
const above = layerOf(
  { path: 'tmp/x' },
  { path: 'srv/deep/more/y' },
  { path: 'caf\xe9/x' },
  { path: 'gone/x' },
  { path: 'way/x' },
  { path: 'plain/x' },
);

const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
const imageOf = (name: string, ...layers: readonly Layer[]) =>
  pullImage(daemon.client, `berth/${name}:1`, buildImage([busybox, ...layers], { Env: ['PATH=/bin'] }, undefined, architecture));

/** Returns `mode owner:group path` of each path in a new container of the image. */
async function statIn(image: string, name: string, ...paths: readonly string[]): Promise<string[]> {
  const id = await runContainer(daemon.client, pod, image, name, 'exec sleep 1000');
  return (await exec(daemon.client, id, 'stat', '-c', '%a %u:%g %n', ...paths)).trim().split('\n');
}

test('directories without an entry keep owner, mode, time and attributes of lower layers, unless these are hidden', { skip }, async () => {
  const image = await imageOf('implied', base, middle, above);
  const id = await runContainer(daemon.client, pod, image, 'implied', 'exec sleep 1000');
  const paths = ['/tmp', '/srv', '/srv/deep', '/srv/deep/more', '/gone', '/remade', '/remade/sub', '/emptied', '/emptied/sub', '/way', '/plain'];
  assert.deepEqual((await exec(daemon.client, id, 'stat', '-c', '%a %u:%g %n', ...paths)).trim().split('\n'), [
    '1777 0:0 /tmp',
    '2750 7:8 /srv',
    '700 9:9 /srv/deep',
    '755 0:0 /srv/deep/more',
    '755 0:0 /gone',
    '755 0:0 /remade',
    '755 0:0 /remade/sub',
    '700 0:0 /emptied',
    '755 0:0 /emptied/sub',
    '755 0:0 /way',
    '755 0:0 /plain',
  ]);
  assert.equal(
    await exec(daemon.client, id, 'sh', '-c', 'stat -c %a /caf*; stat -c %Y /srv; ls /emptied /srv/deep/more'),
    '711\n1000\n/emptied:\nsub\n\n/srv/deep/more:\nx\ny\n',
  );
  const { pid } = await detailsOf(daemon.client, id);
  assert.deepEqual(
    readXattrs(`/proc/${pid}/root/srv`).map(([name, value]) => `${name}=${value}`),
    ['user.key=value'],
  );
  assert.equal(await exec(daemon.client, id, 'sh', '-c', 'touch /srv/new /tmp/new && ls /srv /tmp'), '/srv:\ndeep\nnew\n\n/tmp:\nnew\nx\n');
});

test('a layer that several images share shows in each the directories of the layers below it there, also after a restart', { skip }, async () => {
  const images = [
    await imageOf('private', layerOf({ path: 'tmp/', mode: 0o700, uid: 5 }), above),
    await imageOf('public', above),
    await imageOf('explicit', layerOf({ path: 'tmp/', mode: 0o700 }), above, layerOf({ path: 'tmp/', mode: 0o711, gid: 6 })),
  ];
  const expected = ['700 5:0 /tmp', '1777 0:0 /tmp', '711 0:6 /tmp'];
  for (const [i, image] of images.entries()) assert.deepEqual(await statIn(image, `before-${i}`, '/tmp'), [expected[i]]);
  await daemon.end('SIGKILL');
  daemon = await startDaemon(workspace);
  for (const [i, image] of images.entries()) assert.deepEqual(await statIn(image, `after-${i}`, '/tmp'), [expected[i]]);
});

test('in a user namespace the directories belong to the same users of the pod', { skip }, async () => {
  const mapping = [{ container_id: 0, host_id: 131072, length: 65536 }];
  const security_context = { namespace_options: { userns_options: { mode: 'POD', uids: mapping, gids: mapping } } };
  const mapped = await runPod(daemon.client, 'mapped', workspace.directory, { linux: { security_context } });
  const image = await imageOf('implied', base, middle, above);
  const id = await runContainer(daemon.client, mapped, image, 'mapped', 'exec sleep 1000', { linux: { security_context } });
  assert.equal(await exec(daemon.client, id, 'stat', '-c', '%a %u:%g', '/tmp', '/srv'), '1777 0:0\n2750 7:8\n');
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: mapped.id });
});

test('the store is intact, and nothing is left when the images are removed', { skip }, async () => {
  const { damages, unrecorded, temporary } = await verifyStore(workspace.root);
  assert.deepEqual({ damages, unrecorded, temporary }, { damages: [], unrecorded: [], temporary: [] });
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  const { images } = await daemon.client.call<{ images: { id: string }[] }>('ListImages', {});
  for (const { id } of images) await daemon.client.call('RemoveImage', { image: { image: id } });
  assert.deepEqual(readdirSync(join(workspace.root, 'layers')), []);
});
