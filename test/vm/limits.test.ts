/**
 * Each limit of a container by its effect, on a machine that is the test's own: with swap and huge pages, which the tests' table looks for.
 * With each driver that the machine can have; where systemd is process 1 it is reloaded. Nothing to do outside of such a machine.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';

const isHere = existsSync('/run/vm');

if (isHere) {
  writeFileSync('/proc/sys/vm/nr_hugepages', '4');
  execFileSync('sh', [
    '-c',
    '[ -e /swap ] || { fallocate -l 256M /swap && chmod 600 /swap && mkswap -q /swap; }; grep -q ^/swap /proc/swaps || swapon /swap',
  ]);
}
// Only now: the table looks at the machine.
const { limitTests } = await import('../support/limits.ts');
const reloads = existsSync('/run/systemd/system');
if (isHere) limitTests({ wanted: 'cgroupfs', reloads });
if (isHere && reloads && existsSync('/sys/fs/cgroup/cgroup.controllers')) limitTests({ wanted: 'systemd', reloads });
