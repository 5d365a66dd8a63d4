/**
 * What the tests of the registry client share: two fake registries for each test, a session, and errors that must show no secret.
 *
 * Asserts on nothing but what every test wants: one error type, one line, no secret.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import type { Readable } from 'node:stream';
import { after, afterEach, before, beforeEach } from 'node:test';
import { parseReference } from '../../src/images/document/reference.ts';
import type { RegistryAuth } from '../../src/images/registry/auth.ts';
import { createRegistryClient, type RegistryDeps, type RegistrySession } from '../../src/images/registry/registry.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { type FakeRegistry, layer, layerBytes, startFakeRegistry } from './fake-registry.ts';

export const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
export const password = 'pass-word-that-must-not-show';
export const userAuth = { ...noAuth, username: 'kim', password };
export const basicHeader = `Basic ${Buffer.from(`kim:${password}`).toString('base64')}`;
export const timing = { responseTimeoutMs: 2000, stallTimeoutMs: 300, backoffMs: 5, backoffMsMax: 20 };

export type SessionOptions = { name?: string; auth?: RegistryAuth; signal?: AbortSignal; deps?: Partial<RegistryDeps> };

/** Valid inside a test: each has fake registries of its own. */
export type Bed = {
  readonly directory: string;
  readonly fake: FakeRegistry;
  readonly other: FakeRegistry;
  readonly logged: string[];
  /** Runs with a session for `1` of team/app on the fake registry, and closes it. */
  withSession(body: (session: RegistrySession) => Promise<void>, options?: SessionOptions): Promise<void>;
  hostsToml(domain: string, text: string): void;
};

/** Registers the hooks of a test file. */
export function useRegistries(): Bed {
  const directory = mkdtempSync(`${tmpdir()}/berth-registry-`);
  const logged: string[] = [];
  let registries: { fake: FakeRegistry; other: FakeRegistry } | undefined;

  before(() => void execFileSync('ip', ['link', 'set', 'lo', 'up']));
  beforeEach(async () => {
    registries = { fake: await startFakeRegistry(), other: await startFakeRegistry() };
    rmSync(`${directory}/certs.d`, { recursive: true, force: true });
  });
  afterEach(async () => {
    await registries?.fake.close();
    await registries?.other.close();
  });
  after(() => {
    rmSync(directory, { recursive: true, force: true });
    assertNoSecret(logged.join('\n'));
  });

  function current(): { fake: FakeRegistry; other: FakeRegistry } {
    assert.ok(registries, 'only inside a test');
    return registries;
  }

  async function withSession(body: (session: RegistrySession) => Promise<void>, options: SessionOptions = {}): Promise<void> {
    const write = (fields: object, message: string) => void logged.push(JSON.stringify(fields) + message);
    const deps = { registryDir: `${directory}/certs.d`, userAgent: 'berth/test', timing, log: { warn: write, debug: write }, ...options.deps };
    const ref = parseReference(options.name ?? `${current().fake.host}/team/app:1`);
    const session = await createRegistryClient(deps).openSession(ref, options.auth, options.signal ?? new AbortController().signal);
    try {
      await body(session);
    } finally {
      session.close();
    }
  }

  function hostsToml(domain: string, text: string): void {
    mkdirSync(`${directory}/certs.d/${domain}`, { recursive: true });
    writeFileSync(`${directory}/certs.d/${domain}/hosts.toml`, text);
  }

  return {
    directory,
    logged,
    get fake() {
      return current().fake;
    },
    get other() {
      return current().other;
    },
    withSession,
    hostsToml,
  };
}

export async function readAll(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export async function readLayer(session: RegistrySession, offset = 0): Promise<void> {
  const blob = await session.openBlob(layer, { offset });
  assert.equal(blob.offset, offset);
  assert.ok((await readAll(blob.stream)).equals(layerBytes.subarray(offset)), 'the bytes are those of the blob');
}

/** The error of a promise, which must be a BerthError of this code that shows no secret. */
export async function failure(promise: Promise<unknown>, code: string): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof BerthError, String(error));
    assert.equal(error.code, code, error.message);
    assert.ok(!error.message.includes('\n'), 'one line');
    assertNoSecret(error.message);
    return error.message;
  }
  assert.fail('did not fail');
}

export function assertNoSecret(text: string): void {
  for (const secret of [password, 'token-one', 'token-two', 'identity-secret', basicHeader.slice(6)])
    assert.ok(!text.includes(secret), `shows a secret: ${text}`);
}
