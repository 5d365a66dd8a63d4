/**
 * AppArmor profiles of containers: the text of berth's default profile, and the operations that apply a profile.
 *
 * Pure: src/sys/process/apparmor.ts loads and lists profiles.
 */
import { FS_MAGIC, O } from './abi.ts';
import type { Op } from './plan.ts';

/** The profile of containers that request none, on a node with AppArmor. */
export const defaultProfileName = 'berth-default';

/**
 * Returns the text of berth's default profile, for apparmor_parser(8). It allows everything except access to the node through /proc, /sys and mounts.
 * Masked paths and capabilities already prevent most of that; the profile is a second line of defense. It is the only one against sockets of AF_ALG
 * and AF_VSOCK through socketcall(2), whose arguments a seccomp filter cannot see. Docker denies AF_ALG in the same way since 29.4.3.
 *
 * @param daemonProfile the confinement of the daemon, whose signals the container must receive.
 */
export function defaultProfileText(daemonProfile: string): string {
  return `#include <tunables/global>

profile ${defaultProfileName} flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  deny network alg,
  deny network vsock,
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
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}

/**
 * Returns the operations that make the next execve enter the profile: apparmor(7), change_onexec. They run while the host's /proc is visible, and
 * before the credentials change: the attribute must be written with the credentials it was opened with.
 */
export function planAppArmor(profile: string | undefined): Op[] {
  if (profile === undefined) return [];
  return [
    {
      call: 'openat',
      dir: 'cwd',
      path: '/proc/self/attr/apparmor/exec',
      flags: O.WRONLY | O.CLOEXEC,
      mode: 0,
      out: 'apparmor',
      note: `open the attribute for AppArmor profile ${profile}`,
    },
    { call: 'expect_fs', fd: 'apparmor', magic: FS_MAGIC.PROC, note: 'check that the attribute for AppArmor is in a proc file system' },
    { call: 'write', fd: 'apparmor', bytes: Buffer.from(`exec ${profile}`), note: `set AppArmor profile ${profile}` },
    { call: 'close', fd: 'apparmor', note: 'close the attribute for the AppArmor profile' },
  ];
}
