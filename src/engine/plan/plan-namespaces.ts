/**
 * Plans the processes that make the namespaces of a pod with a user namespace: first that one, then the others, which belong to it.
 *
 * Pure. Each process stays until the daemon has pinned what it made, and is killed then; its cgroup tells a later daemon of it.
 */
import { AF, CLONE, CLOSE_RANGE, IOCTL, O, SOCK } from './abi.ts';
import { joinUser } from './join-user.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type CgroupEntry, planCgroupEntry } from './plan-container.ts';

/** Its ids are the daemon's to write, while the process waits: only the parent namespace's root may map others than its own. */
export function planUserNamespace(fds: readonly Reg[], cgroup: CgroupEntry): Plan {
  return planHolder(fds, cgroup, CLONE.NEWUSER, []);
}

export type PodNamespacesPlan = {
  readonly fds: readonly Reg[];
  readonly cgroup: CgroupEntry;
  /** The user namespace that the others are to belong to. */
  readonly user: Reg;
  readonly kinds: readonly ('net' | 'ipc' | 'uts')[];
  /** Set where there is a uts namespace. */
  readonly hostname: string;
  /** By dotted or slashed name. */
  readonly sysctls: Readonly<Record<string, string>>;
};

const flagOf = { net: CLONE.NEWNET, ipc: CLONE.NEWIPC, uts: CLONE.NEWUTS } as const;

export function planPodNamespaces(pod: PodNamespacesPlan): Plan {
  const namespaces = pod.kinds.reduce((all, kind) => all | flagOf[kind], 0);
  return planHolder(pod.fds, pod.cgroup, 0, [
    ...joinUser(pod.user),
    { call: 'unshare', namespaces, note: `making namespaces ${pod.kinds.join(', ')}` },
    ...(pod.kinds.includes('uts')
      ? [{ call: 'sethostname', name: Buffer.from(pod.hostname), note: `setting the hostname ${pod.hostname}` } as const]
      : []),
    ...(pod.kinds.includes('net') ? raiseLoopback() : []),
    ...Object.entries(pod.sysctls).flatMap(([name, value], i) => writeSysctl(name, value, `sysctl${i}`)),
  ]);
}

function planHolder(fds: readonly Reg[], cgroup: CgroupEntry, namespaces: number, ops: readonly Op[]): Plan {
  return {
    fds,
    parent: [],
    clone: { namespaces, ...(cgroup.version === 2 ? { cgroup: cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(cgroup),
      { call: 'setsid', note: 'starting a session' },
      ...ops,
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'marking all files to be closed' },
      { call: 'reap', note: 'waiting to be pinned' },
    ],
    process: { argv: ['berth-pod'], env: [] },
    supervise: { mode: 'none' },
  };
}

const IFF_UP = 1;

function raiseLoopback(): Op[] {
  // struct ifreq: 16 bytes of name, then the flags.
  const request = Buffer.alloc(40);
  request.write('lo', 0, 'latin1');
  request.writeInt16LE(IFF_UP, 16);
  return [
    { call: 'socket', family: AF.INET, type: SOCK.DGRAM | SOCK.CLOEXEC, protocol: 0, out: 'lo', note: 'opening a socket for the loopback interface' },
    { call: 'ioctl_struct', fd: 'lo', request: IOCTL.SIOCSIFFLAGS, struct: request, note: 'bringing the loopback interface up' },
    { call: 'close', fd: 'lo', note: 'closing the socket of the loopback interface' },
  ];
}

/** The host's /proc/sys shows the namespaces of who looks. Both forms of names are in use: sysctl(8). */
function writeSysctl(name: string, value: string, reg: Reg): Op[] {
  const path = `/proc/sys/${name.includes('/') ? name : name.replaceAll('.', '/')}`;
  const note = `setting sysctl ${name} to ${value}`;
  return [
    { call: 'openat', dir: 'cwd', path, flags: O.WRONLY | O.CLOEXEC, mode: 0, out: reg, note },
    { call: 'write', fd: reg, bytes: Buffer.from(value), note },
    { call: 'close', fd: reg, note },
  ];
}
