/**
 * The registry client with fake servers on loopback: mirrors, certificates and proxies.
 *
 * Runs in a separate network namespace; connects only to 127.0.0.1.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { before, describe, test } from 'node:test';
import {
  type FakeRegistry,
  layer,
  layerBytes,
  type Misbehaviour,
  manifestDigest,
  manifestType,
  respond,
  sendError,
  startFakeRegistry,
} from '../support/fake-registry.ts';
import { basicHeader, failure, readAll, readLayer, useRegistries, userAuth } from '../support/registry-bed.ts';

const bed = useRegistries();

describe('mirrors', () => {
  test('the registry is used after mirrors that are down, fail or lack the image, and mirrors get no credentials', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${bed.other.host}/prefix"]\n`);
    bed.fake.misbehave = (request, response) =>
      request.headers.authorization === undefined && sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="x"' });
    bed.other.misbehave = (request, response) =>
      request.url?.includes('/blobs/') === true
        ? sendError(response, 404, 'BLOB_UNKNOWN', 'not here')
        : sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': 'Basic realm="x"' });
    await bed.withSession(
      async (session) => {
        assert.equal((await session.fetchManifest('1')).digest, manifestDigest);
        await readLayer(session);
        assert.equal(bed.other.requests[0]?.url, '/prefix/v2/team/app/manifests/1?ns=registry.test');
        assert.ok(bed.other.requests.every((request) => request.headers.authorization === undefined));
        assert.equal(bed.fake.requests[0]?.url, '/v2/team/app/manifests/1?ns=registry.test');
      },
      { name: 'registry.test/team/app:1', auth: userAuth },
    );
  });

  test('a mirror without the capability resolve is not used to resolve tags', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://${bed.other.host}"]\ncapabilities = ["pull"]\n`);
    await bed.withSession(
      async (session) => {
        await session.fetchManifest('1');
        assert.equal(bed.other.requests.length, 0);
        await session.fetchManifest(manifestDigest);
        assert.equal(bed.other.requests.length, 1);
      },
      { name: 'registry.test/team/app:1' },
    );
  });

  test('a mirror with corrupt content is skipped for manifests and can be excluded for blobs', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://${bed.other.host}"]\n`);
    bed.other.misbehave = (request, response) => {
      response.end(request.url?.includes('/blobs/') ? Buffer.alloc(layer.sizeBytes) : 'other content');
      return true;
    };
    await bed.withSession(
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

  test('a mirror that promises a blob and sends nothing, half or other bytes is left for the registry', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://${bed.other.host}"]\n`);
    const bodies: Readonly<Record<string, (range: boolean) => Buffer>> = {
      nothing: () => Buffer.alloc(0),
      'half, and then nothing': (hasRange) => (hasRange ? Buffer.alloc(0) : layerBytes.subarray(0, layer.sizeBytes / 2)),
      'always the first half': () => layerBytes.subarray(0, layer.sizeBytes / 2),
    };
    for (const [name, body] of Object.entries(bodies)) {
      bed.other.requests.length = 0;
      bed.other.misbehave = (request, response) => {
        if (!request.url?.includes('/blobs/')) return false;
        response.writeHead(200, { 'content-length': layer.sizeBytes });
        response.write(body(request.headers.range !== undefined));
        setTimeout(() => response.destroy(), 20);
        return true;
      };
      await bed.withSession(
        async (session) => {
          await session.fetchManifest('1');
          await readLayer(session);
          await readLayer(session);
          const asked = bed.other.requests.filter((request) => request.url?.includes('/blobs/')).length;
          assert.ok(asked <= 2, `${name}: ${asked} requests`);
        },
        { name: 'registry.test/team/app:1' },
      );
    }
  });

  test('a mirror that answers a manifest with a page or with nothing is left', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://${bed.other.host}"]\n`);
    for (const [type, body] of [
      ['text/html', '<html>login</html>'],
      [manifestType, ''],
      [manifestType, '{"schemaVersion":2,'],
    ] as const) {
      bed.other.misbehave = (_request, response) => {
        response.writeHead(200, { 'content-type': type }).end(body);
        return true;
      };
      await bed.withSession(async (session) => assert.equal((await session.fetchManifest('1')).digest, manifestDigest), {
        name: 'registry.test/team/app:1',
      });
    }
  });

  test('a digest is asked from hosts that may pull, and the error names those that may not', async () => {
    bed.hostsToml(
      'registry.test',
      `server = "http://127.0.0.1:1"\ncapabilities = ["resolve"]\n[host."http://${bed.other.host}"]\ncapabilities = ["pull"]\n`,
    );
    await bed.withSession(
      async (session) => {
        assert.equal((await session.resolve(manifestDigest)).digest, manifestDigest);
        bed.other.misbehave = (_request, response) => sendError(response, 404, 'MANIFEST_UNKNOWN', '');
        const message = await failure(session.fetchManifest(manifestDigest), 'NOT_FOUND');
        assert.match(message, /not asked: http:\/\/127.0.0.1:1 \(no capability pull in hosts.toml\)$/);
      },
      { name: `registry.test/team/app@${manifestDigest}` },
    );
  });

  test('a mirror gets credentials of its own from auth_file, and a refusal says why those of the pull were not sent', async () => {
    const demand: Misbehaviour = (request, response) =>
      request.headers.authorization !== basicHeader && sendError(response, 401, 'UNAUTHORIZED', 'no', { 'www-authenticate': 'Basic realm="mirror"' });
    bed.other.misbehave = demand;
    bed.fake.misbehave = (_request, response) => sendError(response, 404, 'MANIFEST_UNKNOWN', '');
    const hosts = (more: string) => bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://${bed.other.host}"]\n${more}`);
    const options = { name: 'registry.test/team/app:1', auth: userAuth };
    hosts('');
    await bed.withSession(async (session) => {
      const message = await failure(session.fetchManifest('1'), 'NOT_FOUND');
      assert.match(
        message,
        /status 401 \(UNAUTHORIZED: no\): no credentials for this host: those of the pull .*auth_file in hosts.toml \(basic, realm mirror\)/,
      );
    }, options);
    hosts('auth_file = "mirror.json"\n');
    const file = `${bed.directory}/certs.d/registry.test/mirror.json`;
    writeFileSync(file, JSON.stringify({ Auths: { [bed.other.host]: { auth: basicHeader.slice('Basic '.length) } } }));
    await bed.withSession(async (session) => {
      assert.equal((await session.fetchManifest('1')).digest, manifestDigest);
      await readLayer(session);
    }, options);
    writeFileSync(file, JSON.stringify({ auths: { [bed.other.host]: { username: 'kim', password: 'another' } } }));
    await bed.withSession(
      async (session) => assert.match(await failure(session.fetchManifest('1'), 'NOT_FOUND'), /was refused \(basic, realm mirror\)/),
      options,
    );
    writeFileSync(file, '{');
    await assert.rejects(
      bed.withSession(async () => undefined, options),
      { code: 'FAILED_PRECONDITION', message: /mirror.json: invalid JSON/ },
    );
  });

  test('if all hosts fail, the error names each host with its reason and has the code of the registry', async () => {
    bed.hostsToml('registry.test', `server = "http://${bed.fake.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${bed.other.host}"]\n`);
    bed.other.misbehave = (_request, response) => sendError(response, 503, 'UNAVAILABLE', 'under repair');
    await bed.withSession(
      async (session) => {
        const message = await failure(session.fetchManifest('2'), 'NOT_FOUND');
        assert.match(
          message,
          new RegExp(
            `not found on http://${bed.fake.host}: status 404 .*; also tried http://127.0.0.1:1: .*ECONNREFUSED.*; http://${bed.other.host}: status 503 .*under repair`,
          ),
        );
      },
      { name: 'registry.test/team/app:2' },
    );
  });
});

describe('TLS', () => {
  let secure: FakeRegistry;
  const file = (name: string) => `${bed.directory}/${name}`;

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
    const [cert, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => readFileSync(file(name)));
    secure = await startFakeRegistry({ cert: cert as Buffer, key: key as Buffer, ca: ca as Buffer, requestCert: mutual, rejectUnauthorized: mutual });
    try {
      await body();
    } finally {
      await secure.close();
    }
  }

  test('a private CA is trusted only through hosts.toml', async () => {
    await withSecure(false, async () => {
      bed.hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`);
      await bed.withSession(async (session) => readLayer(session), { name: `${secure.host}/team/app:1` });
      bed.hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\n`);
      await bed.withSession(
        async (session) => assert.match(await failure(session.fetchManifest('1'), 'UNAVAILABLE'), /RegistryUnavailable: .*certificate/),
        {
          name: `${secure.host}/team/app:1`,
        },
      );
      bed.hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nskip_verify = true\n`);
      await bed.withSession(async (session) => readLayer(session), { name: `${secure.host}/team/app:1` });
      bed.hostsToml(`127.0.0.1_${secure.port}_`, `server = "https://${secure.host}"\nca = "absent.pem"\n`);
      await bed.withSession(
        async (session) => assert.match(await failure(session.fetchManifest('1'), 'FAILED_PRECONDITION'), /absent\.pem: .*no such file/),
        {
          name: `${secure.host}/team/app:1`,
        },
      );
    });
  });

  test('a client certificate is sent if one is configured', async () => {
    await withSecure(true, async () => {
      const hosts = `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`;
      bed.hostsToml(secure.host, hosts);
      await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAVAILABLE')), {
        name: `${secure.host}/team/app:1`,
      });
      bed.hostsToml(secure.host, `${hosts}client = [["${file('client.pem')}", "${file('client.key')}"]]\n`);
      await bed.withSession(async (session) => void (await session.fetchManifest('1')), { name: `${secure.host}/team/app:1` });
    });
  });

  test('credentials of a registry with TLS are not sent to a token service or redirect without TLS', async () => {
    await withSecure(false, async () => {
      bed.hostsToml(secure.host, `server = "https://${secure.host}"\nca = "${file('ca.pem')}"\n`);
      secure.misbehave = (request, response) => {
        const isRedirected = request.url?.includes('/blobs/') || request.url?.includes('/manifests/moved');
        if (isRedirected) response.writeHead(302, { location: `http://${bed.fake.host}${request.url?.replace('moved', '1')}` }).end();
        else sendError(response, 401, 'UNAUTHORIZED', '', { 'www-authenticate': `Bearer realm="http://${bed.fake.host}/token"` });
        return true;
      };
      await bed.withSession(
        async (session) => {
          await failure(session.fetchManifest('1'), 'UNAUTHENTICATED');
          assert.match(await failure(session.fetchManifest('moved'), 'FAILED_PRECONDITION'), /redirect from https to http:/);
          assert.equal(bed.fake.requests.length, 0);
          // The digest of a blob is checked.
          await readLayer(session);
          assert.deepEqual(
            bed.fake.requests.map(({ headers }) => headers.authorization),
            [undefined],
          );
        },
        { name: `${secure.host}/team/app:1`, auth: userAuth },
      );
    });
  });

  test('a proxy is used for http and https, except for loopback and hosts in NO_PROXY', async () => {
    await withSecure(false, async () => {
      const asked: string[] = [];
      const proxy = http.createServer((request, response) => {
        asked.push(request.url ?? '');
        respond(request, response);
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
      bed.hostsToml('plain.test', 'server = "http://plain.test"\n');
      bed.hostsToml('registry.test', `ca = "${file('ca.pem')}"\n`);
      try {
        await bed.withSession(async (session) => readLayer(session), { name: 'plain.test/team/app:1', deps });
        assert.deepEqual(asked.splice(0), [`http://plain.test/v2/team/app/blobs/${layer.digest}`]);
        await bed.withSession(async (session) => readLayer(session), { name: 'registry.test/team/app:1', deps });
        assert.deepEqual(asked.splice(0), ['CONNECT registry.test:443']);
        await bed.withSession(async (session) => readLayer(session), { deps });
        await bed.withSession(async (session) => void (await failure(session.fetchManifest('1'), 'UNAVAILABLE')), {
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
