/**
 * Shared by all rootfs drivers: a directory for each container, and the fds of root file systems whose container has not started.
 *
 * Never mounts anything itself.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { close } from '../../sys/call/syscalls.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import { makePrivateDirectory } from '../../sys/filesystem/private-directory.ts';
import type { ProjectUse } from '../../sys/filesystem/quota.ts';
import type { IdMap } from '../state/spec.ts';
import { openDiskQuotas } from './disk-quotas.ts';

export type PreparedRootfs = {
  /** Returns a path in a container's directory. */
  readonly path: (id: string, name: string) => string;
  /** Creates a container's directory. @throws {BerthError} FAILED_PRECONDITION if the limit, in bytes, cannot be enforced. */
  readonly makeDirectory: (id: string, diskLimitBytes: number | undefined) => void;
  /** Stores the id mappings of the container's user namespace, which are needed again after a restart. */
  readonly keepIds: (id: string, ids: IdMap) => void;
  /** Returns the stored id mappings; undefined if there are none. */
  readonly idsOf: (id: string) => IdMap | undefined;
  /** Returns the fd of a prepared rootfs; prepares it if necessary. */
  readonly hold: (id: string, make: () => Promise<number>) => Promise<number>;
  readonly release: (id: string) => void;
  readonly remove: (id: string) => Promise<void>;
  readonly ids: () => string[];
  readonly upperDir: (id: string) => string;
  readonly volumesDir: (id: string) => string;
  readonly usage: (id: string) => ProjectUse | null;
};

const idsFile = 'ids.json';

export function openPreparedRootfs(rootDir: string): PreparedRootfs {
  const containers = join(rootDir, 'containers');
  // Users of the host must not run setuid programs that a container created.
  makePrivateDirectory(containers);
  const quotas = openDiskQuotas(containers);
  const held = new Map<string, number>();
  const path = (id: string, name: string) => join(containers, id, name);
  const release = (id: string) => {
    const fd = held.get(id);
    if (fd === undefined) return;
    held.delete(id);
    close(fd);
  };
  return {
    path,
    makeDirectory: (id, diskLimitBytes) => {
      mkdirSync(join(containers, id), { mode: 0o711 });
      quotas.assign(id, diskLimitBytes);
    },
    keepIds: (id, ids) => writeFileSync(path(id, idsFile), JSON.stringify(ids)),
    idsOf: (id) => (existsSync(path(id, idsFile)) ? (JSON.parse(readFileSync(path(id, idsFile), 'utf8')) as IdMap) : undefined),
    hold: async (id, make) => {
      const fd = held.get(id) ?? (await make());
      held.set(id, fd);
      return fd;
    },
    release,
    remove: async (id) => {
      release(id);
      await removeTree(join(containers, id));
      quotas.forget(id);
    },
    ids: () => readdirSync(containers),
    upperDir: (id) => path(id, 'upper'),
    volumesDir: (id) => path(id, 'volumes'),
    usage: quotas.usage,
  };
}
