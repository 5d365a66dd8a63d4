/**
 * Documents of images as real builders write them, read as Go programs do: the daemon pulls or imports each image and runs it without a command.
 *
 * The expected values are those of containerd 2.3 and CRI-O 1.36, which use Go's encoding/json.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { buildLayer, digestOf, type Image, type Layer, ociTypes } from '../../scripts/image-builder.ts';
import { buildSampleLayer } from '../../scripts/sample-image.ts';
import { platform } from '../support/image-bed.ts';
import { enterIsolation } from '../support/isolation.ts';
import { makeTar } from '../support/tar-maker.ts';
import { createWorkspace, type Daemon, isBuilt, runBerth, startDaemon, type Workspace } from './support/daemon.ts';
import { eventually, logLines, type Pod, pullImage, runPod, statusOf } from './support/pods.ts';

if (isBuilt) enterIsolation();

let workspace: Workspace;
let daemon: Daemon;
let pod: Pod;
let layer: Layer;

before(async () => {
  assert.ok(isBuilt, 'the daemon is built');
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  pod = await runPod(daemon.client, 'documents', workspace.directory, { linux: { security_context: { namespace_options: { network: 'NODE' } } } });
  layer = await buildSampleLayer();
});

after(async () => {
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

const { os, architecture } = platform;
const defaults = { Env: ['PATH=/bin'] };
const rootfs = () => ({ type: 'layers', diff_ids: [layer.diffId] });
const configOf = (config: object): Buffer => Buffer.from(JSON.stringify({ os, architecture, config, rootfs: rootfs() }));
const descriptorOf = (mediaType: string, data: Buffer, more: object = {}) => ({ mediaType, digest: digestOf(data), size: data.length, ...more });

function imageOf(mediaType: string, document: object, blobs: readonly Buffer[] = [], manifests: readonly Image[] = []): Image {
  const data = Buffer.from(JSON.stringify(document));
  return { mediaType, digest: digestOf(data), data, blobs: new Map(blobs.map((blob) => [digestOf(blob), blob])), manifests };
}

function manifestOf(config: Buffer): Image {
  const document = { schemaVersion: 2, config: descriptorOf(ociTypes.config, config), layers: [descriptorOf(ociTypes.layer, layer.blob)] };
  return imageOf(ociTypes.manifest, document, [config, layer.blob]);
}

/** Serves the manifests of an index too. */
function indexOf(entries: readonly unknown[], images: readonly Image[]): Image {
  const blobs = images.flatMap((image) => [...image.blobs.values()]);
  return imageOf(ociTypes.index, { schemaVersion: 2, manifests: entries }, [...blobs, ...images.map(({ data }) => data)], images);
}

/** Runs the image without a command. @returns the lines of its log. */
async function run(image: string, changes: Message = {}): Promise<string[]> {
  const name = `c${Math.random().toString(36).slice(2)}`;
  const config = { metadata: { name, attempt: 0 }, image: { image }, log_path: `${name}.log`, linux: {}, ...changes };
  const creation = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
  const { container_id } = await daemon.client.call<{ container_id: string }>('CreateContainer', creation);
  await daemon.client.call('StartContainer', { container_id });
  await eventually('it has exited', async () => (await statusOf(daemon.client, container_id)).state === 'CONTAINER_EXITED');
  return logLines(join(pod.logDirectory, `${name}.log`));
}

const pulled = (name: string, image: Image) => pullImage(daemon.client, `documents/${name}:1`, image);

test('bytes that are not UTF-8 in a manifest or a config do not matter, as in Go', async () => {
  const notUtf8 = (text: string): Buffer => Buffer.from(text.replace('@', '\xff'), 'latin1');
  const config = notUtf8(configOf({ ...defaults, Cmd: ['echo', 'ran'], Labels: { note: '@' } }).toString());
  const { blobs, ...image } = manifestOf(config);
  const data = notUtf8(image.data.toString().replace('{', '{"annotations":{"note":"@"},'));
  assert.deepEqual(await run(await pulled('bytes', { ...image, blobs, data, digest: digestOf(data) })), ['ran']);
});

test('a config has keys in any case, and the exact one has precedence', async () => {
  const script = 'echo $WORD $(id -u) $PWD';
  const lower = await pulled(
    'lower',
    manifestOf(configOf({ entrypoint: ['sh', '-c'], CMD: [script], env: ['WORD=a', 'PATH=/bin'], user: '7', workingdir: '/etc' })),
  );
  assert.deepEqual(await run(lower), ['a 7 /etc']);
  const { image } = await daemon.client.call<{ image: Message }>('ImageStatus', { image: { image: lower } });
  assert.deepEqual(image.uid, { value: '7' });
  const exact = { ...defaults, CMD: ['echo', 'other'], Cmd: ['echo', 'exact'], cmd: ['echo', 'another'] };
  assert.deepEqual(await run(await pulled('exact', manifestOf(configOf(exact)))), ['exact']);
});

