/**
 * Opens a sandbox's pinned namespaces as registers of a plan.
 */
import { constants, openSync } from 'node:fs';
import { CLONE } from '../plan/abi.ts';
import type { Reg } from '../plan/plan.ts';
import type { JoinedNamespace } from '../plan/plan-container.ts';
import type { Registers } from './registers.ts';
import type { SandboxPaths } from './sandbox-paths.ts';

const flags = { net: CLONE.NEWNET, ipc: CLONE.NEWIPC, uts: CLONE.NEWUTS } as const;

export type OpenPins = { readonly namespaces: readonly JoinedNamespace[]; readonly user?: Reg };

/** Opens the pinned namespaces. The user namespace is separate, because it is joined in another way. */
export function openPins(pins: SandboxPaths['pins'], registers: Registers): OpenPins {
  const { user, ...others } = pins;
  const open = (what: string, path: string): Reg => registers.add(what, openSync(path, constants.O_RDONLY));
  const namespaces = Object.entries(others).map(([what, path]) => ({ what, flag: flags[what as keyof typeof flags], reg: open(what, path) }));
  return { namespaces, ...(user === undefined ? {} : { user: open('user', user) }) };
}
