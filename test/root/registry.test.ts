/**
 * The registry client against servers on the loopback: fake ones that misbehave, and Debian's docker-registry.
 *
 * Runs in a network namespace of its own; contacts nothing but 127.0.0.1.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import net from 'node:net';
import { tmpdir } from 'node:os';
import type { Readable } from 'node:stream';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { RegistryAuth } from '../../src/images/auth.ts';
import { parseReference } from '../../src/images/reference.ts';
import { createRegistryClient, type RegistryDeps, type RegistrySession } from '../../src/images/registry.ts';
import { BerthError } from '../../src/lib/errors.ts';
import {
  answer,
  config,
  configBytes,
  type FakeRegistry,
  layer,
  layerBytes,
  manifestBytes,
  manifestDigest,
  manifestType,
  sendError,
  startFakeRegistry,
} from '../support/fake-registry.ts';

const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const password = 'pass-word-that-must-not-show';
const userAuth = { ...noAuth, username: 'kim', password };
const basicHeader = `Basic ${Buffer.from(`kim:${password}`).toString('base64')}`;
const timing = { responseTimeoutMs: 2000, stallTimeoutMs: 300, backoffMs: 5, backoffMsMax: 20 };

let directory: string;
let fake: FakeRegistry;
let other: FakeRegistry;
const logged: string[] = [];

before(() => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  directory = mkdtempSync(`${tmpdir()}/berth-registry-`);
});
beforeEach(async () => {
  fake = await startFakeRegistry();
  other = await startFakeRegistry();
  rmSync(`${directory}/certs.d`, { recursive: true, force: true });
});
afterEach(async () => {
  await fake.close();
  await other.close();
});
after(() => rmSync(directory, { recursive: true, force: true }));

/** Runs with a session for `1` of app on the fake registry, and ends what the test began. */
async function withSession(
  body: (session: RegistrySession) => Promise<void>,
  options: { name?: string; auth?: RegistryAuth; signal?: AbortSignal; deps?: Partial<RegistryDeps> } = {},
): Promise<void> {
  const log = {
    warn: (fields: object, message: string) => void logged.push(JSON.stringify(fields) + message),
    debug: (fields: object, message: string) => void logged.push(JSON.stringify(fields) + message),
  };
  const client = createRegistryClient({ registryDir: `${directory}/certs.d`, userAgent: 'berth/test', timing, log, ...options.deps });
  const ref = parseReference(options.name ?? `${fake.host}/team/app:1`);
  const session = await client.openSession(ref, options.auth, options.signal ?? new AbortController().signal);
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

async function readAll(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function readLayer(session: RegistrySession, offset = 0): Promise<void> {
  const blob = await session.openBlob(layer, { offset });
  assert.equal(blob.offset, offset);
  assert.ok((await readAll(blob.stream)).equals(layerBytes.subarray(offset)), 'the bytes are those of the blob');
}

/** The error of a promise, which must be a BerthError of this code that shows no secret. */
async function failure(promise: Promise<unknown>, code: string): Promise<string> {
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

function assertNoSecret(text: string): void {
  for (const secret of [password, 'token-one', 'token-two', 'identity-secret', basicHeader.slice(6)])
    assert.ok(!text.includes(secret), `shows a secret: ${text}`);
}

/** Turns the fake into one that wants a token from its own /token; `tokens` are handed out in turn. */
function demandToken(registry: FakeRegistry, tokens: string[], isValid: (header: string | undefined) => boolean): void {
  let handedOut = 0;
  registry.misbehave = (request, response) => {
    if (request.url?.startsWith('/token') === true) {
      const token = tokens[Math.min(handedOut, tokens.length - 1)];
      handedOut += 1;
      response.end(JSON.stringify({ token, expires_in: 300 }));
      return true;
    }
    if (isValid(request.headers.authorization)) return false;
    const challenge = `Bearer realm="http://${registry.host}/token",service="fake, inc",scope="repository:team/app:pull"`;
    return sendError(response, 401, 'UNAUTHORIZED', 'authentication required', { 'www-authenticate': challenge });
  };
}

describe('fetching', () => {
  test('a manifest comes by tag and by digest, with its media type and digest', async () => {
    await withSession(async (session) => {
      const expected = { bytes: manifestBytes, mediaType: manifestType, digest: manifestDigest };
      assert.deepEqual(await session.fetchManifest('1'), expected);
      assert.deepEqual(await session.fetchManifest(manifestDigest), expected);
      assert.deepEqual(await session.resolveTag('1'), { digest: manifestDigest, mediaType: manifestType });
      assert.equal(fake.seen[0]?.url, '/v2/team/app/manifests/1', 'no ns parameter for the registry itself');
      assert.match(fake.seen[0]?.headers.accept ?? '', /oci\.image\.index.*manifest\.list/);
      assert.equal(fake.seen[0]?.headers['user-agent'], 'berth/test');
    });
  });

  test('a blob comes whole, from an offset, and empty from its end', async () => {
    await withSession(async (session) => {
      await readLayer(session);
      await readLayer(session, 100_001);
      await readLayer(session, layerBytes.length);
      assert.ok((await session.fetchSmallBlob(config, 1000)).equals(configBytes));
      await failure(session.openBlob(layer, { offset: layerBytes.length + 1 }), 'FAILED_PRECONDITION');
      await failure(session.fetchSmallBlob(config, configBytes.length - 1), 'FAILED_PRECONDITION');
    });
  });

  test('connections are kept within a pull and closed with it', async () => {
    let connections = 0;
    fake.server.on('connection', () => {
      connections += 1;
    });
    await withSession(async (session) => {
      for (let index = 0; index < 5; index += 1) await session.fetchSmallBlob(config, 1000);
      assert.equal(connections, 1);
      const closed = new Promise<void>((resolve) => {
        const look = () => fake.server.getConnections((_error, count) => (count === 0 ? resolve() : setTimeout(look, 10)));
        look();
      });
      session.close();
      await closed;
      await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION');
    });
  });

  test('an odd content type is replaced by what the document says', async () => {
    fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.end(manifestBytes);
      return true;
    };
    await withSession(async (session) => assert.equal((await session.fetchManifest('1')).mediaType, manifestType));
  });

  test('resolveTag() says nothing when the registry knows no HEAD', async () => {
    fake.misbehave = (request, response) => request.method === 'HEAD' && sendError(response, 405, 'UNSUPPORTED', '');
    await withSession(async (session) => assert.equal(await session.resolveTag('1'), undefined));
  });
});

describe('refusals', () => {
  test('an absent image is NOT_FOUND and names image and host', async () => {
    await withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('2'), 'NOT_FOUND');
        assert.equal(message, `image ${fake.host}/team/app:2 not found on http://${fake.host}: status 404 (MANIFEST_UNKNOWN: manifest unknown)`);
        await failure(session.resolveTag('2'), 'NOT_FOUND');
      },
      { name: `${fake.host}/team/app:2` },
    );
  });

  test('a registry where nothing listens is RegistryUnavailable', async () => {
    const { host } = fake;
    await fake.close();
    await withSession(
      async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /^RegistryUnavailable: .*ECONNREFUSED/),
      {
        name: `${host}/team/app:1`,
      },
    );
  });

  test('bytes of another digest are refused: manifest by digest, by tag with a claim, and small blob', async () => {
    fake.misbehave = (request, response) => {
      const isManifest = request.url?.includes('/manifests/') === true;
      response.writeHead(200, isManifest ? { 'content-type': manifestType, 'docker-content-digest': manifestDigest } : {});
      response.end(isManifest ? Buffer.concat([manifestBytes, Buffer.from(' ')]) : Buffer.alloc(config.sizeBytes));
      return true;
    };
    await withSession(async (session) => {
      assert.match(await failure(session.fetchManifest(manifestDigest), 'FAILED_PRECONDITION'), /instead of sha256:/);
      assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /instead of sha256:/);
      assert.match(await failure(session.fetchSmallBlob(config, 1000), 'FAILED_PRECONDITION'), /sends bytes of digest/);
    });
  });

  test('a blob of another length is refused, announced or not', async () => {
    await withSession(async (session) => {
      fake.misbehave = (_request, response) => {
        response.writeHead(200, { 'content-length': 5 });
        response.end('short');
        return true;
      };
      assert.match(await failure(session.openBlob(layer), 'FAILED_PRECONDITION'), /announces 5 bytes instead of 300000/);
      fake.misbehave = (_request, response) => {
        response.write(layerBytes);
        response.end('more');
        return true;
      };
      assert.match(await failure(readLayer(session), 'FAILED_PRECONDITION'), /more than the 300000 bytes/);
    });
  });

  test('a manifest above 8 MiB is refused while it arrives', async () => {
    fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-type': manifestType });
      response.end(Buffer.alloc((8 << 20) + 1, ' '));
      return true;
    };
    await withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /more than 8388608 bytes/));
  });

  test('a cancelled pull is CANCELLED and a late one DEADLINE_EXCEEDED, also in the middle of a blob', async () => {
    fake.misbehave = (request, response) => {
      if (!request.url?.includes('/blobs/')) return true;
      response.writeHead(200, { 'content-length': layerBytes.length });
      response.write(layerBytes.subarray(0, 1000));
      return true;
    };
    const patient = { timing: { ...timing, stallTimeoutMs: 60_000, responseTimeoutMs: 60_000 } };
    const cancel = new AbortController();
    await withSession(
      async (session) => {
        const { stream } = await session.openBlob(layer);
        setTimeout(() => cancel.abort(), 50);
        await failure(readAll(stream), 'CANCELLED');
        await failure(session.fetchManifest('1'), 'CANCELLED');
        const late = createRegistryClient({ registryDir: '', userAgent: 'berth/test', ...patient });
        const lateSession = await late.openSession(parseReference(`${fake.host}/team/app:1`), undefined, AbortSignal.timeout(50));
        await failure(lateSession.fetchManifest('1'), 'DEADLINE_EXCEEDED');
        lateSession.close();
      },
      { signal: cancel.signal, deps: patient },
    );
  });
});

