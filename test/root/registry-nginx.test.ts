/**
 * Complete pulls from Debian's docker-registry behind Debian's nginx: mirrors, tokens, passwords, a private CA, client certificates, external blob storage
 * and broken connections.
 *
 * Runs in a separate network namespace; connects only to 127.0.0.1.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createSign, randomBytes, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RegistryAuth } from '../../src/images/registry/challenges.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { layerOf, layersOnDisk, type Node, type PushedImage, useImages } from '../support/image-bed.ts';
import { createRandom } from '../support/mutate.ts';
import { freePort, isListening, type Nginx, startNginx } from '../support/nginx.ts';

const bed = useImages();
const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const userAuth: RegistryAuth = { ...noAuth, username: 'kim', password: 'open-sesame' };
let image: PushedImage | undefined;
let nginx: Nginx | undefined;
let served = 0;

beforeEach(async () => {
  const layers = Array.from({ length: 3 }, (_, at) => layerOf({ [`file${at}`]: randomBytes(600_000), [`dir${at}/small`]: `${at}` }));
  image ??= await bed.push('team/app', '1', { layers });
});
afterEach(async () => {
  await nginx?.stop();
  nginx = undefined;
});

async function serve(servers: readonly (string | { tls: true; block: string })[]): Promise<Nginx> {
  served += 1;
  const directory = join(bed.directory, `nginx${served}`);
  nginx = await startNginx(
    directory,
    servers.map((server) => (typeof server === 'string' ? { block: server } : server)),
  );
  return nginx;
}

/** Opens a node with a hosts.toml for each registry. */
async function nodeWith(files: Readonly<Record<string, string>>): Promise<Node> {
  const node = await bed.node();
  for (const [domain, text] of Object.entries(files)) {
    const directory = join(node.root, 'certs.d', domain);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'hosts.toml'), text);
  }
  return node;
}

async function pullImage(node: Node, host: string, auth?: RegistryAuth): Promise<void> {
  const pulled = await node.puller.pullImage({ reference: `${host}/team/app:1`, auth, signal: AbortSignal.timeout(30_000) });
  assert.ok(image);
  assert.equal(pulled.id, image.id);
  assert.deepEqual(layersOnDisk(node.root), [...image.diffIds].sort());
}

async function pullFailure(node: Node, host: string, code: string, auth?: RegistryAuth): Promise<string> {
  try {
    await node.puller.pullImage({ reference: `${host}/team/app:1`, auth, signal: AbortSignal.timeout(30_000) });
  } catch (error) {
    assert.ok(error instanceof BerthError, String(error));
    assert.equal(error.code, code, error.message);
    assert.ok(!error.message.includes(userAuth.password));
    assert.deepEqual(layersOnDisk(node.root), []);
    return error.message;
  }
  assert.fail('the pull succeeded');
}

const toRegistry = (): string => `location / { proxy_pass http://${bed.host}; }`;

test('with a failing mirror and one that lacks a layer, the rest is fetched from the registry and the reason is logged', async () => {
  const broken = 'location / { return 503; }';
  const withoutSomeBlobs = `location ~ /blobs/ { if ($request_uri ~ "[02468ace]\\?ns") { return 404; } proxy_pass http://${bed.host}; } ${toRegistry()}`;
  const { hosts, accessLog } = await serve([broken, withoutSomeBlobs, toRegistry()]);
  const node = await nodeWith({
    'registry.test': `server = "http://${hosts[2]}"\n[host."http://${hosts[0]}"]\n[host."http://${hosts[1]}"]\n`,
  });
  await pullImage(node, 'registry.test');
  const statuses = new Set(accessLog().map((each) => `${hosts.indexOf(each.host)} ${each.status}`));
  assert.ok(statuses.has('0 503') && statuses.has('1 200'), [...statuses].join());
  const warned = node.logged.filter(({ message }) => message.includes('registry host'));
  assert.ok(
    warned.some(({ fields }) => JSON.stringify(fields).includes(`"host":"http://${hosts[0]}"`) && JSON.stringify(fields).includes('status 503')),
    JSON.stringify(warned),
  );
});

test('if no host has the image, the error contains the response of each host', async () => {
  const { hosts } = await serve(['location / { return 503; }', 'location / { return 404; }']);
  const node = await nodeWith({ 'registry.test': `server = "http://${hosts[1]}"\n[host."http://${hosts[0]}"]\n` });
  const message = await pullFailure(node, 'registry.test', 'NOT_FOUND');
  assert.match(message, new RegExp(`not found on http://${hosts[1]}: status 404; also tried http://${hosts[0]}: status 503`));
});

