/**
 * Test bed for the registry client: two fake registries for each test, sessions, and checks of errors.
 *
 * Its own assertions hold for every test: errors are BerthErrors with a one-line message that contains no secret.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import type { Readable } from 'node:stream';
import { after, afterEach, before, beforeEach } from 'node:test';
import { parseReference } from '../../src/images/document/reference.ts';
import type { RegistryAuth } from '../../src/images/registry/challenges.ts';
import { createRegistryClient, type RegistryDeps, type RegistrySession } from '../../src/images/registry/registry.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { type FakeRegistry, layer, layerBytes, startFakeRegistry } from './fake-registry.ts';

export const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
export const password = 'pass-word-that-must-not-show';
export const userAuth = { ...noAuth, username: 'kim', password };
export const basicHeader = `Basic ${Buffer.from(`kim:${password}`).toString('base64')}`;
export const timing = { responseTimeoutMs: 2000, stallTimeoutMs: 300, backoffMs: 5, backoffMsMax: 20 };

export type SessionOptions = { name?: string; auth?: RegistryAuth; signal?: AbortSignal; deps?: Partial<RegistryDeps> };

/** Usable only inside a test: each test has new fake registries. */
export type RegistryBed = {
  readonly directory: string;
  readonly fake: FakeRegistry;
  readonly other: FakeRegistry;
  readonly logged: string[];
  /** Calls `body` with a session for team/app:1 of the fake registry, then closes the session. */
  withSession(body: (session: RegistrySession) => Promise<void>, options?: SessionOptions): Promise<void>;
  /** Writes the hosts.toml of a domain. */
  hostsToml(domain: string, text: string): void;
};

/** Creates the test bed and registers its hooks. Call it at the top level of a test file. */
export function useRegistries(): RegistryBed {
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
    assert.ok(registries, 'can be used only inside a test');
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

/** Downloads the layer from `offset` and checks its bytes. */
export async function readLayer(session: RegistrySession, offset = 0): Promise<void> {
  const blob = await session.openBlob(layer, { offset });
  assert.equal(blob.offset, offset);
  assert.ok((await readAll(blob.stream)).equals(layerBytes.subarray(offset)), 'the bytes equal those of the blob');
}

/** Asserts that the promise rejects with a BerthError of this code, without a secret. @returns the error message. */
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
  assert.fail('the operation succeeded');
}

/** Asserts that the text contains none of the secrets of the tests. */
export function assertNoSecret(text: string): void {
  for (const secret of [password, 'token-one', 'token-two', 'identity-secret', basicHeader.slice(6)])
    assert.ok(!text.includes(secret), `contains a secret: ${text}`);
}
