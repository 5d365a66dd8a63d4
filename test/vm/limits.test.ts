/**
 * Tests that the kernel enforces each container limit, in the virtual machine: with swap, huge pages and each available cgroup driver.
 * If systemd is pid 1, also tests that the limits survive its reloads. Does nothing outside the virtual machine.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';

const isInVm = existsSync('/run/vm');

if (isInVm) {
  writeFileSync('/proc/sys/vm/nr_hugepages', '4');
  execFileSync('sh', [
    '-c',
    '[ -e /swap ] || { fallocate -l 256M /swap && chmod 600 /swap && mkswap -q /swap; }; grep -q ^/swap /proc/swaps || swapon /swap',
  ]);
}
// Imported after the setup: the module checks for swap and huge pages when it is loaded.
const { limitTests } = await import('../support/limits.ts');
const hasSystemd = existsSync('/run/systemd/system');
if (isInVm) limitTests({ driverName: 'cgroupfs', canReloadSystemd: hasSystemd });
if (isInVm && hasSystemd && existsSync('/sys/fs/cgroup/cgroup.controllers')) limitTests({ driverName: 'systemd', canReloadSystemd: true });