describe('credentials', () => {
  test('a token is fetched with the credentials once, and used for everything', async () => {
    demandToken(fake, ['token-one'], (header) => header === 'Bearer token-one');
    await withSession(
      async (session) => {
        await Promise.all([session.fetchManifest('1'), session.fetchManifest(manifestDigest), session.fetchSmallBlob(config, 1000)]);
        await readLayer(session);
        const asked = fake.seen.filter((request) => request.url.startsWith('/token'));
        assert.equal(asked.length, 1);
        assert.equal(asked[0]?.headers.authorization, basicHeader);
        const query = new URL(asked[0]?.url ?? '', 'http://x').searchParams;
        assert.deepEqual([query.get('service'), query.get('scope')], ['fake, inc', 'repository:team/app:pull']);
      },
      { auth: userAuth },
    );
  });

  test('an anonymous token is fetched without credentials', async () => {
    demandToken(fake, ['token-one'], (header) => header === 'Bearer token-one');
    await withSession(async (session) => {
      await session.fetchManifest('1');
      assert.equal(fake.seen.find((request) => request.url.startsWith('/token'))?.headers.authorization, undefined);
    });
  });

  test('a token that is refused in the middle of a pull is replaced', async () => {
    let valid = 'Bearer token-one';
    demandToken(fake, ['token-one', 'token-two'], (header) => header === valid);
    await withSession(
      async (session) => {
        await session.fetchManifest('1');
        valid = 'Bearer token-two';
        await readLayer(session);
      },
      { auth: userAuth },
    );
  });

  test('an identity token is exchanged by POST', async () => {
    demandToken(fake, ['token-one'], (header) => header === 'Bearer token-one');
    await withSession(
      async (session) => {
        await session.fetchManifest('1');
        const asked = fake.seen.find((request) => request.url.startsWith('/token'));
        assert.equal(asked?.method, 'POST');
        const fields = new URLSearchParams(asked?.body);
        assert.deepEqual([fields.get('grant_type'), fields.get('refresh_token')], ['refresh_token', 'identity-secret']);
      },
      { auth: { ...noAuth, identityToken: 'identity-secret' } },
    );
  });

  test('a registry token is sent as it is', async () => {
    demandToken(fake, ['other'], (header) => header === 'Bearer token-one');
    await withSession(async (session) => void (await session.fetchManifest('1')), { auth: { ...noAuth, registryToken: 'token-one' } });
  });

  test('wrong ones are UNAUTHENTICATED, name the host and show no secret even when the registry repeats it', async () => {
    fake.misbehave = (request, response) =>
      sendError(response, 401, 'UNAUTHORIZED', `bad ${request.headers.authorization}`, { 'www-authenticate': 'Basic realm="fake"' });
    await withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
        assert.match(message, new RegExp(`^http://${fake.host} does not give out image .*: status 401`));
        assert.equal(fake.seen.at(-1)?.headers.authorization, basicHeader, 'they were tried');
      },
      { auth: userAuth },
    );
  });

  test('those refused by the token service are UNAUTHENTICATED', async () => {
    demandToken(fake, ['x'], () => false);
    const demand = fake.misbehave;
    fake.misbehave = (request, response, body) =>
      request.url?.startsWith('/token') === true
        ? sendError(response, 401, 'UNAUTHORIZED', 'incorrect username or password')
        : demand(request, response, body);
    await withSession(
      async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAUTHENTICATED'), /token service .*incorrect username or password/),
      { auth: userAuth },
    );
  });

  test('those for another server are not sent', async () => {
    fake.misbehave = (_request, response) => sendError(response, 401, 'UNAUTHORIZED', 'no', { 'www-authenticate': 'Basic realm="fake"' });
    await withSession(
      async (session) => {
        await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
        assert.ok(fake.seen.every((request) => request.headers.authorization === undefined));
      },
      { auth: { ...userAuth, serverAddress: 'https://elsewhere.example' } },
    );
  });
});

