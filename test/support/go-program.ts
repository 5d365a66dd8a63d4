/**
 * Builds the Go programs of the tests. A program is rebuilt when its source changes.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const buildDir = resolve(import.meta.dirname, '../../build');

/**
 * Builds a Go program unless it is already built.
 *
 * @param directory contains go.mod, go.sum and, unless `goPackage` is given, main.go.
 * @param tags build tags.
 * @param goPackage the package to build: the directory, or a package of a module that go.mod requires.
 * @returns the path of the program. @throws Error if Go is not installed, or modules are neither cached nor available from the network.
 */
export function buildGoProgram(name: string, directory: string, tags: readonly string[] = [], goPackage = '.'): string {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'go.sum', 'main.go'].filter((each) => existsSync(join(directory, each))))
    hash.update(readFileSync(join(directory, file)));
  const program = join(buildDir, `${name}-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(buildDir, { recursive: true });
  const unfinished = `${program}.${process.pid}.unfinished`;
  execFileSync('go', ['build', '-tags', tags.join(','), '-o', unfinished, goPackage], {
    cwd: directory,
    stdio: 'pipe',
    env: { ...process.env, CGO_ENABLED: '0' },
  });
  renameSync(unfinished, program);
  return program;
}
