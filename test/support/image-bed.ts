/**
 * Test bed for image pulls: Debian's docker-registry on loopback, functions that push images to it over plain HTTP, and image stores to pull into.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { toPlatform } from '../../src/images/document/platform.ts';
import { createImagePuller, type ImagePuller } from '../../src/images/pull/pull.ts';
import { createSharedLayers } from '../../src/images/pull/shared-layers.ts';
import { createRegistryClient } from '../../src/images/registry/registry.ts';
import type { SignaturePolicy } from '../../src/images/signature/signature-policy.ts';
import { createImageStore, type ImageStore } from '../../src/images/store/store.ts';
import { createUnpacker, type Unpacker } from '../../src/images/unpack/unpack.ts';
import type { Log } from '../../src/lib/log.ts';
import { digestOf, workerFile } from './layer-bed.ts';
import { freePort } from './nginx.ts';
import { type Member, makeTar } from './tar-maker.ts';

export const platform = toPlatform(process.arch);
const ociManifest = 'application/vnd.oci.image.manifest.v1+json';
const ociIndex = 'application/vnd.oci.image.index.v1+json';

export type PushedImage = {
  readonly id: string;
  /** Digest of the manifest. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** Lowest first. */
  readonly diffIds: readonly string[];
};

export type ImageSpec = {
  readonly layers: readonly Buffer[];
  /** The `config` object of the image config, for example `{ User: '1' }`. */
  readonly config?: object;
  readonly architecture?: string;
  /** Diff ids in the config; by default the digests of the layers. */
  readonly diffIds?: readonly string[];
  readonly compress?: (tar: Buffer) => Buffer;
};

export type Node = {
  readonly root: string;
  readonly store: ImageStore;
  readonly puller: ImagePuller;
  /** Diff ids of the unpacked layers. */
  readonly unpacked: string[];
  readonly logged: { readonly fields: object; readonly message: string }[];
  readonly pull: (reference: string, signal?: AbortSignal) => ReturnType<ImagePuller['pullImage']>;
};

export type NodeOptions = {
  readonly root?: string;
  readonly unpacker?: Unpacker;
  readonly bootId?: string;
  readonly keepUnfinishedMs?: number;
  readonly policy?: SignaturePolicy;
};

export type ImageBed = {
  /** `127.0.0.1:<port>`. */
  readonly host: string;
  readonly directory: string;
  readonly unpacker: Unpacker;
  readonly push: (repository: string, tag: string, image: ImageSpec) => Promise<PushedImage>;
  readonly pushIndex: (repository: string, tag: string, images: readonly { image: PushedImage; platform: object }[]) => Promise<string>;
  /** Opens a store and a puller. @param options with the `root` of an earlier node, it opens that store like a restarted daemon. */
  readonly node: (options?: NodeOptions) => Promise<Node>;
};

/** Creates the test bed and registers its hooks. Call it at the top level of a test file. */
export function useImages(): ImageBed {
  const directory = mkdtempSync(join(tmpdir(), 'berth-images-'));
  const unpacker = createUnpacker({ workerFile, workersMax: 2 });
  let registry: { host: string; child: ChildProcess } | undefined;
  before(async () => {
    execFileSync('ip', ['link', 'set', 'lo', 'up']);
    registry = await startRegistry(directory);
  });
  after(async () => {
    await unpacker.close();
    const child = registry?.child;
    if (child !== undefined) {
      const exited = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await exited;
    }
    rmSync(directory, { recursive: true, force: true });
  });
  const host = (): string => {
    assert.ok(registry, 'can be used only inside a test');
    return registry.host;
  };
  let count = 0;
  const node: ImageBed['node'] = async (options = {}) => {
    count += 1;
    const root = options.root ?? join(directory, `node${count}`);
    mkdirSync(root, { recursive: true });
    return await openNode(root, options.unpacker ?? unpacker, options);
  };
  return {
    get host() {
      return host();
    },
    directory,
    unpacker,
    push: (repository, tag, image) => pushImage(host(), repository, tag, image),
    pushIndex: (repository, tag, images) => pushIndex(host(), repository, tag, images),
    node,
  };
}

/** Opens a store and a puller in the directory `root`. */
export async function openNode(root: string, unpacker: Unpacker, options: NodeOptions = {}): Promise<Node> {
  const logged: { fields: object; message: string }[] = [];
  const write = (fields: object, message: string): void => void logged.push({ fields, message });
  const log: Log = { debug: write, info: write, warn: write, error: write };
  const unpacked: string[] = [];
  const counting: Unpacker = {
    ...unpacker,
    unpack: (job, ...rest) => {
      unpacked.push(job.diffId);
      return unpacker.unpack(job, ...rest);
    },
  };
  const store = await createImageStore({ log, pinnedImages: [], keepUnfinishedMs: 0, ...options, root, unpacker: counting });
  const registry = createRegistryClient({
    registryDir: join(root, 'certs.d'),
    userAgent: 'berth/test',
    log,
    timing: { backoffMs: 5, backoffMsMax: 20 },
  });
  const { policy } = options;
  const shared = createSharedLayers({ store, unpacker: counting, log });
  const puller = createImagePuller({ store, registry, shared, platform, log, ...(policy ? { policy } : {}) });
  const pull = (reference: string, signal = new AbortController().signal) => puller.pullImage({ reference, signal });
  return { root, store, puller, unpacked, logged, pull };
}

