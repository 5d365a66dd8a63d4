/**
 * What the machine decides about the prison: the cgroup driver, and with which table containers are compared.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Message } from '../../scripts/cri-client.ts';
import { removeCgroup } from '../support/cgroups.ts';

export const isUnified = () => existsSync('/sys/fs/cgroup/cgroup.controllers');

/** Returns the path of the peer's rows on machines like this. */
export const tableFile = () => join(import.meta.dirname, isUnified() ? 'peer-v2.json' : 'peer-v1.json');

export type Pods = {
  /** Fields of every pod. */
  readonly linux: Message;
  readonly hasSystemd: boolean;
  /** Removes the parent of all cgroups. */
  readonly remove: () => Promise<void>;
};

/** @param name of the parent cgroup of all pods; below systemd a slice. */
export function podsAt(name: string): Pods {
  const hasSystemd = existsSync('/run/systemd/system') && isUnified();
  if (!hasSystemd) return { linux: { cgroup_parent: `/${name}` }, hasSystemd, remove: () => removeCgroup(name) };
  const slice = `${name.replaceAll('-', '_')}.slice`;
  const remove = async () => void execFileSync('systemctl', ['stop', slice]);
  return { linux: { cgroup_parent: `/${slice}` }, hasSystemd, remove };
}