describe('redirects', () => {
  test("a blob elsewhere is fetched without the registry's credentials and headers", async () => {
    hostsToml(fake.host, `server = "http://${fake.host}"\n[header]\nx-operator = "inner"\n`);
    fake.misbehave = (request, response) => {
      if (request.headers.authorization !== basicHeader)
        return sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="fake"' });
      if (!request.url?.includes('/blobs/')) return false;
      response.writeHead(307, { location: `http://${other.host}/storage/blobs/${layer.digest}?signature=s` }).end();
      return true;
    };
    await withSession(
      async (session) => {
        await readLayer(session);
        await readLayer(session, 5000);
        assert.equal(other.seen.length, 2);
        for (const request of other.seen) assert.deepEqual([request.headers.authorization, request.headers['x-operator']], [undefined, undefined]);
        assert.equal(fake.seen.at(-1)?.headers['x-operator'], 'inner');
        assert.equal(other.seen[1]?.headers.range, 'bytes=5000-');
      },
      { auth: userAuth },
    );
  });

  test('ten are followed and eleven are not', async () => {
    let hops = 10;
    fake.misbehave = (request, response) => {
      const hop = Number(/hop=([0-9]+)/.exec(request.url ?? '')?.[1] ?? 0);
      if (hop >= hops) return false;
      response.writeHead(302, { location: `/v2/team/app/blobs/${layer.digest}?hop=${hop + 1}` }).end();
      return true;
    };
    await withSession(async (session) => {
      await readLayer(session);
      hops = 11;
      assert.match(await failure(session.openBlob(layer), 'FAILED_PRECONDITION'), /more than 10 redirects/);
    });
  });

  test('one to something else than http is refused', async () => {
    fake.misbehave = (_request, response) => {
      response.writeHead(302, { location: 'file:///etc/shadow' }).end();
      return true;
    };
    await withSession(async (session) => void (await failure(session.openBlob(layer), 'FAILED_PRECONDITION')));
  });
});

