/**
 * Paths of a sandbox's parts on the host. Pure.
 */
import type { SandboxRecord } from '../state/records.ts';

export type SandboxPaths = {
  readonly directory: string;
  /** Pinned namespaces of the sandbox. */
  readonly pins: Readonly<Partial<Record<'user' | 'net' | 'ipc' | 'uts', string>>>;
  /** The sandbox's own tmpfs, or the host's /dev/shm. */
  readonly shm: string;
  readonly hasOwnShm: boolean;
};

export function sandboxPaths(deps: { store: { sandboxes: { directory: (id: string) => string } } }, record: SandboxRecord): SandboxPaths {
  const directory = deps.store.sandboxes.directory(record.id);
  const { network, ipc, user } = record.spec.namespaces;
  const hasOwnShm = ipc === 'pod';
  return {
    directory,
    pins: {
      ...(user === undefined ? {} : { user: `${directory}/user` }),
      ...(network === 'pod' && record.netnsPath !== undefined ? { net: record.netnsPath, uts: `${directory}/uts` } : {}),
      ...(ipc === 'pod' ? { ipc: `${directory}/ipc` } : {}),
    },
    shm: hasOwnShm ? `${directory}/shm` : '/dev/shm',
    hasOwnShm,
  };
}
