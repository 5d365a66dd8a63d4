/**
 * Pulls from a real registry into a store: names, shared layers, removal, failures that leave nothing behind, and kills at any moment.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Transfer } from '../../src/images/document/transfer.ts';
import type { ImageRecord } from '../../src/images/store/image-record.ts';
import type { Unpacker } from '../../src/images/unpack/unpack.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { layerOf, layersOnDisk, type Node, platform, startProxy, useImages } from '../support/image-bed.ts';
import { digestOf } from '../support/layer-bed.ts';

const bed = useImages();

const base = layerOf({ 'etc/os': 'debian', 'bin/tool': 'old' });
const upper = layerOf({ 'bin/tool': 'new', 'etc/more': 'x' });

async function failsWith(promise: Promise<unknown>, code: BerthError['code'], message: RegExp): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(error instanceof BerthError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

function assertNoLeftovers(node: Node): void {
  assert.deepEqual(node.store.list(), []);
  assert.deepEqual(layersOnDisk(node.root), []);
  assert.deepEqual(readdirSync(join(node.root, 'images')), []);
}

test('an image pulled by tag is found by all its names, also by the next daemon', async () => {
  const pushed = await bed.push('team/tagged', '1.0', { layers: [base, upper], config: { User: '1003:50', Cmd: ['/bin/tool'], Env: ['A=b'] } });
  const node = await bed.node();
  const name = `${bed.host}/team/tagged`;
  const image = await node.pull(`${name}:1.0`);
  assert.equal(image.id, pushed.id);
  assert.deepEqual(image.repoTags, [`${name}:1.0`]);
  assert.deepEqual(image.repoDigests, [`${name}@${pushed.digest}`]);
  assert.deepEqual([image.uid, image.username], [1003, undefined]);
  assert.ok(image.sizeBytes > 0);
  const root = node.store.rootOf(image);
  assert.deepEqual(
    root.layerDirs.map((directory) => readFileSync(join(directory, 'bin/tool'), 'utf8')),
    ['new', 'old'],
  );
  assert.deepEqual([root.config.id, root.config.cmd, root.config.env], [pushed.id, ['/bin/tool'], ['A=b']]);
  const hex = pushed.id.slice('sha256:'.length);
  const restarted = await bed.node({ root: node.root });
  for (const { store } of [node, restarted]) {
    for (const reference of [pushed.id, hex, hex.slice(0, 12), `${name}:1.0`, `${name}@${pushed.digest}`, `${name}:other@${pushed.digest}`]) {
      assert.deepEqual(store.find(reference), image, reference);
      assert.deepEqual(store.list(reference), [image]);
    }
    for (const reference of ['', name, `${name}:2`, hex.slice(0, 6), 'sha256:', '//', pushed.digest])
      assert.equal(store.find(reference), undefined, reference);
  }
  assert.deepEqual(layersOnDisk(node.root), [...pushed.diffIds].sort());
});

test('a name without a tag means latest, and a user name is reported as such', async () => {
  await bed.push('users', 'latest', { layers: [base], config: { User: 'www-data:www' } });
  const image = await (await bed.node()).pull(`${bed.host}/users`);
  assert.deepEqual(image.repoTags, [`${bed.host}/users:latest`]);
  assert.deepEqual([image.uid, image.username], [undefined, 'www-data']);
});

test('a pull by digest records no tag, even if the reference has one', async () => {
  const pushed = await bed.push('team/digest', 'x', { layers: [base] });
  const node = await bed.node();
  for (const reference of [`${bed.host}/team/digest@${pushed.digest}`, `${bed.host}/team/digest:x@${pushed.digest}`]) {
    const image = await node.pull(reference);
    assert.deepEqual(image.repoTags, []);
    assert.deepEqual(image.repoDigests, [`${bed.host}/team/digest@${pushed.digest}`]);
    assert.deepEqual([image.uid, image.username], [undefined, undefined]);
  }
  assert.deepEqual((await node.pull(`${bed.host}/team/digest:x`)).repoTags, [`${bed.host}/team/digest:x`]);
  assert.equal(node.store.list().length, 1);
});

test('an index resolves to the image of this platform, with the digest of the index', async () => {
  const own = await bed.push('multi', 'own', { layers: [base] });
  const foreign = await bed.push('multi', 'foreign', { layers: [upper], architecture: 's390x' });
  const entries = [
    { image: foreign, platform: { os: 'linux', architecture: 's390x' } },
    { image: own, platform },
  ];
  const digest = await bed.pushIndex('multi', 'all', entries);
  await bed.pushIndex('multi', 'none', entries.slice(0, 1));
  const node = await bed.node();
  await failsWith(node.pull(`${bed.host}/multi:none`), 'NOT_FOUND', /s390x/);
  await failsWith(node.pull(`${bed.host}/multi:foreign`), 'NOT_FOUND', /s390x/);
  assertNoLeftovers(node);
  const image = await node.pull(`${bed.host}/multi:all`);
  assert.equal(image.id, own.id);
  assert.deepEqual(image.repoDigests, [`${bed.host}/multi@${digest}`]);
});

test('the same content with two names is one image with two tags, and its layers are fetched once', async () => {
  const first = await bed.push('same/one', 'a', { layers: [base, upper] });
  await bed.push('same/two', 'b', { layers: [base, upper] });
  const node = await bed.node();
  await node.pull(`${bed.host}/same/one:a`);
  const image = await node.pull(`${bed.host}/same/two:b`);
  assert.deepEqual(image.repoTags, [`${bed.host}/same/one:a`, `${bed.host}/same/two:b`]);
  assert.deepEqual(node.store.list(), [image]);
  assert.deepEqual(node.unpacked.toSorted(), [...first.diffIds].sort());
});

test('a moved tag is removed from the older image, and both images stay', async () => {
  const older = await bed.push('moving', 'latest', { layers: [base] });
  const node = await bed.node();
  await node.pull(`${bed.host}/moving`);
  const newer = await bed.push('moving', 'latest', { layers: [base, upper] });
  await node.pull(`${bed.host}/moving`);
  for (const { store } of [node, await bed.node({ root: node.root })]) {
    assert.equal(store.find(`${bed.host}/moving`)?.id, newer.id);
    assert.deepEqual(store.find(older.id)?.repoTags, []);
    assert.deepEqual(store.find(older.id)?.repoDigests, [`${bed.host}/moving@${older.digest}`]);
  }
});

test('a pull of a present image checks the registry and fetches no layers', async () => {
  await bed.push('known', '1', { layers: [base] });
  const node = await bed.node();
  const image = await node.pull(`${bed.host}/known:1`);
  assert.deepEqual(await node.pull(`${bed.host}/known:1`), image);
  assert.equal(node.unpacked.length, 1);
  await failsWith(node.pull(`${bed.host}/known:absent`), 'NOT_FOUND', /not found/);
});

test('a digest is pulled from a mirror that may not resolve tags; once present it needs no host, unless one denies access', async () => {
  const { digest } = await bed.push('team/pinned', '1', { layers: [base] });
  const node = await bed.node();
  mkdirSync(join(node.root, 'certs.d/registry.test'), { recursive: true });
  const useMirror = (mirror: string) =>
    writeFileSync(
      join(node.root, 'certs.d/registry.test/hosts.toml'),
      `server = "http://127.0.0.1:1"\n[host."http://${mirror}"]\ncapabilities = ["pull"]\n`,
    );
  const denying = createServer((_request, response) => void response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end());
  await new Promise<void>((resolve) => denying.listen(0, '127.0.0.1', resolve));
  try {
    const name = `registry.test/team/pinned@${digest}`;
    useMirror(bed.host);
    const image = await node.pull(name);
    assert.deepEqual(await node.pull(name), image);
    useMirror('127.0.0.1:2');
    assert.deepEqual(await node.pull(name), image);
    assert.equal(node.unpacked.length, 1);
    writeFileSync(join(node.root, 'certs.d/registry.test/hosts.toml'), `server = "http://127.0.0.1:${(denying.address() as AddressInfo).port}"\n`);
    await failsWith(node.pull(name), 'UNAUTHENTICATED', /without credentials/);
  } finally {
    denying.close();
  }
});

test('the next pull re-fetches a layer whose files were deleted', async () => {
  await bed.push('team/deleted', '1', { layers: [base, upper] });
  const node = await bed.node();
  const name = `${bed.host}/team/deleted:1`;
  const [, lowest] = node.store.rootOf(await node.pull(name)).layerDirs;
  assert.ok(lowest !== undefined);
  rmSync(lowest, { recursive: true });
  await node.pull(name);
  assert.equal(readFileSync(join(lowest, 'bin/tool'), 'utf8'), 'old');
});

test('a layer that occurs twice in an image is fetched once and stacked once', async () => {
  const pushed = await bed.push('twice', '1', { layers: [base, upper, base] });
  const node = await bed.node();
  const image = await node.pull(`${bed.host}/twice:1`);
  assert.deepEqual(image.diffIds, pushed.diffIds);
  assert.deepEqual(
    node.store.rootOf(image).layerDirs.map((directory) => readFileSync(join(directory, 'bin/tool'), 'utf8')),
    ['old', 'new'],
  );
  assert.equal(node.unpacked.length, 2);
});

test('an image without layers can be pulled and has an empty root', async () => {
  const node = await bed.node();
  const { id } = await bed.push('configonly', '1', { layers: [], config: { Cmd: ['/program'] } });
  const image = await node.pull(`${bed.host}/configonly:1`);
  assert.equal(image.id, id);
  assert.ok(image.sizeBytes > 0);
  assert.deepEqual(node.store.rootOf(image).layerDirs, []);
  assert.deepEqual(node.store.rootOf(image).config.cmd, ['/program']);
  const restarted = await bed.node({ root: node.root });
  assert.equal(restarted.store.find(`${bed.host}/configonly:1`)?.id, id);
  await node.store.remove(id);
  assert.deepEqual(node.store.list(), []);
});

test('layers below one with an opaque top directory are not part of the root', async () => {
  await bed.push('opaque', '1', { layers: [base, layerOf({ only: '1' }, [{ path: '.wh..wh..opq' }]), upper] });
  const node = await bed.node();
  const image = await node.pull(`${bed.host}/opaque:1`);
  const restarted = await bed.node({ root: node.root });
  for (const { store } of [node, restarted]) assert.equal(store.rootOf(image).layerDirs.length, 2);
});

/** Creates an unpacker that waits before each layer until the test continues. */
function createGate(): { readonly unpacker: Unpacker; readonly open: () => void; readonly arrived: Promise<void> } {
  const gate = Promise.withResolvers<void>();
  const arrived = Promise.withResolvers<void>();
  const unpacker: Unpacker = {
    ...bed.unpacker,
    unpack: async (job, open, signal, onBytes) => {
      arrived.resolve();
      const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      if (!signal.aborted) await Promise.race([gate.promise, aborted]);
      return await bed.unpacker.unpack(job, open, signal, onBytes);
    },
  };
  return { unpacker, open: gate.resolve, arrived: arrived.promise };
}

