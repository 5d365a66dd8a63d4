/**
 * The registry client with fake servers on loopback: fetching, rejected responses, and credentials.
 *
 * Runs in a separate network namespace; connects only to 127.0.0.1.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseReference } from '../../src/images/document/reference.ts';
import { createRegistryClient } from '../../src/images/registry/registry.ts';
import {
  config,
  configBytes,
  type FakeRegistry,
  layer,
  layerBytes,
  manifestBytes,
  manifestDigest,
  manifestType,
  sendError,
} from '../support/fake-registry.ts';
import { basicHeader, failure, noAuth, readAll, readLayer, timing, useRegistries, userAuth } from '../support/registry-bed.ts';

const bed = useRegistries();

/** Makes the fake registry require a token from its /token endpoint, which returns `tokens` in turn. */
function requireToken(registry: FakeRegistry, tokens: string[], isValid: (header: string | undefined) => boolean): void {
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
  test('a manifest is fetched by tag and by digest, with its media type and digest', async () => {
    await bed.withSession(async (session) => {
      const expected = { bytes: manifestBytes, mediaType: manifestType, digest: manifestDigest };
      assert.deepEqual(await session.fetchManifest('1'), expected);
      assert.deepEqual(await session.fetchManifest(manifestDigest), expected);
      assert.deepEqual(await session.resolve('1'), { digest: manifestDigest, mediaType: manifestType });
      assert.equal(bed.fake.requests[0]?.url, '/v2/team/app/manifests/1', 'no ns parameter for the registry itself');
      assert.match(bed.fake.requests[0]?.headers.accept ?? '', /oci\.image\.index.*manifest\.list/);
      assert.equal(bed.fake.requests[0]?.headers['user-agent'], 'berth/test');
    });
  });

  test('a blob is fetched completely, from an offset, and empty from its end', async () => {
    await bed.withSession(async (session) => {
      await readLayer(session);
      await readLayer(session, 100_001);
      await readLayer(session, layerBytes.length);
      assert.ok((await session.fetchSmallBlob(config, 1000)).equals(configBytes));
      await failure(session.openBlob(layer, { offset: layerBytes.length + 1 }), 'FAILED_PRECONDITION');
      await failure(session.fetchSmallBlob(config, configBytes.length - 1), 'FAILED_PRECONDITION');
    });
  });

  test('connections are reused within a session and closed with it', async () => {
    let connections = 0;
    bed.fake.server.on('connection', () => {
      connections += 1;
    });
    await bed.withSession(async (session) => {
      for (let index = 0; index < 5; index += 1) await session.fetchSmallBlob(config, 1000);
      assert.equal(connections, 1);
      const closed = new Promise<void>((resolve) => {
        const look = () => bed.fake.server.getConnections((_error, count) => (count === 0 ? resolve() : setTimeout(look, 10)));
        look();
      });
      session.close();
      await closed;
      await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION');
    });
  });

  test('an unknown content type is replaced by the media type in the document', async () => {
    bed.fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.end(manifestBytes);
      return true;
    };
    await bed.withSession(async (session) => assert.equal((await session.fetchManifest('1')).mediaType, manifestType));
  });

  const habits: Readonly<Record<string, Record<string, string>>> = {
    'no digest and no length': { 'content-type': manifestType },
    'no content type at all': { 'docker-content-digest': manifestDigest },
    'a content type with a charset, in capitals': { 'content-type': `${manifestType.toUpperCase()}; charset=utf-8` },
    'application/json': { 'content-type': 'application/json', 'docker-content-digest': manifestDigest },
    'an etag in the place of a digest': { 'content-type': manifestType, etag: `"${manifestDigest}"`, 'docker-content-digest': '' },
  };
  for (const [name, headers] of Object.entries(habits)) {
    test(`a manifest is fetched from a registry that responds with ${name}`, async () => {
      bed.fake.misbehave = (request, response) => {
        if (request.url?.includes('/manifests/') !== true) return false;
        response.writeHead(200, headers);
        response.end(request.method === 'HEAD' ? undefined : manifestBytes);
        return true;
      };
      await bed.withSession(async (session) => {
        const expected = { bytes: manifestBytes, mediaType: manifestType, digest: manifestDigest };
        assert.deepEqual(await session.fetchManifest('1'), expected);
        assert.deepEqual(await session.fetchManifest(manifestDigest), expected);
        const resolved = await session.resolve('1');
        assert.ok(resolved === undefined || resolved.digest === manifestDigest);
      });
    });
  }

  test('resolve() fetches the manifest if the registry does not answer HEAD', async () => {
    for (const status of [400, 405, 500, 501, 503, 522]) {
      bed.fake.misbehave = (request, response) => request.method === 'HEAD' && sendError(response, status, 'UNSUPPORTED', '');
      await bed.withSession(async (session) => assert.equal((await session.resolve('1')).digest, manifestDigest));
    }
  });
});

