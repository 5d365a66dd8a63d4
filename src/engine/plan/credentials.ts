/**
 * Plans who a process is when it starts: limits, user, groups, capabilities, no_new_privs and seccomp, in the order the kernel wants.
 *
 * Pure. Everything that needs privilege has been done before these operations run.
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
 * The operations right before execve.
 *
 * A filter without no_new_privs needs CAP_SYS_ADMIN, so it is loaded while there still is one, and must allow what follows;
 * with no_new_privs it comes last and need not. Source: seccomp(2).
 */
export function planCredentials(credentials: Credentials): Op[] {
  const seccomp = planSeccomp(credentials.seccomp);
  return [
    ...planRlimits(credentials.rlimits),
    ...(credentials.noNewPrivs ? [noNewPrivs] : seccomp),
    ...planBounding(credentials),
    // Without it, leaving uid 0 would empty the permitted set before capset could choose from it: capabilities(7).
    { call: 'prctl', option: PR.SET_KEEPCAPS, a: 1, b: 0, c: 0, d: 0, note: 'keeping capabilities over the change of user' },
    { call: 'setgroups', groups: credentials.groups, note: `setting supplementary groups ${credentials.groups.join(',')}` },
    { call: 'setresgid', real: credentials.gid, effective: credentials.gid, saved: credentials.gid, note: `becoming group ${credentials.gid}` },
    { call: 'setresuid', real: credentials.uid, effective: credentials.uid, saved: credentials.uid, note: `becoming user ${credentials.uid}` },
    planCapset(credentials),
    ...planAmbient(credentials.capabilities.ambient),
    ...(credentials.noNewPrivs ? seccomp : []),
  ];
}

const noNewPrivs: Op = { call: 'prctl', option: PR.SET_NO_NEW_PRIVS, a: 1, b: 0, c: 0, d: 0, note: 'setting no_new_privs' };

function planSeccomp(filter: Credentials['seccomp']): Op[] {
  return filter === null ? [] : [{ call: 'seccomp', flags: filter.flags, filter: filter.program, note: 'loading the seccomp filter' }];
}

/** In a user namespace no limit can be raised any more: setrlimit(2). */
export function planRlimits(limits: readonly Rlimit[]): Op[] {
  return limits.map(planRlimit);
}

function planRlimit(limit: Rlimit): Op {
  const { soft, hard } = limit;
  return { call: 'prlimit64', resource: RLIMIT[limit.name], limit: { soft, hard }, note: `limiting ${limit.name.toLowerCase()} to ${soft}:${hard}` };
}

function planBounding({ capabilities }: Credentials): Op[] {
  const ops: Op[] = [];
  capabilityNames.forEach((name, number) => {
    if ((capabilities.bounding >> BigInt(number)) & 1n) return;
    // An older kernel does not know the newest, and cannot give them either.
    ops.push({ call: 'prctl', option: PR.CAPBSET_DROP, a: number, b: 0, c: 0, d: 0, tolerate: ['EINVAL'], note: `dropping capability ${name}` });
  });
  return ops;
}

function planCapset({ capabilities: { effective, permitted, inheritable } }: Credentials): Op {
  return { call: 'capset', capabilities: { effective, permitted, inheritable }, note: 'setting capabilities' };
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
      note: `raising ambient capability ${capability}`,
    });
  }
  return ops;
}
