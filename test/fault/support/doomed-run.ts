/**
 * Starts doomed.ts, and gives back what it said before its end.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { join } from 'node:path';

export type Doomed = {
  /** @param words of its one line of input. */
  readonly run: (...words: readonly (string | number)[]) => Promise<string>;
  readonly kill: () => void;
};

/** @param compileCache a directory that makes the next one load faster. */
export function prepareDoomed(compileCache: string): Doomed {
  const [killPoints, doomed] = ['kill-points.ts', 'doomed.ts'].map((name) => join(import.meta.dirname, name)) as [string, string];
  const env = { ...process.env, NODE_COMPILE_CACHE: compileCache, NODE_TEST_CONTEXT: '' };
  const child = spawn(process.execPath, ['--import', killPoints, doomed], { env });
  return { run: (...words) => run(child, words.join(' ')), kill: () => child.kill() };
}

function run(child: ChildProcessWithoutNullStreams, line: string): Promise<string> {
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  }
  child.stdin.write(`${line}\n`);
  return new Promise((settle) => child.once('close', () => settle(said)));
}
