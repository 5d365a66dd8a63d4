/**
 * Plans how a process joins a user namespace and becomes its root.
 *
 * Pure. Afterwards the process has all capabilities over resources of that namespace, and none over the host: user_namespaces(7).
 */
import { CLONE } from './abi.ts';
import type { Op, Reg } from './plan.ts';

/** Returns the operations that join the namespace. What needs privilege on the host must come before: limits, oom_score_adj, cgroups. */
export function joinUser(reg: Reg): Op[] {
  return [{ call: 'setns', fd: reg, namespaces: CLONE.NEWUSER, note: 'join the user namespace of the pod' }, ...becomeRoot()];
}

/** Returns the operations that become root. The host's root is not mapped in the user namespace: its files would have no valid owner. */
export function becomeRoot(): Op[] {
  return [
    { call: 'setresgid', real: 0, effective: 0, saved: 0, note: 'set the group to root of the user namespace' },
    { call: 'setresuid', real: 0, effective: 0, saved: 0, note: 'set the user to root of the user namespace' },
  ];
}
