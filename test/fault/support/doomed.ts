/**
 * A daemon that dies: waits for a line `DIRECTORY CGROUP-PARENT KIND KILL-AT [LAST-STEP]`, then takes the steps of a pod's life, until the point comes.
 *
 * Prints `step NAME` as it goes, `at POINT` for the point that ends it, and `done COUNT` when none did. After the last step it ends by SIGKILL too.
 */
import { arm, disarm } from './kill-points.ts';
import { type Kind, openNode, steps } from './life.ts';

/** A pipe is written at once, pipe(7) and Node's notes on process.stdout: what was said is there after the end. */
const say = (text: string) => process.stdout.write(`${text}\n`);

const line = await new Promise<string>((resolve) => process.stdin.once('data', (bytes) => resolve(String(bytes).trim())));
const [directory = '', cgroupParent = '', kind = '', killAt = '0', last] = line.split(' ');
const node = await openNode(directory, cgroupParent);
arm(Number(killAt), (point) => say(`at ${point}`));
for (const step of steps) {
  say(`step ${step.name}`);
  await step.take(node, kind as Kind);
  if (step.name === last) process.kill(process.pid, 'SIGKILL');
}
say(`done ${disarm()}`);
process.exit(0);
