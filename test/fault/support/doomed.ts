/**
 * A daemon that dies: waits for a line `DIRECTORY CGROUP-PARENT NAME PID-MODE KILL-AT`, then takes all steps of a pod's life, until the point comes.
 *
 * Prints `step NAME` as it goes, `at POINT` for the point that ends it, and `done COUNT` when none did.
 */
import { arm, disarm } from './kill-points.ts';
import { type Life, openNode, steps } from './life.ts';

/** A pipe is written at once, pipe(7) and Node's notes on process.stdout: what was said is there after the end. */
const say = (text: string) => process.stdout.write(`${text}\n`);

const line = await new Promise<string>((resolve) => process.stdin.once('data', (bytes) => resolve(String(bytes).trim())));
const [directory = '', cgroupParent = '', name = '', pid = 'pod', killAt = '0'] = line.split(' ');
const node = await openNode(directory, cgroupParent);
const life: Life = { name, pid: pid === 'pod' ? 'pod' : 'container' };
arm(Number(killAt), (point) => say(`at ${point}`));
for (const step of steps) {
  say(`step ${step.name}`);
  await step.take(node, life);
}
say(`done ${disarm()}`);
process.exit(0);
