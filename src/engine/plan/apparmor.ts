/**
 * AppArmor profiles of containers: berth's own, and what a profile must be to be applied.
 *
 * Pure: src/sys/process/apparmor.ts loads and lists profiles.
 */
import { O } from './abi.ts';
import type { Op } from './plan.ts';

/** The profile of containers that ask for none, on a node with AppArmor. */
export const defaultProfileName = 'berth-default';

/**
 * The text of berth's own profile, for apparmor_parser(8): everything but what would reach the node through /proc, /sys and mounts.
 * Masked paths and capabilities stand in front of most of it; this is the second line.
 *
 * @param daemonProfile the confinement of the daemon itself, whose signals must arrive.
 */
export function defaultProfileText(daemonProfile: string): string {
  return `#include <tunables/global>

profile ${defaultProfileName} flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  signal (receive) peer=${daemonProfile},
  signal (send, receive) peer=${defaultProfileName},
  ptrace (trace, read, tracedby, readby) peer=${defaultProfileName},

  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}

/**
 * The next execve enters the profile: apparmor(7), change_onexec. Written while the process has the credentials it was opened with,
 * and the host's /proc is in cgroupView.
 */
export function planAppArmor(profile: string | undefined): Op[] {
  if (profile === undefined) return [];
  const what = `AppArmor profile ${profile}`;
  return [
    {
      call: 'openat',
      dir: 'cwd',
      path: '/proc/self/attr/apparmor/exec',
      flags: O.WRONLY | O.CLOEXEC,
      mode: 0,
      out: 'apparmor',
      note: `opening the attribute for ${what}`,
    },
    { call: 'write', fd: 'apparmor', bytes: Buffer.from(`exec ${profile}`), note: `choosing ${what}` },
    { call: 'close', fd: 'apparmor', note: 'closing the attribute' },
  ];
}
