/**
 * Compiles the probe.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { staticProgram } from '../support/static-program.ts';

/** Returns the path of the program. @throws Error if it is not compiled yet, and musl-gcc is not installed. */
export function prepareProbe(): string {
  const sources = readdirSync(import.meta.dirname).filter((name) => name.endsWith('.c') && name !== 'probe.c');
  return staticProgram(...['probe.c', ...sources.sort()].map((name) => join(import.meta.dirname, name)));
}