const pulledLines = (node: Node): number => node.logged.filter((line) => line.message === 'image pulled').length;

test('concurrent pulls of the same image are joined', async () => {
  await bed.push('joined', '1', { layers: [base, upper] });
  const gate = createGate();
  const node = await bed.node({ unpacker: gate.unpacker });
  let progress: (() => Transfer) | undefined;
  const first = node.puller.pullImage({
    reference: `${bed.host}/joined:1`,
    signal: new AbortController().signal,
    onStart: (now) => {
      progress = now;
    },
  });
  const rest = Array.from({ length: 9 }, () => node.pull(`${bed.host}/joined:1`));
  await gate.arrived;
  assert.deepEqual(
    node.puller.pulls().map(({ image, state, layers }) => [image, state, layers.length]),
    [[`${bed.host}/joined:1`, 'fetching', 2]],
  );
  gate.open();
  const images = await Promise.all([first, ...rest]);
  assert.ok(images.every((image) => image === images[0]));
  assert.equal(node.unpacked.length, 2);
  assert.equal(pulledLines(node), 1);
  const last = progress?.();
  assert.equal(last?.host, bed.host);
  assert.deepEqual(
    last.layers.map(({ state, doneBytes, totalBytes }) => [state, doneBytes - totalBytes]),
    [
      ['done', 0],
      ['done', 0],
    ],
  );
  assert.ok(last.receivedBytes > 0);
  assert.deepEqual(node.puller.pulls(), []);
});

