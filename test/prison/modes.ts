/**
 * The requests of the prison: how each container is asked for, as a kubelet asks. Pure.
 */
import type { Message } from '../../scripts/cri-client.ts';

/** One way to ask for a container. Every container is asked for in a pod of its own, beside an idle container, its neighbour. */
export type Mode = {
  readonly name: string;
  /** Of the security context of pod and container. */
  readonly namespaces?: Message;
  /** The rest of the container's security context; undefined: it has none at all. @param paths of files on the host. */
  readonly security?: (paths: { readonly profile: string }) => Message;
  readonly isPrivileged?: boolean;
  /** The pid namespace is the neighbour's. */
  readonly isTargeting?: boolean;
  readonly hasTerminal?: boolean;
};

/** Those of the kubelet for procMount: Default. */
const masked_paths = [
  ...['/proc/asound', '/proc/acpi', '/proc/interrupts', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list', '/proc/timer_stats'],
  ...['/proc/sched_debug', '/proc/scsi', '/sys/firmware', '/sys/devices/virtual/powercap'],
];
const readonly_paths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

const runtimeDefault = { seccomp: { profile_type: 'RuntimeDefault' }, masked_paths, readonly_paths };
const ordinary = () => runtimeDefault;

const idMap = [{ host_id: 1_000_000, container_id: 0, length: 65536 }];
const userns_options = { mode: 'POD', uids: idMap, gids: idMap };

/** Resources of every container, as the kubelet sends them for pods of the QoS class BestEffort. */
export const resources = { cpu_period: '100000', cpu_shares: '2', oom_score_adj: '1000' };

/** A localhost profile that fails two calls with different errors and allows all others. */
export const localhostProfile = {
  defaultAction: 'SCMP_ACT_ALLOW',
  architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  syscalls: [
    { names: ['mount', 'unshare', 'bpf', 'io_uring_setup', 'keyctl'], action: 'SCMP_ACT_ERRNO' },
    { names: ['ptrace', 'setns'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
    { names: ['socket'], action: 'SCMP_ACT_ERRNO', args: [{ index: 0, value: 38, op: 'SCMP_CMP_EQ' }] },
  ],
};

export const modes: readonly Mode[] = [
  { name: 'no-security-context' },
  { name: 'unconfined', security: () => ({ seccomp: { profile_type: 'Unconfined' }, masked_paths, readonly_paths }) },
  { name: 'runtime-default', security: ordinary },
  { name: 'terminal', security: ordinary, hasTerminal: true },
  { name: 'localhost', security: ({ profile }) => ({ ...runtimeDefault, seccomp: { profile_type: 'Localhost', localhost_ref: profile } }) },
  { name: 'drop-all', security: () => ({ ...runtimeDefault, capabilities: { drop_capabilities: ['ALL'] } }) },
  { name: 'no-new-privs', security: () => ({ ...runtimeDefault, no_new_privs: true }) },
  { name: 'user-1000', security: () => ({ ...runtimeDefault, run_as_user: { value: '1000' }, run_as_group: { value: '1000' } }) },
  { name: 'readonly-root', security: () => ({ ...runtimeDefault, readonly_rootfs: true }) },
  { name: 'sys-admin', security: () => ({ ...runtimeDefault, capabilities: { add_capabilities: ['SYS_ADMIN', 'NET_ADMIN', 'SYS_PTRACE'] } }) },
  { name: 'user-namespace', security: ordinary, namespaces: { userns_options } },
  { name: 'user-namespace-unconfined', security: () => ({ masked_paths, readonly_paths }), namespaces: { userns_options } },
  {
    name: 'user-namespace-admin',
    security: () => ({ ...runtimeDefault, capabilities: { add_capabilities: ['ALL'] } }),
    namespaces: { userns_options },
  },
  { name: 'host-network', security: ordinary, namespaces: { network: 'NODE' } },
  { name: 'host-pid', security: ordinary, namespaces: { pid: 'NODE' } },
  { name: 'host-ipc', security: ordinary, namespaces: { ipc: 'NODE' } },
  { name: 'shared-pid', security: ordinary, namespaces: { pid: 'POD' } },
  { name: 'target-pid', security: ordinary, isTargeting: true },
  { name: 'privileged', security: () => ({ privileged: true }), isPrivileged: true },
];

/** How a process comes into the container. Hooks are those of CDI devices, which only these modes ask for. */
export const processKinds = ['first', 'exec', 'terminal', 'hook-runtime', 'hook-container'] as const;
export type ProcessKind = (typeof processKinds)[number];
export const modesWithHooks: readonly string[] = ['runtime-default', 'user-namespace', 'privileged'];
