/**
 * Compiles the C programs that tests run in containers, once: a machine without musl-gcc, such as the virtual machine of the tests, uses what is in build/.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

const buildDir = resolve(import.meta.dirname, '../../build/test-programs');

/**
 * Returns the path of a static program, which it compiles unless the same sources are compiled already. They may include headers of their directory.
 *
 * @param sources C files of one directory, the one with main() first. @throws Error if musl-gcc is not installed.
 */
export function staticProgram(...sources: readonly string[]): string {
  const [first = ''] = sources;
  const headers = readdirSync(dirname(first)).filter((name) => name.endsWith('.h'));
  const hash = createHash('sha256');
  for (const file of [...sources, ...headers.sort().map((name) => join(dirname(first), name))]) hash.update(readFileSync(file));
  const program = join(buildDir, `${basename(first, '.c')}-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(buildDir, { recursive: true });
  const unfinished = `${program}.${process.pid}.unfinished`;
  execFileSync('musl-gcc', ['-static', '-O1', '-o', unfinished, ...sources]);
  renameSync(unfinished, program);
  return program;
}