test('a joined pull continues while a caller waits, and leaves nothing when all have cancelled', async () => {
  await bed.push('waiters', '1', { layers: [base, upper] });
  const gate = createGate();
  const node = await bed.node({ unpacker: gate.unpacker });
  const [one, two] = [new AbortController(), new AbortController()];
  const late = node.pull(`${bed.host}/waiters:1`, one.signal);
  const patient = node.pull(`${bed.host}/waiters:1`, two.signal);
  await gate.arrived;
  one.abort(new DOMException('late', 'TimeoutError'));
  await failsWith(late, 'DEADLINE_EXCEEDED', /deadline exceeded/);
  two.abort();
  await failsWith(patient, 'CANCELLED', /canceled/);
  while (layersOnDisk(node.root).length > 0) await sleep(20);
  assertNoLeftovers(node);
  gate.open();
  await node.pull(`${bed.host}/waiters:1`);
});

test('a deadline that has passed before the pull starts is reported as such', async () => {
  const node = await bed.node();
  await failsWith(node.pull(`${bed.host}/waiters:1`, AbortSignal.timeout(0)), 'DEADLINE_EXCEEDED', /deadline exceeded/);
  await failsWith(node.pull('no such//name', AbortSignal.abort()), 'INVALID_ARGUMENT', /image name/);
});

