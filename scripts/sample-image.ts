/**
 * The sample image of `npm start`: Debian's static busybox and nothing else. The binary is cached in build/sample.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { takeFromPackage } from './debian.ts';
import { buildImage, buildLayer, type Entry, type Image, type Layer, type RunConfig } from './image-builder.ts';

const busyboxFile = resolve(import.meta.dirname, '../build/sample/busybox');

if (import.meta.main) fetchProgram();

/** Requires the network on the first run; `npm run setup` runs this file to download it in advance. */
function fetchProgram(): void {
  if (!existsSync(busyboxFile)) takeFromPackage('busybox-static', ['usr/bin/busybox', 'bin/busybox'], busyboxFile);
}

/** Builds the layer of busybox. */
export async function buildSampleLayer(): Promise<Layer> {
  fetchProgram();
  const applets = execFileSync(busyboxFile, ['--list'], { encoding: 'utf8' }).trim().split('\n');
  const entries: Entry[] = [
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'file', path: 'bin/busybox', data: readFileSync(busyboxFile), mode: 0o755 },
    ...applets.filter((name) => name !== 'busybox').map((name): Entry => ({ kind: 'hardlink', path: `bin/${name}`, target: 'bin/busybox' })),
    { kind: 'file', path: 'etc/passwd', data: 'root:x:0:0:root:/:/bin/sh\n' },
    { kind: 'file', path: 'etc/group', data: 'root:x:0:\n' },
  ];
  return buildLayer(entries);
}

/** Builds the sample image for the architecture of this machine. @param above layers above the one of busybox. @param config changes of its config. */
export async function buildSampleImage(above: readonly Layer[] = [], config: RunConfig = {}): Promise<Image> {
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  return buildImage([await buildSampleLayer(), ...above], { Env: ['PATH=/bin'], Cmd: ['sh'], ...config }, undefined, architecture);
}
