/**
 * Builds the images that critest pulls from the output of make-parts, and uploads them to a registry.
 *
 * References have no registry host: the runtime's mirrors map all hosts that critest uses to one registry.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  buildImage,
  buildIndex,
  buildLayer,
  dockerTypes,
  type Entry,
  type Image,
  type Layer,
  ociTypes,
  type RunConfig,
} from '../../../scripts/image-builder.ts';

const env = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];
const shell: RunConfig = { Env: env, Cmd: ['sh'] };

const passwd = [
  'root:x:0:0:root:/root:/bin/sh',
  'daemon:x:1:1:daemon:/usr/sbin:/bin/false',
  'bin:x:2:2:bin:/bin:/bin/false',
  'www-data:x:33:33:www-data:/var/www:/bin/false',
  'nobody:x:65534:65534:nobody:/home:/bin/false',
];
const group = ['root:x:0:', 'daemon:x:1:', 'bin:x:2:', 'adm:x:4:', 'tty:x:5:', 'mail:x:8:', 'www-data:x:33:', 'users:x:100:', 'nobody:x:65534:'];
const lines = (all: readonly string[]) => `${all.join('\n')}\n`;

/** Builds all images. @returns the images by `repository:tag`. */
export async function buildTestImages(partsDir: string): Promise<Map<string, Image>> {
  const base = await busyboxLayer(partsDir);
  return new Map([...(await registryImages(partsDir, base)), ...(await stagingImages(partsDir, base)), ...(await benchmarkImages(base))]);
}

/** Builds the images of registry.k8s.io. The formats vary on purpose: manifest list, index, single manifest, this platform first or second. */
async function registryImages(partsDir: string, base: Layer): Promise<[string, Image][]> {
  const foreign = buildImage([await buildLayer([{ kind: 'file', path: 'not-for-this-machine', data: '' }])], { Env: env }, ociTypes, 'arm64');
  const nginx = buildImage([base, await nginxLayer(partsDir, 80)], webConfig(80), ociTypes);
  const start = '#!/bin/sh\necho "httpd: resuming normal operations" >&2\nexec /bin/httpd -f -v -p 80 -h /www\n';
  const httpd = await buildLayer([
    { kind: 'file', path: 'www/index.html', data: '<title>It works</title>\n' },
    { kind: 'file', path: 'usr/local/bin/httpd-foreground', data: start, mode: 0o755 },
  ]);
  const nnp = await buildLayer([{ kind: 'file', path: 'nnp', data: readFileSync(join(partsDir, 'nnp')), mode: 0o4755 }]);
  const pause = await buildLayer([{ kind: 'file', path: 'pause', data: readFileSync(join(partsDir, 'pause')), mode: 0o755 }]);
  // Each tag is a different image: a spec removes 3.9, and the runtime may pin others.
  const pauses = ['3.9', '3.10', '3.10.1', '3.10.2'].map((version): [string, Image] => {
    const image = buildImage([pause], { Env: env, Entrypoint: ['/pause'], User: '65535:65535', WorkingDir: '/', Labels: { version } }, ociTypes);
    return [`pause:${version}`, buildIndex([[foreign, 'arm64'], [image, 'amd64']])]; // biome-ignore format: a pair a line reads worse
  });
  return [
    ['e2e-test-images/busybox:1.29-2', buildIndex([[foreign, 'arm64'], [buildImage([base], shell), 'amd64']], dockerTypes)], // biome-ignore format: as above
    ['e2e-test-images/nginx:1.14-2', buildIndex([[nginx, 'amd64'], [foreign, 'arm64']])], // biome-ignore format: as above
    ['e2e-test-images/httpd:2.4.39-4', buildImage([base, httpd], { Env: env, Cmd: ['httpd-foreground'], ExposedPorts: { '80/tcp': {} } })],
    ['e2e-test-images/nonewprivs:1.3', buildImage([base, nnp], { Env: env, Entrypoint: ['/nnp'] })],
    ...pauses,
  ];
}

/** Builds the images of gcr.io/k8s-staging-cri-tools. */
async function stagingImages(partsDir: string, base: Layer): Promise<[string, Image][]> {
  const at = (name: string) => `k8s-staging-cri-tools/${name}`;
  const oneTag = ['1', '2', '3', 'latest', 'digest'].map((name) => `test-image-${name}`);
  const single = await Promise.all(oneTag.map(async (name): Promise<[string, Image]> => [at(`${name}:latest`), await markedImage(base, name)]));
  const several = await markedImage(base, 'same-image');
  const twice = await markedImage(base, 'test-image-tag');
  const users = { uid: '1002', username: 'www-data', 'uid-group': '1003:1004', 'username-group': 'www-data:1004' };
  const groups = await buildLayer([
    { kind: 'file', path: 'etc/passwd', data: lines([...passwd, 'default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh']) },
    { kind: 'file', path: 'etc/group', data: lines([...group, 'default-user:x:1000:', 'group-defined-in-image:x:50000:default-user']) },
  ]);
  return [
    ...single,
    ...['1', '2', '3'].map((tag): [string, Image] => [at(`test-image-tags:${tag}`), several]),
    ...['test', 'all'].map((tag): [string, Image] => [at(`test-image-tag:${tag}`), twice]),
    ...Object.entries(users).map(([name, User]): [string, Image] => [at(`test-image-user-${name}:latest`), buildImage([base], { ...shell, User })]),
    [at('test-image-predefined-group:latest'), buildImage([base, groups], { ...shell, User: '1000' })],
    [at('hostnet-nginx-amd64:latest'), buildImage([base, await nginxLayer(partsDir, 12003)], webConfig(12003))],
  ];
}

