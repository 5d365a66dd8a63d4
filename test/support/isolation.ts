/**
 * Runs a test program in separate mount, network and pid namespaces, so that it cannot affect the machine or leave anything behind.
 *
 * Cgroups are not isolated: a test that creates cgroups must remove them (cgroups.ts).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync } from 'node:fs';

const marker = 'BERTH_TEST_ISOLATED';

/** Directories that are hidden by an empty tmpfs. */
const hiddenDirs = ['/run', '/var/lib/cni'];

/**
 * Re-executes this program in new namespaces and exits with its exit code. Returns only inside the namespaces, where loopback is up, and /run and
 * /var/lib/cni are empty. Needs root. BERTH_TEST_ISOLATED=machine, for a virtual machine that runs only the test, disables the isolation: systemd
 * needs the processes' pids of the initial pid namespace.
 */
export function enterIsolation(): void {
  if (process.env[marker] === undefined) process.exit(reexecute());
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  if (process.env[marker] === 'machine') return;
  for (const directory of hiddenDirs) execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', directory]);
}

function reexecute(): number {
  const missing = hiddenDirs.filter((directory) => !existsSync(directory));
  for (const directory of missing) mkdirSync(directory, { recursive: true });
  // A shell is pid 1 because it reaps orphans; Node does not.
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  const program = ['sh', '-c', '"$@"; exit $?', 'sh', process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const result = spawnSync('unshare', [...unshare, ...program], { stdio: 'inherit', env: { ...process.env, [marker]: '1' } });
  for (const directory of missing) rmdirSync(directory);
  if (result.error) throw result.error;
  return result.status ?? 1;
}