describe('rejected responses', () => {
  test('a missing image is NOT_FOUND with image and host', async () => {
    await bed.withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('2'), 'NOT_FOUND');
        assert.equal(
          message,
          `image ${bed.fake.host}/team/app:2 not found on http://${bed.fake.host}: status 404 (MANIFEST_UNKNOWN: manifest unknown)`,
        );
        await failure(session.resolve('2'), 'NOT_FOUND');
      },
      { name: `${bed.fake.host}/team/app:2` },
    );
  });

  test('a registry that is down is RegistryUnavailable', async () => {
    const { host } = bed.fake;
    await bed.fake.close();
    await bed.withSession(
      async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /^RegistryUnavailable: .*ECONNREFUSED/),
      {
        name: `${host}/team/app:1`,
      },
    );
  });

  test('content with another digest is rejected: manifest by digest, by tag with a digest header, and small blob', async () => {
    bed.fake.misbehave = (request, response) => {
      const isManifest = request.url?.includes('/manifests/') === true;
      response.writeHead(200, isManifest ? { 'content-type': manifestType, 'docker-content-digest': manifestDigest } : {});
      response.end(isManifest ? Buffer.concat([manifestBytes, Buffer.from(' ')]) : Buffer.alloc(config.sizeBytes));
      return true;
    };
    await bed.withSession(async (session) => {
      assert.match(await failure(session.fetchManifest(manifestDigest), 'FAILED_PRECONDITION'), /instead of sha256:/);
      assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /instead of sha256:/);
      assert.match(await failure(session.fetchSmallBlob(config, 1000), 'FAILED_PRECONDITION'), /content with digest/);
    });
  });

  test('a blob with another length is rejected, with and without Content-Length', async () => {
    await bed.withSession(async (session) => {
      bed.fake.misbehave = (_request, response) => {
        response.writeHead(200, { 'content-length': 5 });
        response.end('short');
        return true;
      };
      assert.match(await failure(session.openBlob(layer), 'FAILED_PRECONDITION'), /Content-Length of 5 bytes instead of 300000/);
      bed.fake.misbehave = (_request, response) => {
        response.write(layerBytes);
        response.end('more');
        return true;
      };
      assert.match(await failure(readLayer(session), 'FAILED_PRECONDITION'), /exceeds the 300000 bytes/);
    });
  });

  test('a manifest above 8 MiB is rejected during the download', async () => {
    bed.fake.misbehave = (_request, response) => {
      response.writeHead(200, { 'content-type': manifestType });
      response.end(Buffer.alloc((8 << 20) + 1, ' '));
      return true;
    };
    await bed.withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /exceeds 8388608 bytes/));
  });

  test('a cancelled pull is CANCELLED and a timeout is DEADLINE_EXCEEDED, also in the middle of a blob', async () => {
    bed.fake.misbehave = (request, response) => {
      if (!request.url?.includes('/blobs/')) return true;
      response.writeHead(200, { 'content-length': layerBytes.length });
      response.write(layerBytes.subarray(0, 1000));
      return true;
    };
    const patient = { timing: { ...timing, stallTimeoutMs: 60_000, responseTimeoutMs: 60_000 } };
    const cancel = new AbortController();
    await bed.withSession(
      async (session) => {
        const { stream } = await session.openBlob(layer);
        setTimeout(() => cancel.abort(), 50);
        await failure(readAll(stream), 'CANCELLED');
        await failure(session.fetchManifest('1'), 'CANCELLED');
        const late = createRegistryClient({ registryDir: '', userAgent: 'berth/test', ...patient });
        const lateSession = await late.openSession(parseReference(`${bed.fake.host}/team/app:1`), undefined, AbortSignal.timeout(50));
        await failure(lateSession.fetchManifest('1'), 'DEADLINE_EXCEEDED');
        lateSession.close();
      },
      { signal: cancel.signal, deps: patient },
    );
  });
});

