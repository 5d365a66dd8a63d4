/**
 * Prepares the conformance run: builds critest and crictl from their Go modules, and serves a registry with critest's images.
 *
 * The results are cached in build/critest, in directories named after a digest of their sources.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { takeFromPackage } from '../../scripts/debian.ts';
import { digestOf } from '../../scripts/image-builder.ts';
import { peerDir } from '../support/runtime.ts';
import { buildTestImages, pushImage } from './images/images.ts';

export const buildDir = resolve(import.meta.dirname, '../../build/critest');
export const registryUrl = 'http://127.0.0.1:5000';

const here = import.meta.dirname;
const toolsSource = join(here, 'tools');
const imagesSource = join(here, 'images');

/** An image that critest pulls by digest. Our build of it has another digest. */
const pinnedImage = {
  reference: 'k8s-staging-cri-tools/test-image-digest:latest',
  hex: '9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf',
};

/**
 * Builds the programs and the parts of the images unless they are cached. Needs the network: call it before enterIsolation().
 * @returns the directory of critest, crictl and ginkgo.
 */
export function prepareTools(): string {
  const toolsDir = toolsDirectory();
  if (!existsSync(toolsDir)) {
    say('building critest and crictl');
    const unfinished = `${toolsDir}.unfinished`;
    mkdirSync(unfinished, { recursive: true });
    const go = (...args: string[]) => execFileSync('go', args, { cwd: toolsSource, stdio: 'inherit', env: { ...process.env, CGO_ENABLED: '0' } });
    go('build', '-o', `${unfinished}/crictl`, 'sigs.k8s.io/cri-tools/cmd/crictl');
    go('build', '-o', `${unfinished}/ginkgo`, 'github.com/onsi/ginkgo/v2/ginkgo');
    go('test', '-c', '-o', `${unfinished}/critest`, 'sigs.k8s.io/cri-tools/cmd/critest');
    renameSync(unfinished, toolsDir);
  }
  if (!existsSync(partsDir())) {
    say('building the parts of the test images (busybox from source, nginx)');
    const unfinished = `${partsDir()}.unfinished`;
    execFileSync(join(imagesSource, 'make-parts'), [unfinished], { stdio: 'inherit' });
    renameSync(unfinished, partsDir());
  }
  return toolsDir;
}

/** Returns whether prepareTools() has nothing to do. */
export const hasTools = () => existsSync(toolsDirectory()) && existsSync(partsDir());

/** Returns the path of crictl, or undefined if it is not built. */
export function builtCrictl(): string | undefined {
  const path = join(toolsDirectory(), 'crictl');
  return existsSync(path) ? path : undefined;
}

/** Downloads containerd and runc for comparisons unless they are cached. Needs the network: call it before enterIsolation(). */
export function preparePeer(): void {
  takeOnce('containerd', 'usr/bin', peerDir);
  takeOnce('runc', 'usr/sbin/runc', join(peerDir, 'runc'));
}

function takeOnce(packageName: string, path: string, destination: string): void {
  if (existsSync(destination) && !lstatSync(destination).isSymbolicLink()) return;
  say(`downloading the Debian package ${packageName}`);
  takeFromPackage(packageName, [path], destination);
}

/**
 * Serves the registry on 127.0.0.1:5000. Builds the images first unless they are cached. Call it after enterIsolation().
 * @returns a function that stops the registry.
 */
export async function serveImages(): Promise<() => void> {
  const storeDir = storeDirectory();
  if (!existsSync(storeDir)) {
    say('building the test images');
    const unfinished = `${storeDir}.unfinished`;
    rmSync(unfinished, { recursive: true, force: true });
    const stop = await startRegistry(unfinished, false);
    const images = await buildTestImages(partsDir());
    for (const [reference, image] of images) await pushImage(registryUrl, reference, image);
    stop();
    writeFileSync(join(unfinished, 'digest'), images.get(pinnedImage.reference)?.digest ?? '');
    renameSync(unfinished, storeDir);
  }
  return startRegistry(storeDir, true);
}

/** Creates a copy of critest in which the digest of the pinned image is replaced by that of our image. @returns its path. */
export function patchedCritest(toolsDir: string): string {
  const hex = readFileSync(join(storeDirectory(), 'digest'), 'utf8').replace('sha256:', '');
  const patched = join(toolsDir, `critest-${hex.slice(0, 12)}`);
  if (existsSync(patched)) return patched;
  const program = readFileSync(join(toolsDir, 'critest'));
  const replacement = Buffer.from(hex);
  if (replacement.length !== pinnedImage.hex.length) throw new Error(`invalid digest ${hex} of the test image`);
  const offsets = [];
  for (let at = program.indexOf(pinnedImage.hex); at >= 0; at = program.indexOf(pinnedImage.hex, at + 1)) offsets.push(at);
  if (offsets.length === 0) throw new Error('critest does not contain the digest of the pinned image: the patched copy is no longer needed');
  for (const at of offsets) replacement.copy(program, at);
  // The name is unique because another run may create the same copy.
  const unfinished = `${patched}.${Date.now()}`;
  writeFileSync(unfinished, program, { mode: 0o755 });
  renameSync(unfinished, patched);
  return patched;
}

async function startRegistry(storeDir: string, isReadonly: boolean): Promise<() => void> {
  mkdirSync(storeDir, { recursive: true });
  const configFile = join('/run', 'registry.yml');
  const maintenance = isReadonly ? '  maintenance: { readonly: { enabled: true } }\n' : '';
  const head = 'version: 0.1\nlog: { level: error, accesslog: { disabled: true } }\n';
  writeFileSync(configFile, `${head}storage:\n  filesystem: { rootdirectory: ${storeDir} }\n${maintenance}http: { addr: '127.0.0.1:5000' }\n`);
  const registry = spawn('docker-registry', ['serve', configFile], { stdio: 'ignore' });
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const response = await fetch(`${registryUrl}/v2/`).catch(() => null);
    if (response?.ok) return () => void registry.kill('SIGKILL');
    await sleep(100);
  }
  throw new Error('docker-registry did not start on 127.0.0.1:5000');
}

const toolsDirectory = () => join(buildDir, `tools-${keyOf(toolsSource)}`);
const storeDirectory = () => join(buildDir, `store-${keyOf(imagesSource, resolve(here, '../../scripts/image-builder.ts'))}`);
const partsDir = () => join(buildDir, `parts-${keyOf(join(imagesSource, 'make-parts'), join(imagesSource, 'pause.c'), join(imagesSource, 'nnp.c'))}`);

/** Returns a short digest of files. For a directory, of all files directly in it. */
function keyOf(...paths: readonly string[]): string {
  const files = paths.flatMap((path) =>
    statSync(path).isFile()
      ? [path]
      : readdirSync(path)
          .sort()
          .map((name) => join(path, name)),
  );
  return digestOf(Buffer.concat(files.map((file) => readFileSync(file)))).slice(7, 19);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
