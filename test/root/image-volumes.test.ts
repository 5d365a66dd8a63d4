/** Image volumes: their content in a container, read-only access, and sub paths. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { diffIdsOf } from '../../src/engine/lifecycle/container.ts';
import { recover } from '../../src/engine/recover.ts';
import type { IdMap, Mount, NamespaceModes } from '../../src/engine/state/spec.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from './support/engine.ts';

const never = new AbortController().signal;
let host: TestEngine;
let leftoversBefore: string[];
let layers: string[];

before(async () => {
  leftoversBefore = findLeftovers();
  host = await startEngine();
  layers = ['top', 'bottom'].map((name) => join(host.directory, `volume-${name}`));
  const [top = '', bottom = ''] = layers;
  for (const path of ['deep/dir', 'bin']) mkdirSync(join(bottom, path), { recursive: true });
  mkdirSync(join(top, 'deep'), { recursive: true });
  writeFileSync(join(bottom, 'deep/below'), 'below');
  writeFileSync(join(top, 'deep/above'), 'above');
  writeFileSync(join(bottom, 'bin/run'), '#!/bin/sh\necho ran\n', { mode: 0o755 });
  symlinkSync('/deep', join(top, 'link'));
  symlinkSync('../../../../../../etc', join(top, 'out'));
  symlinkSync(`/proc/${process.pid}/root/etc`, join(top, 'magic'));
  symlinkSync('loop', join(top, 'loop'));
});
after(async () => {
  await host.end();
  assert.deepEqual(findLeftovers(), leftoversBefore, 'nothing is left');
});

function findLeftovers(): string[] {
  const cgroups = readdirSync(existsSync('/sys/fs/cgroup/pids') ? '/sys/fs/cgroup/pids' : '/sys/fs/cgroup');
  return [...readFileSync('/proc/self/mounts', 'utf8').split('\n'), ...cgroups.filter((name) => name === `berth-test-${process.pid}`)];
}

function volume(subPath = '', layerDirs = layers): Mount {
  const found = { id: 'sha256:volume', layerDirs, diffIds: ['sha256:a', 'sha256:layer'] };
  const image = { requested: 'example.com/volume', subPath, found };
  return {
    containerPath: '/v',
    hostPath: '',
    image,
    isReadonly: true,
    isRecursiveReadonly: false,
    propagation: 'private',
    wantsSelinuxRelabel: false,
    options: [],
  };
}

async function start(mount: Mount, user?: IdMap): Promise<string> {
  const namespaces: NamespaceModes = { network: 'pod', ipc: 'pod', pid: 'container', ...(user ? { user } : {}) };
  const sandboxId = await host.engine.runSandbox(sandboxSpec({ namespaces }));
  const spec = containerSpec(['sleep', '1000'], { mounts: [mount], security: { ...security, namespaces } });
  const id = await host.engine.createContainer(sandboxId, spec, host.image);
  await host.engine.startContainer(id);
  return id;
}

async function run(id: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await host.engine.execSync(id, ['sh', '-c', script], 20_000, never);
  assert.equal(exitCode, 0, `${script}: ${stdout}${stderr}`);
  return stdout.toString();
}

test('an image volume shows all layers, is executable and read-only', async () => {
  const id = await start(volume());
  assert.equal(await run(id, 'cat /v/deep/above /v/deep/below; /v/bin/run'), 'abovebelowran\n');
  for (const write of ['touch /v/new', 'echo x > /v/deep/below', 'touch /v/deep/dir/new'])
    await assert.rejects(run(id, write), /Read-only file system/);
});

test('images with one layer and without layers can be volumes', async () => {
  assert.equal(await run(await start(volume('', layers.slice(1))), 'ls /v'), 'bin\ndeep\n');
  assert.equal(await run(await start(volume('', [])), 'ls /v'), '');
});

test('a sub path is a directory of the image, and symlinks in it are resolved inside the image', async () => {
  for (const path of ['deep', '/deep/', './bin/../deep', 'link', '/link']) {
    const id = await start(volume(path));
    assert.equal(await run(id, 'ls /v; cat /v/above'), 'above\nbelow\ndir\nabove', path);
    await assert.rejects(run(id, 'touch /v/new'), /Read-only file system/);
  }
});

test('a sub path that is missing, not a directory, or outside fails with the reason that the kubelet expects', async () => {
  const wrong = {
    nowhere: /no such file/,
    'deep/above': /not a directory/,
    '../x': /leaves the image/,
    'deep/../../x': /leaves/,
    out: /no such file/,
    magic: /ELOOP|no such file/,
    loop: /ELOOP/,
  };
  for (const [path, reason] of Object.entries(wrong)) {
    await assert.rejects(start(volume(path)), (error: Error) => {
      assert.match(error.message, /ImageVolumeMountFailed: /, path);
      assert.match(error.message, reason, path);
      return true;
    });
  }
});

test('a missing image is rejected as a failed mount', async () => {
  const mount = volume('', [join(host.directory, 'gone')]);
  await assert.rejects(start(mount), /ImageVolumeMountFailed: image example\.com\/volume: .*gone/);
});

test('a pod in a user namespace sees the owners of the image; the layers are not modified', async () => {
  const range = { hostId: 500_000, length: 65536 };
  const id = await start(volume('deep'), { uids: range, gids: range });
  assert.equal(await run(id, 'stat -c %u:%g /v /v/above /v/below'), '0:0\n0:0\n0:0\n');
  assert.equal(statSync(join(layers[0] ?? '', 'deep/above')).uid, 0);
});

test('a container keeps the layers of its volumes, also across a restart of the daemon', async () => {
  const leased = new Map<string, readonly string[]>();
  const deps = { ...host.deps, layers: { ...host.deps.layers, lease: (owner: string, ids: readonly string[]) => leased.set(owner, ids) } };
  const id = await start(volume());
  const { spec, image } = host.engine.container(id).record;
  assert.deepEqual(diffIdsOf(spec, image), ['sha256:layer', 'sha256:a']);
  await recover(deps as never);
  assert.deepEqual(leased.get(id), ['sha256:layer', 'sha256:a']);
});