describe('credentials', () => {
  test('a token is fetched once with the credentials and used for all requests', async () => {
    requireToken(bed.fake, ['token-one'], (header) => header === 'Bearer token-one');
    await bed.withSession(
      async (session) => {
        await Promise.all([session.fetchManifest('1'), session.fetchManifest(manifestDigest), session.fetchSmallBlob(config, 1000)]);
        await readLayer(session);
        const asked = bed.fake.requests.filter((request) => request.url.startsWith('/token'));
        assert.equal(asked.length, 1);
        assert.equal(asked[0]?.headers.authorization, basicHeader);
        const query = new URL(asked[0]?.url ?? '', 'http://x').searchParams;
        assert.deepEqual([query.get('service'), query.get('scope')], ['fake, inc', 'repository:team/app:pull']);
      },
      { auth: userAuth },
    );
  });

  test('an anonymous token is fetched without credentials', async () => {
    requireToken(bed.fake, ['token-one'], (header) => header === 'Bearer token-one');
    await bed.withSession(async (session) => {
      await session.fetchManifest('1');
      assert.equal(bed.fake.requests.find((request) => request.url.startsWith('/token'))?.headers.authorization, undefined);
    });
  });

  test('a token that is rejected in the middle of a pull is replaced', async () => {
    let valid = 'Bearer token-one';
    requireToken(bed.fake, ['token-one', 'token-two'], (header) => header === valid);
    await bed.withSession(
      async (session) => {
        await session.fetchManifest('1');
        valid = 'Bearer token-two';
        await readLayer(session);
      },
      { auth: userAuth },
    );
  });

  test('a token is renewed before it expires', async () => {
    requireToken(bed.fake, ['token-one', 'token-two'], (header) => header !== undefined);
    const demand = bed.fake.misbehave;
    bed.fake.misbehave = (request, response, body) => {
      if (request.url?.startsWith('/token') !== true) return demand(request, response, body);
      response.end(JSON.stringify({ access_token: `token-${bed.fake.requests.length}`, expires_in: 1 }));
      return true;
    };
    await bed.withSession(async (session) => {
      await session.fetchManifest('1');
      await session.fetchManifest('1');
      const sent = bed.fake.requests.filter((request) => request.url.includes('/manifests/')).map((request) => request.headers.authorization);
      assert.equal(new Set(sent).size, sent.length, 'no expired token is sent');
    });
  });

  test('an identity token is exchanged by POST', async () => {
    requireToken(bed.fake, ['token-one'], (header) => header === 'Bearer token-one');
    await bed.withSession(
      async (session) => {
        await session.fetchManifest('1');
        const asked = bed.fake.requests.find((request) => request.url.startsWith('/token'));
        assert.equal(asked?.method, 'POST');
        const fields = new URLSearchParams(asked?.body);
        assert.deepEqual([fields.get('grant_type'), fields.get('refresh_token')], ['refresh_token', 'identity-secret']);
      },
      { auth: { ...noAuth, identityToken: 'identity-secret' } },
    );
  });

  test('a registry token is sent as it is', async () => {
    requireToken(bed.fake, ['other'], (header) => header === 'Bearer token-one');
    await bed.withSession(async (session) => void (await session.fetchManifest('1')), { auth: { ...noAuth, registryToken: 'token-one' } });
  });

  test('wrong credentials are UNAUTHENTICATED with the host, without secrets even if the registry repeats them', async () => {
    bed.fake.misbehave = (request, response) =>
      sendError(response, 401, 'UNAUTHORIZED', `bad ${request.headers.authorization}`, { 'www-authenticate': 'Basic realm="fake"' });
    await bed.withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
        assert.match(message, new RegExp(`^http://${bed.fake.host} denied access to image .*: status 401`));
        assert.equal(bed.fake.requests.at(-1)?.headers.authorization, basicHeader, 'the credentials were sent');
      },
      { auth: userAuth },
    );
  });

  test('a refusal says what the host wanted and why it did not get it', async () => {
    const refusals: readonly (readonly [string | undefined, RegExp])[] = [
      [undefined, /status 401 \(UNAUTHORIZED\): without a challenge$/],
      ['Basic realm="a b"', /without credentials: status 401 \(UNAUTHORIZED\): no credentials for this host \(basic, realm a b\)$/],
      ['Negotiate', /does not support this authentication \(negotiate\)$/],
      ['Bearer realm="nonsense"', /not answered: its realm is not the URL of a token service \(bearer, realm nonsense\)$/],
    ];
    for (const [challenge, pattern] of refusals) {
      bed.fake.misbehave = (_request, response) =>
        sendError(response, 401, 'UNAUTHORIZED', '', challenge === undefined ? {} : { 'www-authenticate': challenge });
      await bed.withSession(async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAUTHENTICATED'), pattern));
    }
  });

  test('credentials rejected by the token service are UNAUTHENTICATED', async () => {
    requireToken(bed.fake, ['x'], () => false);
    const demand = bed.fake.misbehave;
    bed.fake.misbehave = (request, response, body) =>
      request.url?.startsWith('/token') === true
        ? sendError(response, 401, 'UNAUTHORIZED', 'incorrect username or password')
        : demand(request, response, body);
    await bed.withSession(
      async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAUTHENTICATED'), /token service .*incorrect username or password/),
      { auth: userAuth },
    );
  });

  test('credentials for another server are not sent', async () => {
    bed.fake.misbehave = (_request, response) => sendError(response, 401, 'UNAUTHORIZED', 'no', { 'www-authenticate': 'Basic realm="fake"' });
    await bed.withSession(
      async (session) => {
        await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
        assert.ok(bed.fake.requests.every((request) => request.headers.authorization === undefined));
      },
      { auth: { ...userAuth, serverAddress: 'https://elsewhere.example' } },
    );
  });
});