test('basic authentication of nginx: the image is available only with valid credentials', async () => {
  execFileSync('htpasswd', ['-Bbc', join(bed.directory, 'htpasswd'), 'kim', userAuth.password], { stdio: 'ignore' });
  const { hosts, accessLog } = await serve([`auth_basic realm; auth_basic_user_file ${bed.directory}/htpasswd; ${toRegistry()}`]);
  const host = hosts[0] ?? '';
  await pullFailure(await bed.node(), host, 'UNAUTHENTICATED');
  await pullFailure(await bed.node(), host, 'UNAUTHENTICATED', { ...userAuth, password: 'guess' });
  await pullImage(await bed.node(), host, userAuth);
  assert.ok(accessLog().some(({ status }) => status === '401'));
});

test("docker-registry's token authentication: signed tokens for one repository, from a service that requires a password", async () => {
  const service = await startTokenService();
  const registry = await startTokenRegistry(service.realm);
  try {
    const { hosts } = await serve([`location / { proxy_pass http://${registry.host}; }`]);
    const host = hosts[0] ?? '';
    await pullFailure(await bed.node(), host, 'UNAUTHENTICATED');
    const node = await bed.node();
    await pullImage(node, host, userAuth);
    assert.deepEqual(new Set(service.scopes), new Set(['repository:team/app:pull']));
    assert.ok(!JSON.stringify(node.logged).includes(userAuth.password));
  } finally {
    registry.child.kill('SIGKILL');
    service.close();
  }
});

test('a private CA and a client certificate in certs.d: without either the pull fails', async () => {
  makeCertificates();
  const file = (name: string) => join(bed.directory, name);
  const tls = `ssl_certificate ${file('server.pem')}; ssl_certificate_key ${file('server.key')};`;
  const block = `${tls} ssl_client_certificate ${file('ca.pem')}; ssl_verify_client on; ${toRegistry()}`;
  const { hosts } = await serve([{ tls: true, block }]);
  const host = hosts[0] ?? '';
  const domain = host.replace(/:([0-9]+)$/, '_$1_');
  const server = `server = "https://${host}"\n`;
  const ca = `ca = "${file('ca.pem')}"\n`;
  assert.match(await pullFailure(await nodeWith({ [domain]: server }), host, 'UNAVAILABLE'), /certificate/);
  assert.match(await pullFailure(await nodeWith({ [domain]: server + ca }), host, 'FAILED_PRECONDITION'), /status 400/);
  await pullImage(await nodeWith({ [domain]: `${server}${ca}client = [["${file('client.pem')}", "${file('client.key')}"]]\n` }), host);
});

test('blobs are redirected (307) to external storage, which gets no credentials', async () => {
  execFileSync('htpasswd', ['-Bbc', join(bed.directory, 'htpasswd'), 'kim', userAuth.password], { stdio: 'ignore' });
  const storage = `location / { rewrite ^/storage(.*) $1 break; proxy_pass http://${bed.host}; }`;
  const front = `auth_basic realm; auth_basic_user_file ${bed.directory}/htpasswd;
    location ~ /blobs/ { return 307 http://{host1}/storage$request_uri?X-Signature=abc; } ${toRegistry()}`;
  const { hosts, accessLog } = await serve([front, storage]);
  // By another name than the storage: credentials are for a host, whatever the port.
  await pullImage(await bed.node(), hosts[0]?.replace('127.0.0.1', 'localhost') ?? '', userAuth);
  const fromStorage = accessLog().filter(({ host }) => host === hosts[1]);
  assert.equal(fromStorage.length, 4, 'the config and three layers');
  assert.ok(fromStorage.every(({ authorization, status }) => authorization === '-' && status === '200'));
  assert.ok(accessLog().some(({ host, authorization }) => host === hosts[0] && authorization.startsWith('Basic ')));
});

test('connections that break at random: every layer is resumed and correct', async (t) => {
  const seed = Number(process.env.BERTH_SEED ?? Date.now() % 1_000_000);
  t.diagnostic(`BERTH_SEED=${seed}`);
  const { hosts, accessLog } = await serve([toRegistry()]);
  const proxy = await startBreakingProxy(hosts[0] ?? '', createRandom(seed));
  try {
    const isEnough = () => proxy.breaks() > 5 && accessLog().some(({ status }) => status === '206');
    for (let round = 0; !isEnough(); round += 1) {
      assert.ok(round < 50, `${proxy.breaks()} breaks`);
      const node = await bed.node();
      await pullImage(node, proxy.host);
      const breaks = node.logged.filter(({ message }) => message.startsWith('download interrupted'));
      assert.ok(breaks.every(({ fields }) => JSON.stringify(fields).includes(`"host":"http://${proxy.host}"`)));
    }
  } finally {
    proxy.close();
  }
});

