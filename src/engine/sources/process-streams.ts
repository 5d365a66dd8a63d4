/**
 * The pipes that are the standard streams of a process in a container.
 */
import { fchownSync } from 'node:fs';
import type { ContainerRecord } from '../state/records.ts';

/**
 * Makes the container's user the owner of pipes that its process inherits. Programs open them again as /dev/stdout or /dev/stderr, which only the owner
 * of a pipe may: its mode is 0600. The group is unchanged.
 *
 * Must run on the host: a user namespace has no id for the pipe's former owner, so its root may not change it.
 */
export function giveToUser({ identity, spec }: Pick<ContainerRecord, 'identity' | 'spec'>, pipes: readonly number[]): void {
  const uid = (spec.security.namespaces.user?.uids.hostId ?? 0) + identity.uid;
  if (uid === 0) return;
  for (const pipe of pipes) fchownSync(pipe, uid, -1);
}