describe('mirrors', () => {
  test('a dead one, one without the image, then the registry: it works, and mirrors see no credentials', async () => {
    other.misbehave = (_request, response) => sendError(response, 404, 'NAME_UNKNOWN', 'not here');
    hostsToml('registry.test', `server = "http://${fake.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${other.host}/prefix"]\n`);
    fake.misbehave = (request, response) =>
      request.headers.authorization === undefined && sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="x"' });
    other.misbehave = (_request, response) => sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="x"' });
    await withSession(
      async (session) => {
        assert.equal((await session.fetchManifest('1')).digest, manifestDigest);
        await readLayer(session);
        assert.equal(other.seen[0]?.url, '/prefix/v2/team/app/manifests/1?ns=registry.test');
        assert.ok(other.seen.every((request) => request.headers.authorization === undefined));
        assert.equal(fake.seen[0]?.url, '/v2/team/app/manifests/1?ns=registry.test');
      },
      { name: 'registry.test/team/app:1', auth: userAuth },
    );
  });

  test('one that may only pull is not asked what a tag means', async () => {
    hostsToml('registry.test', `server = "http://${fake.host}"\n[host."http://${other.host}"]\ncapabilities = ["pull"]\n`);
    await withSession(
      async (session) => {
        await session.fetchManifest('1');
        assert.equal(other.seen.length, 0);
        await session.fetchManifest(manifestDigest);
        assert.equal(other.seen.length, 1);
      },
      { name: 'registry.test/team/app:1' },
    );
  });

  test('one with wrong bytes is passed over for manifests, and can be avoided for blobs', async () => {
    hostsToml('registry.test', `server = "http://${fake.host}"\n[host."http://${other.host}"]\n`);
    other.misbehave = (request, response) => {
      response.end(request.url?.includes('/blobs/') ? Buffer.alloc(layer.sizeBytes) : 'not what was asked for');
      return true;
    };
    await withSession(
      async (session) => {
        assert.equal((await session.fetchManifest(manifestDigest)).digest, manifestDigest);
        assert.ok(!(await readAll((await session.openBlob(layer)).stream)).equals(layerBytes));
        assert.equal(session.avoidMirrors(), true);
        await readLayer(session);
        assert.equal(session.avoidMirrors(), false);
      },
      { name: 'registry.test/team/app:1' },
    );
  });

  test('the error of all names every host and its reason; the registry decides the code', async () => {
    hostsToml('registry.test', `server = "http://${fake.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${other.host}"]\n`);
    other.misbehave = (_request, response) => sendError(response, 503, 'UNAVAILABLE', 'under repair');
    await withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('2'), 'NOT_FOUND');
        assert.match(
          message,
          new RegExp(
            `not found on http://${fake.host}: status 404 .*; also asked http://127.0.0.1:1: .*ECONNREFUSED.*; http://${other.host}: status 503 .*under repair`,
          ),
        );
      },
      { name: 'registry.test/team/app:2' },
    );
  });
});

