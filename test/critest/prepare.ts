/**
 * Gets what the conformance run needs, once: critest and crictl built from their Go modules, and the registry that holds critest's images.
 *
 * Everything lies under build/critest, by a digest of what it was made from.
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

/** The image that critest names by a digest which only its maker can produce. */
const unmakeable = {
  reference: 'k8s-staging-cri-tools/test-image-digest:latest',
  hex: '9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf',
};

/**
 * Builds the programs and the parts of the images, when they are not there yet. Needs the network; belongs outside isolation.
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
    say('making the parts of the test images (busybox from source, nginx)');
    const unfinished = `${partsDir()}.unfinished`;
    execFileSync(join(imagesSource, 'make-parts'), [unfinished], { stdio: 'inherit' });
    renameSync(unfinished, partsDir());
  }
  return toolsDir;
}

/** Whether nothing remains for prepareTools() to do. */
export const hasTools = () => existsSync(toolsDirectory()) && existsSync(partsDir());

/** @returns crictl; undefined when it is not built. */
export function builtCrictl(): string | undefined {
  const path = join(toolsDirectory(), 'crictl');
  return existsSync(path) ? path : undefined;
}

/** Gets containerd and runc for comparisons, when they are not there yet. Needs the network; belongs outside isolation. */
export function preparePeer(): void {
  takeOnce('containerd', 'usr/bin', peerDir);
  takeOnce('runc', 'usr/sbin/runc', join(peerDir, 'runc'));
}

function takeOnce(packageName: string, path: string, destination: string): void {
  if (existsSync(destination) && !lstatSync(destination).isSymbolicLink()) return;
  say(`taking ${packageName} from its Debian package`);
  takeFromPackage(packageName, [path], destination);
}

/**
 * Makes the registry's store, when it is not there yet, and serves it on 127.0.0.1:5000. Belongs inside isolation. @returns what ends the registry.
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
    writeFileSync(join(unfinished, 'digest'), images.get(unmakeable.reference)?.digest ?? '');
    renameSync(unfinished, storeDir);
  }
  return startRegistry(storeDir, true);
}

/** @returns a copy of critest, made when it is not there yet, in which the 64 characters of the unmakeable digest are those of our image. */
export function fittingCritest(toolsDir: string): string {
  const hex = readFileSync(join(storeDirectory(), 'digest'), 'utf8').replace('sha256:', '');
  const fitting = join(toolsDir, `critest-${hex.slice(0, 12)}`);
  if (existsSync(fitting)) return fitting;
  const program = readFileSync(join(toolsDir, 'critest'));
  const replacement = Buffer.from(hex);
  if (replacement.length !== unmakeable.hex.length) throw new Error(`the test image has the digest ${hex}`);
  const places = [];
  for (let at = program.indexOf(unmakeable.hex); at >= 0; at = program.indexOf(unmakeable.hex, at + 1)) places.push(at);
  if (places.length === 0) throw new Error('critest no longer names the image by that digest: the copy is needless');
  for (const at of places) replacement.copy(program, at);
  // Another run may be at the same.
  const unfinished = `${fitting}.${Date.now()}`;
  writeFileSync(unfinished, program, { mode: 0o755 });
  renameSync(unfinished, fitting);
  return fitting;
}

async function startRegistry(storeDir: string, isReadonly: boolean): Promise<() => void> {
  mkdirSync(storeDir, { recursive: true });
  const configFile = join('/run', 'registry.yml');
  const maintenance = isReadonly ? '  maintenance: { readonly: { enabled: true } }\n' : '';
  const head = 'version: 0.1\nlog: { level: error, accesslog: { disabled: true } }\n';
  writeFileSync(configFile, `${head}storage:\n  filesystem: { rootdirectory: ${storeDir} }\n${maintenance}http: { addr: '127.0.0.1:5000' }\n`);
  const registry = spawn('docker-registry', ['serve', configFile], { stdio: 'ignore' });
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const answer = await fetch(`${registryUrl}/v2/`).catch(() => null);
    if (answer?.ok) return () => void registry.kill('SIGKILL');
    await sleep(100);
  }
  throw new Error('docker-registry does not answer on 127.0.0.1:5000');
}

const toolsDirectory = () => join(buildDir, `tools-${keyOf(toolsSource)}`);
const storeDirectory = () => join(buildDir, `store-${keyOf(imagesSource, resolve(here, '../../scripts/image-builder.ts'))}`);
const partsDir = () => join(buildDir, `parts-${keyOf(join(imagesSource, 'make-parts'), join(imagesSource, 'pause.c'), join(imagesSource, 'nnp.c'))}`);

/** A short digest over files, and all files directly in directories. */
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
