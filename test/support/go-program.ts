/**
 * Builds the tests' own Go programs, once for each state of their source.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const buildDir = resolve(import.meta.dirname, '../../build');

/**
 * @param directory holds go.mod, go.sum and main.go, or instead of that names what is built as a tool of the module.
 * @param tags of the build.
 * @returns the program. @throws when Go is not there, or its modules are neither in Go's cache nor to be had from the network.
 */
export function buildGoProgram(name: string, directory: string, tags: readonly string[] = [], what = '.'): string {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'go.sum', 'main.go'].filter((each) => existsSync(join(directory, each))))
    hash.update(readFileSync(join(directory, file)));
  const program = join(buildDir, `${name}-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(buildDir, { recursive: true });
  const unfinished = `${program}.${process.pid}.unfinished`;
  execFileSync('go', ['build', '-tags', tags.join(','), '-o', unfinished, what], {
    cwd: directory,
    stdio: 'pipe',
    env: { ...process.env, CGO_ENABLED: '0' },
  });
  renameSync(unfinished, program);
  return program;
}