/**
 * Starts an HTTP proxy in front of the registry that modifies the bodies of blobs larger than 4 KiB. It runs until the process of the test file exits.
 *
 * @param modify returns the bytes to send. If they are fewer than the blob, the proxy sends them and breaks the connection.
 * @returns address and port of the proxy.
 */
export async function startProxy(target: string, modify: (blob: Buffer) => Buffer): Promise<string> {
  const server = createHttpServer(async (request, response) => {
    const headers = Object.fromEntries(['accept', 'range'].flatMap((name) => (request.headers[name] ? [[name, String(request.headers[name])]] : [])));
    const original = await fetch(`http://${target}${request.url}`, { method: request.method ?? 'GET', headers });
    const body = Buffer.from(await original.arrayBuffer());
    for (const name of ['content-type', 'content-range', 'docker-content-digest']) {
      const value = original.headers.get(name);
      if (value !== null) response.setHeader(name, value);
    }
    const isBlob = request.url?.includes('/blobs/') === true && body.length > 4096;
    const sent = isBlob ? modify(body) : body;
    response.writeHead(original.status, { 'content-length': body.length });
    response.write(sent, () => (sent.length < body.length ? response.destroy() : response.end()));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Lists the directory `layers`. Names of layers are returned as diff ids, other names unchanged. */
export function layersOnDisk(root: string): string[] {
  return readdirSync(join(root, 'layers'))
    .map((name) => (/^[0-9a-f]{64}$/.test(name) ? `sha256:${name}` : name))
    .sort();
}

/** Returns the tar of a layer with these files. */
export function layerOf(files: Readonly<Record<string, string | Buffer>>, more: readonly Member[] = []): Buffer {
  return makeTar([...Object.entries(files).map(([path, content]): Member => ({ path, content })), ...more]);
}

async function startRegistry(directory: string): Promise<{ host: string; child: ChildProcess }> {
  const host = `127.0.0.1:${await freePort()}`;
  const settings = `version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: ${directory}/registry\nhttp:\n  addr: ${host}\n`;
  writeFileSync(`${directory}/registry.yml`, settings);
  const child = spawn('/usr/bin/docker-registry', ['serve', `${directory}/registry.yml`], { stdio: 'ignore' });
  while (!(await isServing(`http://${host}/v2/`))) {
    assert.equal(child.exitCode, null, 'docker-registry is running');
    await sleep(50);
  }
  return { host, child };
}

async function isServing(url: string): Promise<boolean> {
  return await fetch(url).then(
    (response) => response.ok,
    () => false,
  );
}

async function pushImage(host: string, repository: string, tag: string, image: ImageSpec): Promise<PushedImage> {
  const compress = image.compress ?? ((tar: Buffer) => gzipSync(tar, { level: 1 }));
  const blobs = image.layers.map(compress);
  const diffIds = image.diffIds ?? image.layers.map(digestOf);
  const { os, architecture } = platform;
  const config = { os, architecture: image.architecture ?? architecture, config: image.config ?? {}, rootfs: { type: 'layers', diff_ids: diffIds } };
  const configBytes = Buffer.from(JSON.stringify(config));
  for (const blob of [...blobs, configBytes]) await pushBlob(host, repository, blob);
  const describe = (mediaType: string, blob: Buffer) => ({ mediaType, digest: digestOf(blob), size: blob.length });
  const manifest = {
    schemaVersion: 2,
    mediaType: ociManifest,
    config: describe('application/vnd.oci.image.config.v1+json', configBytes),
    layers: blobs.map((blob) => describe('application/vnd.oci.image.layer.v1.tar+gzip', blob)),
  };
  const { digest, sizeBytes } = await pushManifest(host, repository, tag, manifest);
  return { id: digestOf(configBytes), digest, sizeBytes, diffIds };
}

async function pushIndex(
  host: string,
  repository: string,
  tag: string,
  images: readonly { image: PushedImage; platform: object }[],
): Promise<string> {
  const manifests = images.map(({ image, platform }) => ({ mediaType: ociManifest, digest: image.digest, size: image.sizeBytes, platform }));
  const { digest } = await pushManifest(host, repository, tag, { schemaVersion: 2, mediaType: ociIndex, manifests });
  return digest;
}

async function pushBlob(host: string, repository: string, blob: Buffer): Promise<void> {
  const url = `http://${host}/v2/${repository}/blobs`;
  if ((await fetch(`${url}/${digestOf(blob)}`, { method: 'HEAD' })).ok) return;
  const upload = await fetch(`${url}/uploads/`, { method: 'POST' });
  const location = new URL(upload.headers.get('location') ?? '', url);
  location.searchParams.set('digest', digestOf(blob));
  const response = await fetch(location, { method: 'PUT', body: new Uint8Array(blob), headers: { 'content-type': 'application/octet-stream' } });
  assert.equal(response.status, 201, await response.text());
}

async function pushManifest(
  host: string,
  repository: string,
  tag: string,
  manifest: { readonly mediaType: string; readonly [field: string]: unknown },
): Promise<{ digest: string; sizeBytes: number }> {
  const bytes = Buffer.from(JSON.stringify(manifest));
  const url = `http://${host}/v2/${repository}/manifests/${tag}`;
  const response = await fetch(url, { method: 'PUT', body: bytes, headers: { 'content-type': manifest.mediaType } });
  assert.equal(response.status, 201, await response.text());
  return { digest: digestOf(bytes), sizeBytes: bytes.length };
}
