/**
 * `berth image import|export|pull` and `berth pulls` with the daemon: files and streams, errors, and the progress in lists and metrics.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { platform } from '../support/image-bed.ts';
import { enterIsolation } from '../support/isolation.ts';
import { makeTar } from '../support/tar-maker.ts';
import { createWorkspace, type Daemon, isBuilt, runBerth, startDaemon, type Workspace } from './support/daemon.ts';

if (isBuilt) enterIsolation();

const program = resolve(import.meta.dirname, '../../bin/berth');
const metricsAddress = '127.0.0.1:19257';
const layer = makeTar([
  { path: 'etc/os', content: 'berth' },
  { path: 'big', content: Buffer.alloc(24 << 20, 'noise') },
]);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const config = Buffer.from(JSON.stringify({ ...platform, config: {}, rootfs: { type: 'layers', diff_ids: [`sha256:${sha256(layer)}`] } }));
const id = `sha256:${sha256(config)}`;

let workspace: Workspace;
let daemon: Daemon;

before(async () => {
  assert.ok(isBuilt, 'the daemon is built');
  workspace = createWorkspace();
  daemon = await startDaemon(workspace, { metrics: metricsAddress });
});

after(async () => {
  await daemon.end('SIGTERM');
  await workspace.remove();
});

const at = (name: string): string => join(workspace.directory, name);
const socketFlags = (): string[] => ['--config', at('config.toml'), '--socket', workspace.socket];
const berth = (...args: string[]) => runBerth([...args, ...socketFlags()]);

function archive(name: string): Buffer {
  const manifest = [{ Config: `${sha256(config)}.json`, RepoTags: [name], Layers: ['layer.tar'] }];
  return makeTar([
    { path: 'layer.tar', content: layer },
    { path: `${sha256(config)}.json`, content: config },
    { path: 'manifest.json', content: JSON.stringify(manifest) },
  ]);
}

test('an archive is imported from a file and exported to a file', async () => {
  writeFileSync(at('in.tar'), archive('files:1'));
  assert.deepEqual(await berth('image', 'import', at('in.tar')), { code: 0, output: `${id} docker.io/library/files:1\n` });
  assert.deepEqual(await berth('image', 'export', 'files:1', '-o', at('out.tar')), { code: 0, output: '' });
  assert.deepEqual(await berth('image', 'rm', 'files:1'), { code: 0, output: `${id}\n` });
  assert.deepEqual(await berth('image', 'import', at('out.tar'), '--name', 'other:2'), { code: 0, output: `${id} docker.io/library/other:2\n` });
  assert.match((await berth('image', 'verify', '--root', workspace.root)).output, /1 image, 1 layer,.*: ok/);
});

test('an archive is imported from a pipe and exported to a pipe', async () => {
  const shell = `"$BERTH" image export other:2 ${socketFlags().join(' ')} | gzip -1 | "$BERTH" image import - --name piped ${socketFlags().join(' ')}`;
  const output = execFileSync('bash', ['-o', 'pipefail', '-c', shell], { encoding: 'utf8', env: { ...process.env, BERTH: program } });
  assert.ok(output.startsWith(`${id} `) && output.includes('docker.io/library/piped:latest'), output);
});

test('a failure prints an error, exits with 1, and leaves no file', async () => {
  writeFileSync(at('half.tar'), archive('half:1').subarray(0, 1 << 20));
  const cases: readonly (readonly [string[], RegExp])[] = [
    [['image', 'import', at('half.tar')], /^berth: import archive: .*unexpected end/],
    [['image', 'import', at('nothere.tar')], /^berth: read .*nothere.tar: no such file or directory/],
    [['image', 'import', at('in.tar'), '--name', 'A b'], /^berth: invalid image name "A b"/],
    [['image', 'export', 'nothere', '-o', at('x.tar')], /^berth: image nothere is not on this node/],
    [['image', 'export', 'other:2', '-o', '/nothere/x.tar'], /^berth: write .*ENOENT/],
    [['image', 'pull', '127.0.0.1:1/x:1'], /^berth: RegistryUnavailable/],
  ];
  for (const [args, message] of cases) {
    const { code, output } = await berth(...args);
    assert.equal(code, 1, output);
    assert.match(output, message);
  }
  assert.deepEqual(leftovers(), []);
});

test('a killed import or export leaves nothing in the store and no leases', async () => {
  const files = () => readdirSync(join(workspace.root, 'layers'));
  const before = files();
  const reader = start('image', 'export', 'other:2');
  await new Promise((ready) => reader.stdout?.once('readable', ready));
  reader.kill('SIGKILL');
  const sender = start('image', 'import', '-');
  // It is killed before it has read everything.
  sender.stdin?.on('error', () => undefined);
  sender.stdin?.write(archive('killed:1').subarray(0, 8 << 20));
  await until(() => files().some((name) => name.startsWith('new-')));
  sender.kill('SIGKILL');
  await until(() => files().length === before.length);
  assert.deepEqual(files(), before);
  const writer = start('image', 'export', 'other:2', '-o', at('killed.tar'));
  await until(() => leftovers().length > 0 || writer.exitCode !== null);
  writer.kill('SIGTERM');
  await until(() => writer.exitCode !== null);
  assert.deepEqual(leftovers(), []);
  assert.equal((await berth('image', 'rm', 'other:2')).code, 0);
  await until(() => files().length === 0);
});

test('pulls in progress are listed with layers, bytes and host, and counted in metrics', async (t) => {
  const retriesBefore = metricOf(await metrics(), 'berth_image_pull_retries_total');
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  const blobs = new Map([config, layer].map((bytes) => [`sha256:${sha256(bytes)}`, bytes]));
  const types = ['application/vnd.oci.image.config.v1+json', 'application/vnd.oci.image.layer.v1.tar'];
  const [own, only] = [...blobs].map(([digest, bytes], position) => ({ mediaType: types[position], digest, size: bytes.length }));
  const manifest = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json', config: own, layers: [only] }),
  );
  let requests = 0;
  const registry = createServer(async (request, response) => {
    const bytes = request.url?.includes('/manifests/') ? manifest : blobs.get(request.url?.split('/').at(-1) ?? '');
    if (request.url?.includes('/manifests/')) {
      requests += 1;
      if (requests === 1) return void response.writeHead(500).end();
      response.setHeader('content-type', 'application/vnd.oci.image.manifest.v1+json');
    }
    if (bytes !== layer) return void response.end(bytes);
    response.writeHead(200, { 'content-length': layer.length });
    response.write(layer.subarray(0, layer.length >> 1));
    await held;
    response.end(layer.subarray(layer.length >> 1));
  });
  await new Promise<void>((ready) => registry.listen(0, '127.0.0.1', ready));
  t.after(() => {
    release();
    registry.closeAllConnections();
    registry.close();
  });
  const host = `127.0.0.1:${(registry.address() as AddressInfo).port}`;
  const pull = runBerth(['image', 'pull', `${host}/held:1`, ...socketFlags()]);
  let listed = '';
  await until(async () => {
    listed = (await berth('pulls')).output;
    return listed.includes('12.6MB/25.2MB');
  });
  const [, row = ''] = listed.trim().split('\n');
  assert.match(row, new RegExp(`^${host}/held:1 +fetching +0/1 +12\\.6MB/25\\.2MB +[0-9.]+MB/s +${host} +1 +[0-9]+s$`));
  assert.match(await metrics(), /^berth_image_pulls_running 1$/m);
  release();
  assert.deepEqual(await pull, { code: 0, output: `${id}\n` });
  assert.equal((await berth('image', 'pulls')).output.trim().split('\n').length, 1);
  const text = await metrics();
  assert.equal(metricOf(text, 'berth_image_pulls_running'), 0);
  assert.equal(metricOf(text, 'berth_image_pull_retries_total'), retriesBefore + 1);
  assert.equal(metricOf(text, 'berth_image_pull_bytes_total'), layer.length);
  const logged =
    readFileSync(workspace.logFile, 'utf8')
      .split('\n')
      .find((line) => line.includes('image pulled')) ?? '{}';
  const { host: answered, retries, layers, bytes } = JSON.parse(logged);
  assert.deepEqual({ answered, retries, layers, bytes }, { answered: host, retries: 1, layers: 1, bytes: layer.length });
});

function start(...args: string[]): ChildProcess {
  return spawn(program, [...args, ...socketFlags()], { stdio: ['pipe', 'pipe', 'inherit'] });
}

/** Returns the temporary files of exports. */
function leftovers(): string[] {
  return readdirSync(workspace.directory).filter((name) => name.startsWith('.') || (name === 'x.tar' && existsSync(at(name))));
}

async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let waits = 0; !(await isSo()); waits += 1) {
    assert.ok(waits < 200, 'timeout');
    await sleep(50);
  }
}

async function metrics(): Promise<string> {
  return await (await fetch(`http://${metricsAddress}/metrics`)).text();
}

function metricOf(text: string, name: string): number {
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}