test('null and absent values are empty', async () => {
  const config = Buffer.from(
    JSON.stringify({
      os: null,
      architecture: null,
      config: { ...defaults, Cmd: ['echo', 'a', null], User: null },
      rootfs: { diff_ids: [layer.diffId] },
    }),
  );
  const { size: _, ...withoutSize } = descriptorOf(ociTypes.config, config);
  const image = imageOf(ociTypes.manifest, { mediaType: null, Config: withoutSize, LAYERS: [descriptorOf(ociTypes.layer, layer.blob)] }, [
    config,
    layer.blob,
  ]);
  assert.deepEqual(await run(await pulled('null', image)), ['a ']);
});

test('an entry point of one empty string is none', async () => {
  const image = await pulled('reset', manifestOf(configOf({ ...defaults, Entrypoint: [''], Cmd: ['echo', 'command'] })));
  assert.deepEqual(await run(image), ['command']);
  assert.deepEqual(await run(image, { args: ['echo', 'arguments'] }), ['arguments']);
  await assert.rejects(run(image, { command: [''], args: ['echo', 'x'] }));
});

test('the image for the highest level of the processor is chosen, and entries that cannot be used are passed over', {
  skip: architecture !== 'amd64' && 'levels of x86-64',
}, async () => {
  const flags = new Set(/^flags\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '));
  // One new flag of each level: processors that have it have the others too.
  const level = ['avx512vl', 'avx2', 'sse4_2'].findIndex((flag) => flags.has(flag));
  const best = ['v4', 'v3', 'v2'][level] ?? '';
  const images = new Map(
    ['', 'v2', 'v3', 'v4'].map((variant) => [variant, manifestOf(configOf({ ...defaults, Cmd: ['echo', variant || 'baseline'] }))]),
  );
  const entry = (variant: string, more: object = {}) => {
    const { data } = images.get(variant) as Image;
    return descriptorOf(ociTypes.manifest, data, { platform: { os, architecture, ...(variant === '' ? {} : { variant }) }, ...more });
  };
  const all = [...images.values()];
  assert.deepEqual(
    await run(
      await pulled(
        'levels',
        indexOf(
          ['', 'v2', 'v3', 'v4'].map((variant) => entry(variant)),
          all,
        ),
      ),
    ),
    [best || 'baseline'],
  );
  if (best !== '') assert.deepEqual(await run(await pulled('only', indexOf([entry(best)], all))), [best]);
  if (best !== 'v4') await assert.rejects(pulled('above', indexOf([entry('v4')], all)), { message: /NOT_FOUND.*linux\/amd64\/v4/ });
  const artifact = imageOf(ociTypes.manifest, {
    schemaVersion: 2,
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf(Buffer.from('{}')), size: 2 },
    layers: [],
  });
  const odd = [
    null,
    7,
    { ...entry(''), digest: 'blake3:00' },
    { ...entry(''), digest: `sha256:${'0'.repeat(64)}` },
    descriptorOf(ociTypes.manifest, artifact.data, { platform: { os, architecture } }),
  ];
  assert.deepEqual(await run(await pulled('odd', indexOf([...odd, entry('')], [...all, artifact]))), ['baseline']);
  await assert.rejects(pulled('artifact', indexOf(odd, [...all, artifact])), { message: /NOT_FOUND|not a container image/ });
});

test('archives have keys in any case, and an entry of a layout that cannot be used does not spoil the others', async () => {
  const config = configOf({ ...defaults, cmd: ['echo', 'archive'] });
  const plain = await buildLayer([]);
  const saved = makeTar([
    { path: 'manifest.json', content: JSON.stringify([{ config: 'config.json', repotags: ['documents/saved:1'], LAYERS: ['layer.tar.gz'] }]) },
    { path: 'config.json', content: config },
    { path: 'layer.tar.gz', content: layer.blob },
  ]);
  const image = manifestOf(config);
  const helm = imageOf(ociTypes.manifest, {
    schemaVersion: 2,
    config: descriptorOf('application/vnd.cncf.helm.config.v1+json', plain.blob),
    layers: [],
  });
  const named = (name: string) => ({ Annotations: { 'io.containerd.image.name': `docker.io/documents/${name}:1` } });
  const entries = [
    null,
    { digest: 'md5:0' },
    descriptorOf(ociTypes.manifest, helm.data, named('chart')),
    descriptorOf(ociTypes.manifest, image.data, named('layout')),
  ];
  const layout = makeTar([
    { path: 'index.json', content: JSON.stringify({ Manifests: entries }) },
    ...[config, layer.blob, image.data, helm.data].map((data) => ({ path: `blobs/sha256/${digestOf(data).slice(7)}`, content: data })),
  ]);
  for (const [name, archive] of Object.entries({ saved, layout })) {
    const file = join(workspace.directory, `${name}.tar`);
    writeFileSync(file, archive);
    const { code, output } = await runBerth(['image', 'import', file, '--socket', workspace.socket]);
    assert.equal(code, 0, output);
    assert.match(output, new RegExp(`^sha256:[0-9a-f]+ .*docker.io/documents/${name}:1\n$`));
    assert.deepEqual(await run(`documents/${name}:1`), ['archive']);
  }
});
