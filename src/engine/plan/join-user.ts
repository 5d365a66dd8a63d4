/**
 * Plans how a process gets into a user namespace, and becomes its root.
 *
 * Pure. From there on it has all capabilities over what belongs to that namespace, and none over the host: user_namespaces(7).
 */
import { CLONE } from './abi.ts';
import type { Op, Reg } from './plan.ts';

/** Joins the namespace. What needs the host's privilege comes before: limits, the oom score, cgroups. */
export function joinUser(reg: Reg): Op[] {
  return [{ call: 'setns', fd: reg, namespaces: CLONE.NEWUSER, note: "joining the pod's user namespace" }, ...becomeRoot()];
}

/** The host's root is nobody in a user namespace: what it makes would have no owner. */
export function becomeRoot(): Op[] {
  return [
    { call: 'setresgid', real: 0, effective: 0, saved: 0, note: "becoming the group of the pod's root" },
    { call: 'setresuid', real: 0, effective: 0, saved: 0, note: "becoming the pod's root" },
  ];
}
