/**
 * A daemon that is killed: reads a line `DIRECTORY CGROUP-PARENT KIND KILL-AT [LAST-STEP]`, then runs the steps of a pod's lifecycle until the kill point.
 *
 * Prints `step NAME` before each step, `at POINT` for the point at which it is killed, and `done COUNT` if all steps ran. Kills itself after LAST-STEP.
 */
import { arm, disarm } from './kill-points.ts';
import { type Kind, openNode, steps } from './pod-lifecycle.ts';

/** Writes to a pipe are synchronous, pipe(7) and Node's notes on process.stdout: the output is not lost when the process is killed. */
const say = (text: string) => process.stdout.write(`${text}\n`);

const line = await new Promise<string>((resolve) => process.stdin.once('data', (bytes) => resolve(String(bytes).trim())));
const [directory = '', cgroupParent = '', kind = '', killAt = '0', last] = line.split(' ');
const node = await openNode(directory, cgroupParent);
arm(Number(killAt), (point) => say(`at ${point}`));
for (const step of steps) {
  say(`step ${step.name}`);
  await step.run(node, kind as Kind);
  if (step.name === last) process.kill(process.pid, 'SIGKILL');
}
say(`done ${disarm()}`);
process.exit(0);