describe('patience', () => {
  test('429 with Retry-After and 503 are waited out', async () => {
    const answers = [
      { status: 429, headers: { 'retry-after': '0' } },
      { status: 503, headers: {} },
    ];
    fake.misbehave = (_request, response) => {
      const next = answers.shift();
      return next !== undefined && sendError(response, next.status, 'TOOMANYREQUESTS', 'slow down', next.headers as Record<string, string>);
    };
    await withSession(async (session) => {
      await session.fetchManifest('1');
      assert.equal(fake.seen.length, 3);
    });
  });

  test('a Retry-After beyond a minute is told instead of waited for', async () => {
    fake.misbehave = (_request, response) => sendError(response, 429, 'TOOMANYREQUESTS', 'pull rate limit', { 'retry-after': '3600' });
    await withSession(async (session) => {
      assert.match(
        await failure(session.fetchManifest('1'), 'UNAVAILABLE'),
        /^RegistryUnavailable: .*come back in 3600 s: status 429 .*pull rate limit/,
      );
      assert.equal(fake.seen.length, 1);
    });
  });

  test('five attempts are made, not more', async () => {
    fake.misbehave = (_request, response) => sendError(response, 500, 'UNKNOWN', '');
    await withSession(async (session) => {
      await failure(session.fetchManifest('1'), 'UNAVAILABLE');
      assert.equal(fake.seen.length, 5);
    });
  });

  for (const knowsRanges of [true, false]) {
    test(`a blob goes on after broken connections, from a registry ${knowsRanges ? 'with' : 'without'} ranges`, async () => {
      let breaks = 2;
      fake.misbehave = (request, response) => {
        if (!knowsRanges) delete request.headers.range;
        if (breaks === 0) return false;
        breaks -= 1;
        const offset = Number(/[0-9]+/.exec(request.headers.range ?? '')?.[0] ?? 0);
        const total = layerBytes.length;
        if (offset === 0) response.writeHead(200, { 'content-length': total });
        else response.writeHead(206, { 'content-length': total - offset, 'content-range': `bytes ${offset}-${total - 1}/${total}` });
        response.write(layerBytes.subarray(offset, 100_000 * (2 - breaks)), () => response.destroy());
        return true;
      };
      await withSession(async (session) => {
        await readLayer(session);
        assert.equal(fake.seen.length, 3);
        assert.match(fake.seen[1]?.headers.range ?? (knowsRanges ? '' : 'bytes=1-'), /^bytes=[1-9][0-9]*-$/);
      });
    });
  }

  test('a blob without an announced length that ends early goes on', async () => {
    fake.misbehave = (request, response) => {
      if (request.headers.range !== undefined) return false;
      response.write(layerBytes.subarray(0, 12_345));
      response.end();
      return true;
    };
    await withSession(async (session) => {
      await readLayer(session);
      assert.equal(fake.seen[1]?.headers.range, 'bytes=12345-');
    });
  });

  test('a stalled blob goes on over a new connection, and fails when it always stalls', async () => {
    const stall = (_request: http.IncomingMessage, response: http.ServerResponse): boolean => {
      response.writeHead(200, { 'content-length': layerBytes.length });
      response.write(layerBytes.subarray(0, 1000));
      return true;
    };
    fake.misbehave = (request, response) => request.headers.range === undefined && stall(request, response);
    await withSession(async (session) => {
      await readLayer(session);
      assert.equal(fake.seen.length, 2);
      fake.misbehave = (request, response) => {
        delete request.headers.range;
        return stall(request, response);
      };
      assert.match(await failure(readLayer(session), 'UNAVAILABLE'), /^RegistryUnavailable: .*sent no byte for 0.3 s/);
    });
  });

  test('a reader that takes its time is no stall', async () => {
    const bytes = Buffer.alloc(4 << 20, 'x');
    fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-length': bytes.length });
      response.end(bytes);
      return true;
    };
    await withSession(async (session) => {
      const { stream } = await session.openBlob({ ...layer, sizeBytes: bytes.length });
      const first: Buffer[] = [];
      for await (const chunk of stream) {
        if (first.length === 0) await new Promise((resolve) => setTimeout(resolve, timing.stallTimeoutMs * 3));
        first.push(chunk);
      }
      assert.equal(Buffer.concat(first).length, bytes.length);
      assert.equal(fake.seen.length, 1);
    });
  });

  test('no answer at all is RegistryUnavailable', async () => {
    fake.misbehave = () => true;
    await withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /no answer within 0.05 s/), {
      deps: { timing: { ...timing, responseTimeoutMs: 50 } },
    });
  });

  test('a stream that is thrown away ends its connection', async () => {
    await withSession(async (session) => {
      fake.misbehave = (_request, response) => {
        response.writeHead(200, { 'content-length': layerBytes.length });
        response.write(layerBytes.subarray(0, 1000));
        return true;
      };
      const unread = await session.openBlob(layer);
      const begun = await session.openBlob(layer);
      await begun.stream[Symbol.asyncIterator]().next();
      const gone = new Promise<void>((resolve) => {
        const look = () => fake.server.getConnections((_error, count) => (count === 0 ? resolve() : setTimeout(look, 10)));
        look();
      });
      unread.stream.destroy();
      begun.stream.destroy();
      await gone;
    });
  });
});

