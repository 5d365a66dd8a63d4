/**
 * Plans the processes that create the namespaces of a pod with a user namespace: first the user namespace, then the others, which it owns.
 *
 * Pure. Each process lives until the daemon has pinned its namespaces, and is then killed. A later daemon finds leftovers by their cgroup.
 */
import type { Sysctl } from '../../sys/process/sysctls.ts';
import { AF, CLONE, CLOSE_RANGE, FS_MAGIC, IOCTL, O, RESOLVE, SOCK } from './abi.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type CgroupEntry, joinUser, planCgroupEntry } from './process-setup.ts';

/** Returns the plan that creates a user namespace. The daemon writes its id maps: only root of the parent namespace may map other ids than its own. */
export function planUserNamespace(fds: readonly Reg[], cgroup: CgroupEntry): Plan {
  return planHolder(fds, cgroup, CLONE.NEWUSER, []);
}

export type PodNamespacesPlan = {
  readonly fds: readonly Reg[];
  readonly cgroup: CgroupEntry;
  /** The user namespace that will own the others. */
  readonly user: Reg;
  readonly kinds: readonly ('net' | 'ipc' | 'uts')[];
  /** Set if there is a uts namespace. */
  readonly hostname: string;
  readonly sysctls: readonly Sysctl[];
};

const flagOf = { net: CLONE.NEWNET, ipc: CLONE.NEWIPC, uts: CLONE.NEWUTS } as const;

/** Returns the plan that creates the other namespaces. */
export function planPodNamespaces(pod: PodNamespacesPlan): Plan {
  const namespaces = pod.kinds.reduce((all, kind) => all | flagOf[kind], 0);
  return planHolder(pod.fds, pod.cgroup, 0, [
    ...joinUser(pod.user),
    { call: 'unshare', namespaces, note: `create namespaces ${pod.kinds.join(', ')}` },
    ...(pod.kinds.includes('uts')
      ? [{ call: 'sethostname', name: Buffer.from(pod.hostname), note: `set the hostname ${pod.hostname}` } as const]
      : []),
    ...(pod.kinds.includes('net') ? raiseLoopback() : []),
    ...pod.sysctls.flatMap((sysctl, i) => writeSysctl(sysctl, `sysctl${i}`)),
  ]);
}

function planHolder(fds: readonly Reg[], cgroup: CgroupEntry, namespaces: number, ops: readonly Op[]): Plan {
  return {
    fds,
    parent: [],
    clone: { namespaces, ...(cgroup.version === 2 ? { cgroup: cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(cgroup),
      { call: 'setsid', note: 'start a session' },
      ...ops,
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all fds' },
      { call: 'reap', note: 'wait to be pinned' },
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
    { call: 'socket', family: AF.INET, type: SOCK.DGRAM | SOCK.CLOEXEC, protocol: 0, out: 'lo', note: 'open a socket for the loopback interface' },
    { call: 'ioctl_struct', fd: 'lo', request: IOCTL.SIOCSIFFLAGS, struct: request, note: 'bring the loopback interface up' },
    { call: 'close', fd: 'lo', note: 'close the socket for the loopback interface' },
  ];
}

/** Writes to the host's /proc/sys, which shows the namespaces of the calling process. */
function writeSysctl({ name, path, value }: Sysctl, reg: Reg): Op[] {
  const note = `set sysctl ${name} to ${value}`;
  // Its file belongs to the host's root, also in the pod's own namespace (kernel/utsname_sysctl.c); the system call checks capabilities in the pod's.
  if (path === 'kernel/domainname') return [{ call: 'setdomainname', name: Buffer.from(value), note }];
  const how = { flags: O.WRONLY | O.CLOEXEC, resolve: RESOLVE.NO_SYMLINKS };
  return [
    { call: 'openat2', dir: 'cwd', path: `/proc/sys/${path}`, how, out: reg, note },
    { call: 'expect_fs', fd: reg, magic: FS_MAGIC.PROC, note: `${note}: check that it is in a proc file system` },
    { call: 'write', fd: reg, bytes: Buffer.from(value), note },
    { call: 'close', fd: reg, note },
  ];
}
