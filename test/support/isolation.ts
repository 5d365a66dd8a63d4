/**
 * Runs a test program in mount, network and pid namespaces of its own, so that it can neither disturb the machine nor leave anything on it.
 *
 * Cgroups have no such border here: whoever makes some removes them (cgroups.ts).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';

const marker = 'BERTH_TEST_ISOLATED';

/**
 * Starts this very program again inside new namespaces and ends with its exit code; returns only inside them, where loopback is up, and
 * /run and /var/lib/cni are empty. Needs root.
 */
export function enterIsolation(): void {
  if (process.env[marker] === undefined) {
    // A shell as the first process reaps what is orphaned; Node would not.
    const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
    const program = ['sh', '-c', '"$@"; exit $?', 'sh', process.execPath, ...process.execArgv, ...process.argv.slice(1)];
    const result = spawnSync('unshare', [...unshare, ...program], { stdio: 'inherit', env: { ...process.env, [marker]: '1' } });
    if (result.error) throw result.error;
    process.exit(result.status ?? 1);
  }
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  hide('/run');
  hide('/var/lib/cni');
}

/** Lays an empty tmpfs over a directory. */
function hide(directory: string): void {
  if (!existsSync(directory)) mkdirSync(directory, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', directory]);
}
