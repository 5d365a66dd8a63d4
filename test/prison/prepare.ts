/**
 * Compiles the probe. A machine without musl-gcc, such as the virtual machine of the tests, uses the program that is already in build/.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const buildDir = resolve(import.meta.dirname, '../../build');

/** Compiles the probe unless it is already compiled. @returns the path of the program. @throws Error if musl-gcc is not installed. */
export function prepareProbe(): string {
  const sources = readdirSync(import.meta.dirname).filter((name) => /\.[ch]$/.test(name));
  const hash = createHash('sha256');
  for (const name of sources.sort()) hash.update(readFileSync(join(import.meta.dirname, name)));
  const program = join(buildDir, `prison-probe-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(buildDir, { recursive: true });
  const unfinished = `${program}.${process.pid}.unfinished`;
  const files = sources.filter((name) => name.endsWith('.c')).map((name) => join(import.meta.dirname, name));
  execFileSync('musl-gcc', ['-static', '-O1', '-o', unfinished, ...files]);
  renameSync(unfinished, program);
  return program;
}
