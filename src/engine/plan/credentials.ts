/**
 * Plans the credentials of a process: limits, user, groups, capabilities, no_new_privs and seccomp, in the order that the kernel requires.
 *
 * Pure. Operations that need more privilege must come before these.
 */
import { PR, PR_CAP_AMBIENT, RLIMIT } from './abi.ts';
import { type CapabilitySets, capabilityNames } from './capabilities.ts';
import type { Op } from './plan.ts';

export type Credentials = {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly capabilities: CapabilitySets;
  readonly noNewPrivs: boolean;
  readonly seccomp: { readonly program: Buffer; readonly flags: number } | null;
  readonly rlimits: readonly Rlimit[];
};

export type Rlimit = { readonly name: keyof typeof RLIMIT; readonly soft: bigint; readonly hard: bigint };

/**
 * Returns the operations right before execve.
 *
 * Without no_new_privs, loading a filter needs CAP_SYS_ADMIN: it is loaded before the capabilities are dropped, and must allow the operations that
 * follow. With no_new_privs it is loaded last. Source: seccomp(2).
 */
export function planCredentials(credentials: Credentials): Op[] {
  const seccomp = planSeccomp(credentials.seccomp);
  return [
    ...planRlimits(credentials.rlimits),
    ...(credentials.noNewPrivs ? [noNewPrivs] : seccomp),
    ...planBounding(credentials),
    // Otherwise setresuid from uid 0 would clear the permitted set before capset: capabilities(7).
    { call: 'prctl', option: PR.SET_KEEPCAPS, a: 1, b: 0, c: 0, d: 0, note: 'keep capabilities across the change of user' },
    { call: 'setgroups', groups: credentials.groups, note: `set supplementary groups ${credentials.groups.join(',')}` },
    { call: 'setresgid', real: credentials.gid, effective: credentials.gid, saved: credentials.gid, note: `set group ${credentials.gid}` },
    { call: 'setresuid', real: credentials.uid, effective: credentials.uid, saved: credentials.uid, note: `set user ${credentials.uid}` },
    planCapset(credentials),
    ...planAmbient(credentials.capabilities.ambient),
    ...(credentials.noNewPrivs ? seccomp : []),
  ];
}

const noNewPrivs: Op = { call: 'prctl', option: PR.SET_NO_NEW_PRIVS, a: 1, b: 0, c: 0, d: 0, note: 'set no_new_privs' };

function planSeccomp(filter: Credentials['seccomp']): Op[] {
  return filter === null ? [] : [{ call: 'seccomp', flags: filter.flags, filter: filter.program, note: 'load the seccomp filter' }];
}

/** Returns the operations that set the limits. They must run outside a user namespace, where no hard limit can be raised: setrlimit(2). */
export function planRlimits(limits: readonly Rlimit[]): Op[] {
  return limits.map(planRlimit);
}

function planRlimit(limit: Rlimit): Op {
  const { soft, hard } = limit;
  return {
    call: 'prlimit64',
    resource: RLIMIT[limit.name],
    limit: { soft, hard },
    note: `set the ${limit.name.toLowerCase()} limit to ${soft}:${hard}`,
  };
}

function planBounding({ capabilities }: Credentials): Op[] {
  const ops: Op[] = [];
  capabilityNames.forEach((name, number) => {
    if ((capabilities.bounding >> BigInt(number)) & 1n) return;
    // An older kernel does not know the newest capabilities and cannot grant them.
    ops.push({ call: 'prctl', option: PR.CAPBSET_DROP, a: number, b: 0, c: 0, d: 0, tolerate: ['EINVAL'], note: `drop capability ${name}` });
  });
  return ops;
}

function planCapset({ capabilities: { effective, permitted, inheritable } }: Credentials): Op {
  return { call: 'capset', capabilities: { effective, permitted, inheritable }, note: 'set capabilities' };
}

function planAmbient(ambient: bigint): Op[] {
  const ops: Op[] = [];
  for (let capability = 0; ambient >> BigInt(capability) !== 0n; capability++) {
    if (((ambient >> BigInt(capability)) & 1n) === 0n) continue;
    ops.push({
      call: 'prctl',
      option: PR.CAP_AMBIENT,
      a: PR_CAP_AMBIENT.RAISE,
      b: capability,
      c: 0,
      d: 0,
      note: `raise ambient capability ${capability}`,
    });
  }
  return ops;
}
