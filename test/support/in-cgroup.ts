/**
 * Processes of a test inside a cgroup, entered as a container's process enters it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CgroupFacts } from '../../src/sys/cgroup/cgroup-facts.ts';
import { type CgroupFds, openCgroup } from '../../src/sys/cgroup/cgroups.ts';

export type Ended = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

const waitMsMax = 20_000;

/** Starts a shell that enters the cgroup through the fds of openCgroup() before it runs the script. */
export function startIn(facts: CgroupFacts, path: string, script: string, opened: CgroupFds = openCgroup(facts, path)): ChildProcess {
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

/** startIn() until the end. */
export async function runIn(facts: CgroupFacts, path: string, script: string): Promise<Ended> {
  const child = startIn(facts, path, script);
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (data: Buffer) => (stdout += data.toString()));
  child.stderr?.on('data', (data: Buffer) => (stderr += data.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, stdout, stderr };
}

/** A process that does nothing. @returns its pid. */
export async function startSleeper(facts: CgroupFacts, path: string, opened: CgroupFds = openCgroup(facts, path)): Promise<number> {
  const child = startIn(facts, path, 'exec sleep 1000', opened);
  await untilItSleeps(child);
  return child.pid ?? 0;
}

/** The shell has entered the last hierarchy once it has become sleep(1). */
export const untilItSleeps = (child: ChildProcess): Promise<void> =>
  until('it sleeps', async () => readFileSync(`/proc/${child.pid}/comm`, 'utf8') === 'sleep\n');

export async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + waitMsMax;
  while (!(await holds())) {
    assert(performance.now() < deadline, `waiting until ${what}`);
    await sleep(10);
  }
}