describe('TLS', () => {
  let secure: FakeRegistry;
  const file = (name: string) => `${directory}/${name}`;

  before(() => {
    const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe' });
    const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    openssl('req', '-x509', ...ec, '-keyout', file('ca.key'), '-out', file('ca.pem'), '-subj', '/CN=test authority');
    for (const name of ['server', 'client']) {
      openssl('req', ...ec.slice(0, -2), '-keyout', file(`${name}.key`), '-out', file(`${name}.csr`), '-subj', `/CN=${name}`);
      writeFileSync(file('ext'), 'subjectAltName=IP:127.0.0.1,DNS:registry.test\n');
      openssl(
        'x509',
        '-req',
        '-in',
        file(`${name}.csr`),
        '-CA',
        file('ca.pem'),
        '-CAkey',
        file('ca.key'),
        '-CAcreateserial',
        '-days',
        '2',
        '-extfile',
        file('ext'),
        '-out',
        file(`${name}.pem`),
      );
    }
  });

  async function withSecure(mutual: boolean, body: () => Promise<void>): Promise<void> {
    const { readFileSync } = await import('node:fs');
    const [cert, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => readFileSync(file(name)));
    secure = await startFakeRegistry({ cert: cert as Buffer, key: key as Buffer, ca: ca as Buffer, requestCert: mutual, rejectUnauthorized: mutual });
    try {
      await body();
    } finally {
      await secure.close();
    }
  }

  test('a private authority is trusted by hosts.toml alone', async () => {
    await withSecure(false, async () => {
      hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`);
      await withSession(async (session) => readLayer(session), { name: `${secure.host}/team/app:1` });
      hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\n`);
      await withSession(
        async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /RegistryUnavailable: .*certificate/),
        {
          name: `${secure.host}/team/app:1`,
        },
      );
      hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nskip_verify = true\n`);
      await withSession(async (session) => readLayer(session), { name: `${secure.host}/team/app:1` });
      hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nca = "absent.pem"\n`);
      await withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /absent\.pem: ENOENT/), {
        name: `${secure.host}/team/app:1`,
      });
    });
  });

  test('a client certificate is shown where one is configured', async () => {
    await withSecure(true, async () => {
      const hosts = `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`;
      hostsToml(secure.host, hosts);
      await withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAVAILABLE')), { name: `${secure.host}/team/app:1` });
      hostsToml(secure.host, `${hosts}client = [["${file('client.pem')}", "${file('client.key')}"]]\n`);
      await withSession(async (session) => void (await session.fetchManifest('1')), { name: `${secure.host}/team/app:1` });
    });
  });

  test('a token service without TLS gets no credentials of a registry with TLS, and neither does a redirect', async () => {
    await withSecure(false, async () => {
      hostsToml(secure.host, `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`);
      secure.misbehave = (request, response) => {
        if (request.url?.includes('/blobs/')) response.writeHead(302, { location: `http://${fake.host}/blobs/${layer.digest}` }).end();
        else sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': `Bearer realm="http://${fake.host}/token"` });
        return true;
      };
      await withSession(
        async (session) => {
          await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
          await failure(session.openBlob(layer), 'FAILED_PRECONDITION');
          assert.equal(fake.seen.length, 0);
        },
        { name: `${secure.host}/team/app:1`, auth: userAuth },
      );
    });
  });

  test('a proxy is used for http and https, but not for the loopback and what NO_PROXY names', async () => {
    await withSecure(false, async () => {
      const asked: string[] = [];
      const proxy = http.createServer((request, response) => {
        asked.push(request.url ?? '');
        answer(request, response);
      });
      proxy.on('connect', (request, client) => {
        asked.push(`CONNECT ${request.url}`);
        const upstream = net.connect(secure.port, '127.0.0.1', () => {
          client.write('HTTP/1.1 200 OK\r\n\r\n');
          upstream.pipe(client).pipe(upstream);
        });
        for (const socket of [client, upstream]) socket.on('error', () => undefined);
      });
      await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
      const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
      const deps = { proxy: { httpProxy: url, httpsProxy: url, noProxy: 'unproxied.invalid' } };
      hostsToml('plain.test', 'server = "http://plain.test"\n');
      hostsToml('registry.test', `ca = "${file('ca.pem')}"\n`);
      try {
        await withSession(async (session) => readLayer(session), { name: 'plain.test/team/app:1', deps });
        assert.deepEqual(asked.splice(0), [`http://plain.test/v2/team/app/blobs/${layer.digest}`]);
        await withSession(async (session) => readLayer(session), { name: 'registry.test/team/app:1', deps });
        assert.deepEqual(asked.splice(0), ['CONNECT registry.test:443']);
        await withSession(async (session) => readLayer(session), { deps });
        await withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAVAILABLE')), {
          name: 'unproxied.invalid/app:1',
          deps,
        });
        assert.deepEqual(asked, []);
      } finally {
        proxy.closeAllConnections();
        proxy.close();
      }
    });
  });
});

test('no line of the log showed a secret', () => {
  assert.ok(logged.length > 0);
  assertNoSecret(logged.join('\n'));
});
