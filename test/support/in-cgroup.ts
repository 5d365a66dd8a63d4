/**
 * Runs processes of a test in a cgroup. They enter it in the same way as a container's process.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CgroupFacts } from '../../src/sys/cgroup/cgroup-facts.ts';
import { type CgroupFds, openCgroup } from '../../src/sys/cgroup/cgroups.ts';

export type ExitResult = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

const waitMsMax = 20_000;

/** Starts a shell that enters the cgroup through the fds of openCgroup(), then runs the script. */
export function startInCgroup(facts: CgroupFacts, path: string, script: string, opened: CgroupFds = openCgroup(facts, path)): ChildProcess {
  const fds = opened.version === 1 ? opened.procsFds : [opened.directoryFd];
  const files = fds.map((_, index) => `/proc/self/fd/${3 + index}${opened.version === 2 ? '/cgroup.procs' : ''}`);
  const enter = `for file in ${files.join(' ')}; do echo 0 >$file || exit 99; done`;
  const child = spawn('/bin/sh', ['-c', `${enter}; ${script}`], {
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
    env: { PATH: process.env['PATH'] ?? '' },
  });
  for (const fd of fds) closeSync(fd);
  return child;
}

/** Like startInCgroup(), and waits until the script exits. */
export async function runInCgroup(facts: CgroupFacts, path: string, script: string): Promise<ExitResult> {
  const child = startInCgroup(facts, path, script);
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (data: Buffer) => (stdout += data.toString()));
  child.stderr?.on('data', (data: Buffer) => (stderr += data.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, stdout, stderr };
}

/** Starts an idle process. @returns its pid. */
export async function startSleeper(facts: CgroupFacts, path: string, opened: CgroupFds = openCgroup(facts, path)): Promise<number> {
  const child = startInCgroup(facts, path, 'exec sleep 1000', opened);
  await waitForSleep(child);
  return child.pid ?? 0;
}

/** Waits until the shell has executed sleep(1). It has then entered all hierarchies. */
export const waitForSleep = (child: ChildProcess): Promise<void> =>
  until('the shell has executed sleep', async () => readFileSync(`/proc/${child.pid}/comm`, 'utf8') === 'sleep\n');

/** Waits until the condition is true. @throws AssertionError after waitMsMax. */
export async function until(description: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + waitMsMax;
  while (!(await condition())) {
    assert(performance.now() < deadline, `timeout waiting until ${description}`);
    await sleep(10);
  }
}