describe('redirects', () => {
  test("a blob on another host is fetched without the registry's credentials and headers", async () => {
    bed.hostsToml(bed.fake.host, `server = "http://${bed.fake.host}"\n[header]\nx-operator = "inner"\n`);
    bed.fake.misbehave = (request, response) => {
      if (request.headers.authorization !== basicHeader)
        return sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="fake"' });
      if (!request.url?.includes('/blobs/')) return false;
      response.writeHead(307, { location: `http://localhost:${bed.other.port}/storage/blobs/${layer.digest}?signature=s` }).end();
      return true;
    };
    await bed.withSession(
      async (session) => {
        await readLayer(session);
        await readLayer(session, 5000);
        assert.equal(bed.other.requests.length, 2);
        for (const request of bed.other.requests)
          assert.deepEqual([request.headers.authorization, request.headers['x-operator']], [undefined, undefined]);
        assert.equal(bed.fake.requests.at(-1)?.headers['x-operator'], 'inner');
        assert.equal(bed.other.requests[1]?.headers.range, 'bytes=5000-');
      },
      { auth: userAuth },
    );
  });

  const storages: Readonly<
    Record<string, (count: number, range: string | undefined) => { status: number; from?: number; shown?: number } | undefined>
  > = {
    'ignores the range': () => ({ status: 200 }),
    'answers the range with 400 once': (count, range) => (count === 1 && range !== undefined ? { status: 400 } : undefined),
    'always answers ranges with 400': (_count, range) => (range === undefined ? { status: 200 } : { status: 400 }),
    'answers with another range once': (count) => (count === 1 ? { status: 206, from: 100, shown: 100 } : undefined),
    'always answers with another range': (_count, range) => (range === undefined ? { status: 200 } : { status: 206, from: 100, shown: 100 }),
    'refuses with 403 once': (count) => (count === 1 ? { status: 403 } : undefined),
    'refuses with 410 twice': (count) => (count <= 2 ? { status: 410 } : undefined),
  };
  for (const [name, answerOf] of Object.entries(storages)) {
    test(`a blob is resumed from storage that breaks the first response and then ${name}`, async () => {
      let count = -1;
      bed.fake.misbehave = (request, response) => {
        if (!request.url?.includes('/blobs/')) return false;
        response.writeHead(307, { location: `http://${bed.other.host}/storage?n=${Math.random()}` }).end();
        return true;
      };
      bed.other.misbehave = (request, response) => {
        count += 1;
        if (count === 0) {
          response.writeHead(200, { 'content-length': layer.sizeBytes }).write(layerBytes.subarray(0, 1000));
          setTimeout(() => response.destroy(), 20);
          return true;
        }
        const { range } = request.headers;
        const start = Number(/=(\d+)-/.exec(range ?? '')?.[1] ?? 0);
        const { status, from = status === 200 ? 0 : start, shown = from } = answerOf(count, range) ?? { status: range === undefined ? 200 : 206 };
        if (status >= 400) return sendError(response, status, 'InvalidRequest', '');
        response.writeHead(status, status === 206 ? { 'content-range': `bytes ${shown}-${layer.sizeBytes - 1}/${layer.sizeBytes}` } : {});
        response.end(layerBytes.subarray(from));
        return true;
      };
      await bed.withSession((session) => readLayer(session));
    });
  }

  test('ten redirects are followed, eleven are not', async () => {
    let hops = 10;
    bed.fake.misbehave = (request, response) => {
      const hop = Number(/hop=([0-9]+)/.exec(request.url ?? '')?.[1] ?? 0);
      if (hop >= hops) return false;
      response.writeHead(302, { location: `/v2/team/app/blobs/${layer.digest}?hop=${hop + 1}` }).end();
      return true;
    };
    await bed.withSession(async (session) => {
      await readLayer(session);
      hops = 11;
      assert.match(await failure(session.openBlob(layer), 'FAILED_PRECONDITION'), /more than 10 redirects/);
    });
  });

  test('a redirect to another scheme than http is rejected', async () => {
    bed.fake.misbehave = (_request, response) => {
      response.writeHead(302, { location: 'file:///etc/shadow' }).end();
      return true;
    };
    await bed.withSession(async (session) => void (await failure(session.openBlob(layer), 'FAILED_PRECONDITION')));
  });
});
