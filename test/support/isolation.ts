/**
 * Runs a test program in mount, network and pid namespaces of its own, so that it can neither disturb the machine nor leave anything on it.
 *
 * Cgroups have no such border here: whoever makes some removes them (cgroups.ts).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';

const marker = 'BERTH_TEST_ISOLATED';

/** Directories that are empty inside. */
const hidden = ['/run', '/var/lib/cni'];

/**
 * Starts this very program again inside new namespaces and ends with its exit code; returns only inside them, where loopback is up, and
 * /run and /var/lib/cni are empty. Needs root. On a machine made for one test, BERTH_TEST_ISOLATED=machine leaves all as it is: systemd knows
 * processes by their pids outside.
 */
export function enterIsolation(): void {
  if (process.env[marker] === undefined) process.exit(runAgain());
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  if (process.env[marker] === 'machine') return;
  for (const directory of hidden) execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', directory]);
}

function runAgain(): number {
  const absent = hidden.filter((directory) => !existsSync(directory));
  for (const directory of absent) mkdirSync(directory, { recursive: true });
  // A shell as the first process reaps what is orphaned; Node would not.
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  const program = ['sh', '-c', '"$@"; exit $?', 'sh', process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const result = spawnSync('unshare', [...unshare, ...program], { stdio: 'inherit', env: { ...process.env, [marker]: '1' } });
  for (const directory of absent) rmdirSync(directory);
  if (result.error) throw result.error;
  return result.status ?? 1;
}
