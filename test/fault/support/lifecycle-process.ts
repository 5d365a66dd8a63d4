/**
 * Starts lifecycle-child.ts and collects its output.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { join } from 'node:path';

export type LifecycleProcess = {
  /** Sends the arguments to the child and waits until it exits. @returns its output. */
  readonly run: (...args: readonly (string | number)[]) => Promise<string>;
  readonly kill: () => void;
};

/** Starts a child that waits for its arguments. @param compileCache a directory with which later children load faster. */
export function spawnLifecycleProcess(compileCache: string): LifecycleProcess {
  const [killPoints, program] = ['kill-points.ts', 'lifecycle-child.ts'].map((name) => join(import.meta.dirname, name)) as [string, string];
  const env = { ...process.env, NODE_COMPILE_CACHE: compileCache, NODE_TEST_CONTEXT: '' };
  const child = spawn(process.execPath, ['--import', killPoints, program], { env });
  return { run: (...args) => run(child, args.join(' ')), kill: () => child.kill() };
}

function run(child: ChildProcessWithoutNullStreams, line: string): Promise<string> {
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  child.stdin.write(`${line}\n`);
  return new Promise((settle) => child.once('close', () => settle(output)));
}
