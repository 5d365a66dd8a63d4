/**
 * Each limit of a container by its effect, on a machine that is the test's own: with swap and huge pages, which the tests' table looks for.
 * Runs with and without systemd as process 1, and reloads that. Nothing to do outside of such a machine.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';

const isHere = existsSync('/run/vm');

if (isHere) {
  writeFileSync('/proc/sys/vm/nr_hugepages', '4');
  execFileSync('sh', ['-c', 'modprobe loop; [ -e /swap ] || { fallocate -l 256M /swap && chmod 600 /swap && mkswap -q /swap; }; swapon /swap']);
}
// Only now: the table looks at the machine.
const { limitTests } = await import('../support/limits.ts');
if (isHere) limitTests({ reloads: existsSync('/run/systemd/system') });