/** Builds two images for pull benchmarks: a small one, and one with 6 incompressible layers of 8 MiB and a layer of 4000 small files. */
async function benchmarkImages(base: Layer): Promise<[string, Image][]> {
  const incompressible = await Promise.all(
    [0, 1, 2, 3, 4, 5].map((index) => buildLayer([{ kind: 'file', path: `data/${index}.bin`, data: noise(index + 1, 8 << 20) }])),
  );
  const tree = Array.from({ length: 4000 }, (_, index): Entry => {
    return { kind: 'file', path: `tree/${index % 50}/${index}.txt`, data: `${index}\n`.repeat((index % 200) + 1) };
  });
  return [
    ['bench/pull:small', await markedImage(base, 'bench-small')],
    ['bench/pull:large', buildImage([base, ...incompressible, await buildLayer(tree)], shell, ociTypes)],
  ];
}

/** Returns deterministic pseudorandom bytes (xorshift32). */
function noise(seed: number, bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4);
  let state = seed * 2654435761;
  for (const index of words.keys()) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state >>> 0;
  }
  return Buffer.from(words.buffer);
}

const webConfig = (port: number): RunConfig => ({
  Env: env,
  Entrypoint: ['nginx', '-g', 'daemon off;'],
  ExposedPorts: { [`${port}/tcp`]: {} },
  StopSignal: 'SIGQUIT',
});

async function markedImage(base: Layer, name: string): Promise<Image> {
  return buildImage([base, await buildLayer([{ kind: 'file', path: name, data: '' }])], shell);
}

async function busyboxLayer(partsDir: string): Promise<Layer> {
  const busybox = join(partsDir, 'busybox');
  const applets = execFileSync(busybox, ['--list'], { encoding: 'utf8' }).trim().split('\n');
  const directories = ['dev', 'home', 'lib', 'mnt', 'proc', 'root', 'sys', 'usr/bin', 'usr/sbin', 'var/www'];
  return buildLayer([
    ...directories.map((path): Entry => ({ kind: 'directory', path })),
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'directory', path: 'var/tmp', mode: 0o1777 },
    { kind: 'file', path: 'bin/busybox', data: readFileSync(busybox), mode: 0o755 },
    // Hard links, so that masking the path of one applet does not affect the others.
    ...applets.filter((name) => name !== 'busybox').map((name): Entry => ({ kind: 'hardlink', path: `bin/${name}`, target: 'bin/busybox' })),
    { kind: 'file', path: 'etc/passwd', data: lines(passwd) },
    { kind: 'file', path: 'etc/group', data: lines(group) },
    { kind: 'file', path: 'etc/shadow', data: 'root:*::0:::::\n', mode: 0o600 },
  ]);
}

async function nginxLayer(partsDir: string, port: number): Promise<Layer> {
  const libraries = readdirSync(join(partsDir, 'lib'))
    .sort()
    .map((name): Entry => {
      const directory = name.startsWith('ld-') ? 'lib64' : 'lib/x86_64-linux-gnu';
      return { kind: 'file', path: `${directory}/${name}`, data: readFileSync(join(partsDir, 'lib', name)), mode: 0o755 };
    });
  const config = `user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 128; }
http {
  access_log /dev/stdout;
  server { listen ${port}; root /usr/share/nginx/html; index index.html; }
}
`;
  return buildLayer([
    { kind: 'file', path: 'usr/sbin/nginx', data: readFileSync(join(partsDir, 'nginx')), mode: 0o755 },
    ...libraries,
    ...['var/run', 'var/log/nginx', 'var/lib/nginx'].map((path): Entry => ({ kind: 'directory', path })),
    { kind: 'file', path: 'etc/nginx/nginx.conf', data: config },
    { kind: 'file', path: 'usr/share/nginx/html/index.html', data: '<title>Welcome</title>\n' },
  ]);
}

/** Uploads the image with the distribution API. @param registryUrl for example `http://127.0.0.1:5000`. @param reference `repository:tag`. */
export async function pushImage(registryUrl: string, reference: string, image: Image): Promise<void> {
  const [repository = '', tag = ''] = reference.split(':');
  for (const child of image.manifests) await pushImage(registryUrl, `${repository}:${child.digest.replace(':', '%3A')}`, child);
  for (const [digest, blob] of image.blobs) await pushBlob(registryUrl, repository, digest, blob);
  await request(`${registryUrl}/v2/${repository}/manifests/${tag}`, {
    method: 'PUT',
    body: image.data,
    headers: { 'content-type': image.mediaType },
  });
}

async function pushBlob(registryUrl: string, repository: string, digest: string, blob: Buffer): Promise<void> {
  const present = await fetch(`${registryUrl}/v2/${repository}/blobs/${digest}`, { method: 'HEAD' });
  if (present.ok) return;
  const session = await request(`${registryUrl}/v2/${repository}/blobs/uploads/`, { method: 'POST' });
  const location = new URL(session.headers.get('location') ?? '', registryUrl);
  location.searchParams.set('digest', digest);
  await request(location.href, { method: 'PUT', body: blob, headers: { 'content-type': 'application/octet-stream' } });
}

async function request(url: string, init: { method: string; body?: Buffer; headers?: Record<string, string> }): Promise<Response> {
  const { body, ...rest } = init;
  const response = await fetch(url, body === undefined ? rest : { ...rest, body: new Uint8Array(body) });
  if (!response.ok) throw new Error(`${init.method} ${url}: ${response.status} ${await response.text()}`);
  return response;
}
