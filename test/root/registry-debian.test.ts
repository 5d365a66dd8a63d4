/**
 * The registry client with Debian's docker-registry, with and without passwords.
 *
 * Runs in a separate network namespace; connects only to 127.0.0.1.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import type { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { parseManifest } from '../../src/images/document/manifest.ts';
import { parseReference } from '../../src/images/document/reference.ts';
import type { RegistryAuth } from '../../src/images/registry/challenges.ts';
import { createRegistryClient, type RegistrySession } from '../../src/images/registry/registry.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { config, configBytes, layer, layerBytes, manifestBytes, manifestDigest, manifestType } from '../support/fake-registry.ts';

const password = 'open-sesame';
const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const userAuth = { ...noAuth, username: 'kim', password };
let directory: string;

before(() => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  directory = mkdtempSync(`${tmpdir()}/berth-debian-registry-`);
});
after(() => rmSync(directory, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function startRegistry(name: string, htpasswd?: string): Promise<{ host: string; child: ChildProcess }> {
  const host = `127.0.0.1:${await freePort()}`;
  const auth = htpasswd === undefined ? '' : `auth:\n  htpasswd:\n    realm: test\n    path: ${htpasswd}\n`;
  const storage = `storage:\n  filesystem:\n    rootdirectory: ${directory}/${name}\n`;
  writeFileSync(`${directory}/${name}.yml`, `version: 0.1\nlog:\n  level: error\n${storage}${auth}http:\n  addr: ${host}\n`);
  const child = spawn('/usr/bin/docker-registry', ['serve', `${directory}/${name}.yml`], { stdio: 'ignore' });
  const port = Number(host.split(':')[1]);
  const isListening = () =>
    new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
  while (!(await isListening())) {
    assert.equal(child.exitCode, null, 'docker-registry runs');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return { host, child };
}

async function stopRegistry({ child }: { child: ChildProcess }): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}

/** Pushes the test image like other clients. */
async function push(host: string, headers: Record<string, string>): Promise<void> {
  for (const [bytes, { digest }] of [
    [layerBytes, layer],
    [configBytes, config],
  ] as const) {
    const begun = await fetch(`http://${host}/v2/team/app/blobs/uploads/`, { method: 'POST', headers });
    assert.equal(begun.status, 202);
    const url = new URL(begun.headers.get('location') ?? '', `http://${host}`);
    url.searchParams.set('digest', digest);
    const put = await fetch(url, { method: 'PUT', headers: { ...headers, 'content-type': 'application/octet-stream' }, body: new Uint8Array(bytes) });
    assert.equal(put.status, 201);
  }
  const put = { method: 'PUT', headers: { ...headers, 'content-type': manifestType }, body: new Uint8Array(manifestBytes) };
  assert.equal((await fetch(`http://${host}/v2/team/app/manifests/1`, put)).status, 201);
}

async function withSession(name: string, auth: RegistryAuth | undefined, body: (session: RegistrySession) => Promise<void>): Promise<void> {
  const client = createRegistryClient({ registryDir: '', userAgent: 'berth/test', timing: { backoffMs: 5 } });
  const session = await client.openSession(parseReference(name), auth, AbortSignal.timeout(20_000));
  try {
    await body(session);
  } finally {
    session.close();
  }
}

async function readAll(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function pullImage(session: RegistrySession): Promise<void> {
  assert.deepEqual(await session.resolve('1'), { digest: manifestDigest, mediaType: manifestType });
  const fetched = await session.fetchManifest('1');
  const manifest = parseManifest(fetched.bytes, fetched.mediaType);
  assert.ok(manifest.kind === 'manifest');
  assert.ok((await session.fetchSmallBlob(manifest.config, 1 << 20)).equals(configBytes));
  for (const offset of [0, 123_457]) {
    const { stream } = await session.openBlob(layer, { offset });
    assert.ok((await readAll(stream)).equals(layerBytes.subarray(offset)));
  }
}

const withCode = (code: string) => (error: unknown) => error instanceof BerthError && error.code === code && !error.message.includes(password);

describe('docker-registry', () => {
  test('without authentication: returns the image, and NOT_FOUND for a missing one', async () => {
    const registry = await startRegistry('open');
    try {
      await push(registry.host, {});
      await withSession(`${registry.host}/team/app:1`, undefined, pullImage);
      await withSession(`${registry.host}/team/app@${manifestDigest}`, undefined, async (session) => {
        assert.equal((await session.fetchManifest(manifestDigest)).digest, manifestDigest);
        await assert.rejects(session.fetchManifest(`sha256:${'0'.repeat(64)}`), withCode('NOT_FOUND'));
        await assert.rejects(session.openBlob({ ...layer, digest: `sha256:${'0'.repeat(64)}` }), withCode('NOT_FOUND'));
        await assert.rejects(session.openBlob({ ...layer, sizeBytes: 1 }), withCode('FAILED_PRECONDITION'));
      });
      await withSession(`${registry.host}/absent:1`, undefined, async (session) => {
        await assert.rejects(session.fetchManifest('1'), withCode('NOT_FOUND'));
      });
    } finally {
      await stopRegistry(registry);
    }
  });

  test('with passwords: returns the image only with valid credentials', async () => {
    execFileSync('htpasswd', ['-Bbc', `${directory}/htpasswd`, 'kim', password], { stdio: 'ignore' });
    const registry = await startRegistry('closed', `${directory}/htpasswd`);
    const base64 = Buffer.from(`kim:${password}`).toString('base64');
    try {
      await push(registry.host, { authorization: `Basic ${base64}` });
      const name = `${registry.host}/team/app:1`;
      for (const auth of [userAuth, { ...noAuth, auth: base64 }, { ...userAuth, serverAddress: `http://${registry.host}` }]) {
        await withSession(name, auth, pullImage);
      }
      for (const auth of [undefined, noAuth, { ...userAuth, password: 'guess' }, { ...userAuth, serverAddress: 'elsewhere.example' }]) {
        await withSession(name, auth, async (session) => {
          await assert.rejects(session.fetchManifest('1'), withCode('UNAUTHENTICATED'));
        });
      }
    } finally {
      await stopRegistry(registry);
    }
  });
});
