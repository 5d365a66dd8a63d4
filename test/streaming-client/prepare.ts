/**
 * Builds the Go client of the streaming server, once for each state of its source. Needs the modules in Go's cache, or the network.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const buildDir = resolve(import.meta.dirname, '../../build');

/** @returns the program. @throws when Go is not there, or its modules cannot be had. */
export function prepareStreamingClient(): string {
  const hash = createHash('sha256');
  for (const name of ['go.mod', 'go.sum', 'main.go']) hash.update(readFileSync(join(import.meta.dirname, name)));
  const program = join(buildDir, `streaming-client-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(program)) return program;
  mkdirSync(buildDir, { recursive: true });
  const unfinished = `${program}.${process.pid}.unfinished`;
  execFileSync('go', ['build', '-o', unfinished, '.'], { cwd: import.meta.dirname, stdio: 'pipe', env: { ...process.env, CGO_ENABLED: '0' } });
  renameSync(unfinished, program);
  return program;
}
