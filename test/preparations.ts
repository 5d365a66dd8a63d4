/**
 * What test files need before they run, without a network or in the virtual machine: programs, found through the files that they import.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { prepareCadvisorClient } from './cadvisor-client/prepare.ts';
import { prepareCheckpointTool } from './checkpoint-tool/prepare.ts';
import { prepareTools } from './critest/prepare.ts';
import { prepareProbe } from './prison/prepare.ts';
import { prepareSignatureTool } from './signature-tool/prepare.ts';
import { prepareStreamingClient } from './streaming-client/prepare.ts';
import { staticProgram } from './support/static-program.ts';

const root = resolve(import.meta.dirname, '..');

/** Go programs, by the file that builds them. */
const preparations: Readonly<Record<string, () => unknown>> = {
  'test/cadvisor-client/prepare.ts': prepareCadvisorClient,
  'test/checkpoint-tool/prepare.ts': prepareCheckpointTool,
  'test/critest/prepare.ts': prepareTools,
  'test/signature-tool/prepare.ts': prepareSignatureTool,
  'test/streaming-client/prepare.ts': prepareStreamingClient,
};

/**
 * Builds what a test file needs, once. Without Go its programs are not built: the tests then skip what needs them, and say so.
 *
 * @param file relative to the top of the repository.
 */
export function prepareFor(file: string): void {
  const files = [...importedBelow('test', file)];
  if (files.includes('test/prison/prepare.ts')) prepareProbe();
  for (const path of files) for (const source of programsNamedIn(path)) staticProgram(source);
  const needed = files.flatMap((path) => preparations[path] ?? []);
  if (needed.length === 0 || spawnSync('go', ['version']).status !== 0) return;
  for (const prepare of needed) prepare();
}

/** C files beside a test file that names them: every machine that builds the monitor has the compiler. */
function programsNamedIn(path: string): string[] {
  const names = [...readFileSync(join(root, path), 'utf8').matchAll(/'([\w-]+\.c)'/g)].map(([, name = '']) => join(root, dirname(path), name));
  return path.startsWith('test/prison/') ? [] : names.filter((file) => existsSync(file));
}

/** The file and every file below the directory that it imports, directly or not. */
function importedBelow(directory: string, file: string, found = new Set<string>()): Set<string> {
  if (found.has(file) || !file.startsWith(`${directory}/`) || !file.endsWith('.ts') || !existsSync(join(root, file))) return found;
  found.add(file);
  const text = readFileSync(join(root, file), 'utf8');
  for (const [, statement, call = ''] of text.matchAll(/\bfrom '(\.[^']+)'|\bimport\('(\.[^']+)'\)/g))
    importedBelow(directory, join(dirname(file), statement ?? call), found);
  return found;
}