test('concurrent pulls of different images share a layer in progress', async () => {
  await bed.push('share/a', '1', { layers: [base, layerOf({ a: 'a' })] });
  await bed.push('share/b', '1', { layers: [base, layerOf({ b: 'b' })] });
  const node = await bed.node();
  const images = await Promise.all([node.pull(`${bed.host}/share/a:1`), node.pull(`${bed.host}/share/b:1`)]);
  assert.equal(node.unpacked.filter((diffId) => diffId === digestOf(base)).length, 1);
  assert.equal(node.unpacked.length, 3);
  for (const image of images) for (const directory of node.store.rootOf(image).layerDirs) assert.ok(existsSync(directory));
  assert.equal(layersOnDisk(node.root).length, 3);
});

test('a pull takes over the layer of a cancelled pull', async () => {
  await bed.push('over/a', '1', { layers: [base, layerOf({ a: 'over' })] });
  await bed.push('over/b', '1', { layers: [base] });
  const gate = createGate();
  const node = await bed.node({ unpacker: gate.unpacker });
  const controller = new AbortController();
  const first = node.pull(`${bed.host}/over/a:1`, controller.signal);
  first.catch(() => undefined);
  await gate.arrived;
  const second = node.pull(`${bed.host}/over/b:1`);
  await sleep(200);
  controller.abort();
  await failsWith(first, 'CANCELLED', /canceled/);
  gate.open();
  const image = await second;
  assert.ok(existsSync(join(node.store.rootOf(image).layerDirs[0] ?? '', 'etc/os')));
  while (layersOnDisk(node.root).length > 1) await sleep(20);
  assert.deepEqual(layersOnDisk(node.root), [digestOf(base)]);
});

test('an image that does not match its digests leaves nothing behind', async () => {
  const other = digestOf(Buffer.from('other'));
  await bed.push('wrong/diff', '1', { layers: [base, upper], diffIds: [digestOf(base), other] });
  await bed.push('wrong/count', '1', { layers: [base, upper], diffIds: [digestOf(base)] });
  await bed.push('wrong/tar', '1', { layers: [base, Buffer.alloc(5000, 'x')] });
  await bed.push('wrong/path', '1', { layers: [base, layerOf({ '../up': 'evil' })] });
  const node = await bed.node();
  await failsWith(node.pull(`${bed.host}/wrong/diff:1`), 'FAILED_PRECONDITION', /^layer sha256:.*diff id mismatch/);
  await failsWith(node.pull(`${bed.host}/wrong/count:1`), 'FAILED_PRECONDITION', /1 layers.* 2/);
  await failsWith(node.pull(`${bed.host}/wrong/tar:1`), 'INVALID_ARGUMENT', /^layer sha256:.*not a tar/);
  await failsWith(node.pull(`${bed.host}/wrong/path:1`), 'INVALID_ARGUMENT', /^layer sha256:.*"\.\."/);
  assertNoLeftovers(node);
});