test('an image can be pulled from a registry with rate limits (429 and Retry-After) and without HEAD', async () => {
  const { hosts, accessLog } = await serve([
    `limit_req_status 429; error_page 429 = @slow; location @slow { add_header Retry-After 1 always; return 429; }
     if ($request_method = HEAD) { return 405; } limit_req zone=few burst=1 nodelay; ${toRegistry()}`,
  ]);
  const node = await bed.node();
  await pullImage(node, hosts[0] ?? '');
  await pullImage(node, hosts[0] ?? '');
  const statuses = new Set(accessLog().map(({ status }) => status));
  assert.ok(statuses.has('405') && statuses.has('429'), [...statuses].join());
});

/** A token service for docker-registry: returns a token for the requested scope if the password is correct. */
async function startTokenService(): Promise<{ realm: string; scopes: string[]; close: () => void }> {
  const file = (name: string) => join(bed.directory, name);
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', file('token.key'), '-out', file('token.pem'), '-subj', '/CN=token'],
    { stdio: 'pipe' },
  );
  const der = new X509Certificate(readFileSync(file('token.pem'))).raw.toString('base64');
  const key = readFileSync(file('token.key'));
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const scopes: string[] = [];
  const expected = `Basic ${Buffer.from(`${userAuth.username}:${userAuth.password}`).toString('base64')}`;
  const server = createHttpServer((request, response) => {
    const query = new URL(request.url ?? '', 'http://x').searchParams;
    const [type, name, actions = ''] = (query.get('scope') ?? '').split(':');
    const isKnown = request.headers.authorization === expected;
    if (isKnown) scopes.push(query.get('scope') ?? '');
    const nowS = Math.floor(Date.now() / 1000);
    const access = isKnown ? [{ type, name, actions: actions.split(',') }] : [];
    const claims = { iss: 'test', sub: 'kim', aud: query.get('service'), exp: nowS + 300, nbf: nowS - 10, iat: nowS, jti: `${nowS}`, access };
    const signed = `${encode({ typ: 'JWT', alg: 'RS256', x5c: [der] })}.${encode(claims)}`;
    const token = `${signed}.${createSign('RSA-SHA256').update(signed).sign(key, 'base64url')}`;
    response.end(JSON.stringify({ token, expires_in: 300 }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { realm: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`, scopes, close };
}

/** Starts a registry with the same storage as the registry of the test bed. */
async function startTokenRegistry(realm: string): Promise<{ host: string; child: ChildProcess }> {
  const host = `127.0.0.1:${await freePort()}`;
  const auth = `auth:\n  token:\n    realm: ${realm}\n    service: registry.test\n    issuer: test\n    rootcertbundle: ${bed.directory}/token.pem\n`;
  const storage = `storage:\n  filesystem:\n    rootdirectory: ${bed.directory}/registry\n`;
  writeFileSync(join(bed.directory, 'token.yml'), `version: 0.1\nlog:\n  level: error\n${storage}${auth}http:\n  addr: ${host}\n`);
  const child = spawn('/usr/bin/docker-registry', ['serve', join(bed.directory, 'token.yml')], { stdio: 'ignore' });
  while (!(await isListening(host))) {
    assert.equal(child.exitCode, null, 'docker-registry runs');
    await sleep(50);
  }
  return { host, child };
}

function makeCertificates(): void {
  if (existsSync(join(bed.directory, 'client.pem'))) return;
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe', cwd: bed.directory });
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...ec, '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=test authority');
  writeFileSync(join(bed.directory, 'ext'), 'subjectAltName=IP:127.0.0.1\n');
  for (const name of ['server', 'client']) {
    openssl('req', ...ec, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const signing = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'ext'];
    openssl('x509', '-req', '-in', `${name}.csr`, ...signing, '-out', `${name}.pem`);
  }
}

/** Starts a proxy that breaks two of three connections after some bytes of the response. */
async function startBreakingProxy(target: string, random: () => number): Promise<{ host: string; breaks: () => number; close: () => void }> {
  let breaks = 0;
  const sockets = new Set<{ destroy: () => void }>();
  const server = createServer((client) => {
    const upstream = connect(Number(target.split(':')[1]), '127.0.0.1');
    sockets.add(client).add(upstream);
    let left = random() < 0.66 ? Math.floor(random() * 800_000) : Number.POSITIVE_INFINITY;
    client.on('error', () => upstream.destroy()).on('close', () => upstream.destroy());
    upstream.on('error', () => client.destroy()).on('close', () => client.destroy());
    client.pipe(upstream);
    upstream.on('data', (bytes) => {
      if (left < bytes.length) {
        breaks += 1;
        // Half of them with a reset, half with an early end of the body.
        if (random() < 0.5) client.resetAndDestroy();
        else client.end(bytes.subarray(0, left));
        upstream.destroy();
        return;
      }
      left -= bytes.length;
      if (!client.write(bytes)) {
        upstream.pause();
        client.once('drain', () => upstream.resume());
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, breaks: () => breaks, close };
}