test('a corrupt blob is rejected', async () => {
  const pushed = await bed.push('damaged', '1', { layers: [layerOf({ f: 'precious'.repeat(1000) })], compress: (tar) => tar });
  const hex = pushed.diffIds[0]?.slice('sha256:'.length) ?? '';
  const file = join(bed.directory, 'registry/docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
  const bytes = readFileSync(file);
  bytes[1000] = 0x21;
  writeFileSync(file, bytes);
  const node = await bed.node();
  await failsWith(node.pull(`${bed.host}/damaged:1`), 'FAILED_PRECONDITION', /digest mismatch/);
  assertNoLeftovers(node);
});

test('a layer is resumed after each broken connection', async () => {
  const noise = randomBytes(1 << 20);
  const pushed = await bed.push('breaking', '1', { layers: [layerOf({ noise }), base] });
  let breaks = 0;
  const host = await startProxy(bed.host, (blob) => {
    breaks += 1;
    return blob.subarray(0, 200_000);
  });
  const node = await bed.node();
  const image = await node.pull(`${host}/breaking:1`);
  assert.equal(image.id, pushed.id);
  assert.ok(breaks > 4);
  assert.ok(readFileSync(join(node.store.rootOf(image).layerDirs[1] ?? '', 'noise')).equals(noise));
});

test('a corrupt layer of a mirror is discarded and fetched from the registry', async () => {
  await bed.push('mirrored', '1', { layers: [layerOf({ noise: randomBytes(100_000) })] });
  const host = await startProxy(bed.host, (blob) => Buffer.concat([blob.subarray(0, -1), Buffer.from([(blob.at(-1) ?? 0) ^ 1])]));
  const node = await bed.node();
  mkdirSync(join(node.root, 'certs.d', bed.host), { recursive: true });
  writeFileSync(
    join(node.root, 'certs.d', bed.host, 'hosts.toml'),
    `server = "http://${bed.host}"\n[host."http://${host}"]\n  capabilities = ["pull", "resolve"]\n`,
  );
  await node.pull(`${bed.host}/mirrored:1`);
  assert.ok(node.logged.some((line) => line.message.includes('corrupt layer from mirror')));
  assert.equal(layersOnDisk(node.root).length, 1);
  await failsWith((await bed.node()).pull(`${host}/mirrored:1`), 'INVALID_ARGUMENT', /^layer sha256:.*decompress/);
});

test('removal by any name removes the image, all its names and its unshared layers, and is idempotent', async () => {
  const shared = await bed.push('remove/a', '1', { layers: [base, upper] });
  await bed.push('remove/other', '2', { layers: [base, upper] });
  await bed.push('remove/b', '1', { layers: [base] });
  const node = await bed.node();
  const pullBoth = async () => {
    await node.pull(`${bed.host}/remove/a:1`);
    await node.pull(`${bed.host}/remove/other:2`);
  };
  await node.pull(`${bed.host}/remove/b:1`);
  for (const reference of [`${bed.host}/remove/a:1`, `${bed.host}/remove/other@${shared.digest}`, shared.id]) {
    await pullBoth();
    await Promise.all([node.store.remove(reference), node.store.remove(reference)]);
    assert.equal(node.store.find(shared.id), undefined);
    assert.equal(node.store.find(`${bed.host}/remove/other:2`), undefined);
    assert.deepEqual(layersOnDisk(node.root), [digestOf(base)]);
    assert.deepEqual((await bed.node({ root: node.root })).store.list().length, 1);
  }
  await node.store.remove(`${bed.host}/remove/b:1`);
  assertNoLeftovers(node);
});

test('layers leased by a container survive the removal of the image until they are released', async () => {
  const pushed = await bed.push('leased', '1', { layers: [base, upper] });
  const node = await bed.node();
  const image = await node.pull(`${bed.host}/leased:1`);
  node.store.lease('container-1', image.diffIds);
  node.store.lease('container-2', image.diffIds.slice(0, 1));
  await node.store.remove(pushed.id);
  await node.store.collect();
  assert.deepEqual(layersOnDisk(node.root), [...pushed.diffIds].sort());
  const used = await node.store.fsInfo();
  assert.equal(used.mountpoint, node.root);
  assert.ok(used.usedBytes > 0 && used.inodesUsed > 0);
  await node.store.release('container-1');
  assert.deepEqual(layersOnDisk(node.root), pushed.diffIds.slice(0, 1));
  await node.store.release('container-2');
  await node.store.release('container-2');
  assertNoLeftovers(node);
  assert.deepEqual(await node.store.fsInfo(), { mountpoint: node.root, usedBytes: 0, inodesUsed: 0 });
});

test('leases at startup keep the layers of removed images', async () => {
  const pushed = await bed.push('restart', '1', { layers: [base] });
  const node = await bed.node();
  await node.pull(`${bed.host}/restart:1`);
  rmSync(join(node.root, 'images'), { recursive: true });
  const restarted = await bed.node({ root: node.root });
  restarted.store.lease('container', pushed.diffIds);
  await restarted.store.collect();
  assert.deepEqual(layersOnDisk(node.root), pushed.diffIds);
  await restarted.store.release('container');
  assert.deepEqual(layersOnDisk(node.root), []);
});

test('an unreadable record keeps its layers and is replaced by the next pull', async () => {
  const pushed = await bed.push('unreadable', '1', { layers: [base] });
  const node = await bed.node();
  await node.pull(`${bed.host}/unreadable:1`);
  const file = join(node.root, 'images', `${pushed.id.slice('sha256:'.length)}.json`);
  const text = readFileSync(file, 'utf8');
  for (const damaged of [text.slice(0, -20), text.replace('"version":1', '"version":9'), text.replace('linux', 'Linux')]) {
    assert.notEqual(damaged, text);
    writeFileSync(file, damaged);
    const restarted = await bed.node({ root: node.root });
    await restarted.store.collect();
    assert.deepEqual(restarted.store.list(), []);
    assert.ok(restarted.logged.some((line) => line.message.includes('unreadable image record')));
    assert.equal(readFileSync(file, 'utf8'), damaged);
    assert.deepEqual(layersOnDisk(node.root), pushed.diffIds);
    await restarted.pull(`${bed.host}/unreadable:1`);
    assert.equal((await bed.node({ root: node.root })).store.list().length, 1);
  }
});

test('an image with a missing layer is removed at startup and can be pulled again', async () => {
  const pushed = await bed.push('incomplete', '1', { layers: [base, upper] });
  const node = await bed.node();
  await node.pull(`${bed.host}/incomplete:1`);
  const [lower = ''] = pushed.diffIds;
  writeFileSync(join(node.root, 'layers', lower.slice('sha256:'.length), 'layer.json'), '');
  const restarted = await bed.node({ root: node.root });
  assert.deepEqual(restarted.store.list(), []);
  await restarted.store.collect();
  assertNoLeftovers(restarted);
  await restarted.pull(`${bed.host}/incomplete:1`);
});

test('unsynced layers are re-fetched after a reboot, but not after a restart of the daemon', async () => {
  await bed.push('power', 'v1', { layers: [layerOf({ 'etc/power': 'on' }), layerOf({ 'etc/more': 'on' })] });
  const reference = `${bed.host}/power:v1`;
  const neverSynced = { ...bed.unpacker, sync: () => Promise.reject(new Error('the disk is slow')) };
  const { root, pull } = await bed.node({ unpacker: neverSynced, bootId: 'first' });
  await pull(reference);

  const restarted = await bed.node({ root, bootId: 'first', unpacker: neverSynced });
  assert.ok(restarted.store.find(reference), 'the kernel still has unsynced data');

  const rebooted = await bed.node({ root, bootId: 'second' });
  assert.equal(rebooted.store.find(reference), undefined);
  await rebooted.store.collect();
  assert.deepEqual(layersOnDisk(root), []);
  await rebooted.pull(reference);
  await rebooted.store.layers.synced();
  assert.ok((await bed.node({ root, bootId: 'third' })).store.find(reference), 'synced layers survive a reboot');
});

test('the complete layers of a failed pull are reused, also by the next daemon, and removed after a timeout', async () => {
  const layers = [layerOf({ one: 'kept' }), layerOf({ two: randomBytes(200_000) })];
  const pushed = await bed.push('unfinished', '1', { layers });
  const reference = `${bed.host}/unfinished:1`;
  const large = pushed.diffIds[1];
  const failing = {
    ...bed.unpacker,
    unpack: (...[job, ...rest]: Parameters<typeof bed.unpacker.unpack>) =>
      job.diffId === large ? sleep(200).then(() => Promise.reject(new BerthError('UNAVAILABLE', 'gone'))) : bed.unpacker.unpack(job, ...rest),
  };
  const { root, pull, store } = await bed.node({ unpacker: failing, keepUnfinishedMs: 60_000 });
  await failsWith(pull(reference), 'UNAVAILABLE', /gone/);
  assert.deepEqual(layersOnDisk(root), [pushed.diffIds[0]]);
  assert.equal(store.list().length, 0);

  const restarted = await bed.node({ root, keepUnfinishedMs: 60_000 });
  await restarted.store.collect();
  await restarted.pull(reference);
  assert.deepEqual(restarted.unpacked, [large]);
  await restarted.store.remove(reference);
  assert.deepEqual(layersOnDisk(root), []);

  const impatient = await bed.node({ unpacker: failing, keepUnfinishedMs: 50 });
  await failsWith(impatient.pull(reference), 'UNAVAILABLE', /gone/);
  while (layersOnDisk(impatient.root).length > 0) await sleep(20);
});

test('collect() removes incomplete layers of a killed daemon, and nothing of a pull in progress', async () => {
  await bed.push('leftover', '1', { layers: [base] });
  const gate = createGate();
  const node = await bed.node({ unpacker: gate.unpacker });
  mkdirSync(join(node.root, 'layers/new-dead/diff/d'), { recursive: true });
  mkdirSync(join(node.root, 'layers/old-dead/diff'), { recursive: true });
  writeFileSync(join(node.root, 'images/x.json.new'), 'half');
  const restarted = await bed.node({ root: node.root, unpacker: gate.unpacker });
  const pull = restarted.pull(`${bed.host}/leftover:1`);
  await gate.arrived;
  await restarted.store.collect();
  assert.equal(layersOnDisk(node.root).length, 1);
  assert.deepEqual(readdirSync(join(node.root, 'images')), []);
  gate.open();
  await pull;
  assert.deepEqual(layersOnDisk(node.root), [digestOf(base)]);
});

/** Starts a pull in another process and kills it after the given time. */
async function pullAndKill(root: string, reference: string, afterMs: number): Promise<void> {
  const child = spawn(process.execPath, [new URL('./support/pull-once.ts', import.meta.url).pathname, root, reference], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  await Promise.race([sleep(afterMs), ended]);
  child.kill('SIGKILL');
  await ended;
}

test('a daemon killed at any moment of a pull leaves complete images or none, and collect() removes the rest', async () => {
  const layers = Array.from({ length: 4 }, (_, at) => layerOf({ [`f${at}`]: randomBytes(3 << 20), [`many/${at}`]: 'x' }));
  const pushed = await bed.push('killed', '1', { layers });
  const reference = `${bed.host}/killed:1`;
  const { root } = await bed.node();
  let interrupted = 0;
  for (const afterMs of [0, 10, 25, 40, 60, 80, 110, 150, 200, 260, 330, 410]) {
    await pullAndKill(root, reference, afterMs);
    const node = await bed.node({ root });
    const images = node.store.list();
    const before = layersOnDisk(root);
    await node.store.collect();
    if (images.length === 0) {
      if (before.length > 0) interrupted += 1;
      assertNoLeftovers(node);
      continue;
    }
    assertComplete(node, images[0]);
    assert.deepEqual(layersOnDisk(root), [...pushed.diffIds].sort());
    await node.store.remove(reference);
  }
  assert.ok(interrupted > 0, 'some pulls were interrupted');
  const node = await bed.node({ root });
  assertComplete(node, await node.pull(reference));
});

function assertComplete(node: Node, image: ImageRecord | undefined): void {
  assert.ok(image !== undefined);
  const sizes = node.store.rootOf(image).layerDirs.map((directory, at) => readFileSync(join(directory, `f${3 - at}`)).length);
  assert.deepEqual(sizes, [3 << 20, 3 << 20, 3 << 20, 3 << 20]);
}

test('memory usage does not depend on the size of the layers', async () => {
  const zeros = Buffer.alloc(120 << 20);
  await bed.push('large', '1', { layers: [layerOf({ zeros }), layerOf({ noise: randomBytes(60 << 20) }), layerOf({ zeros, more: 'x' })] });
  const node = await bed.node();
  const child = spawn(process.execPath, [new URL('./support/pull-once.ts', import.meta.url).pathname, node.root, `${bed.host}/large:1`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 0);
  const peakKiB = Number(/peak (\d+)/.exec(output)?.[1]);
  const startKiB = Number(/start (\d+)/.exec(output)?.[1]);
  // The image has 300 MiB; the limit allows two workers with their buffers.
  assert.ok(peakKiB - startKiB < 90 << 10, `grew from ${startKiB} to ${peakKiB} KiB`);
});
