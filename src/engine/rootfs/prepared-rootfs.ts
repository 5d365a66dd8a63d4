/**
 * What every way to make containers' roots has in common: a directory for each container, and the fds of roots that wait for their start.
 *
 * Never mounts anything itself.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { close } from '../../sys/call/syscalls.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import type { ProjectUse } from '../../sys/filesystem/quota.ts';
import type { IdMap } from '../state/spec.ts';
import { openDiskQuotas } from './disk-quotas.ts';

export type PreparedRootfs = {
  /** A place in a container's directory. */
  readonly path: (id: string, name: string) => string;
  /** @throws {BerthError} FAILED_PRECONDITION when the limit, in bytes, would not hold. */
  readonly makeDirectory: (id: string, diskLimitBytes: number | undefined) => void;
  /** Of the container's user namespace, for whoever makes its root, also after a restart; undefined when none were kept. */
  readonly keepIds: (id: string, ids: IdMap) => void;
  readonly idsOf: (id: string) => IdMap | undefined;
  /** The fd of a root that is prepared; made when there is none. */
  readonly hold: (id: string, make: () => Promise<number>) => Promise<number>;
  readonly release: (id: string) => void;
  readonly remove: (id: string) => Promise<void>;
  readonly ids: () => string[];
  readonly upperDir: (id: string) => string;
  readonly usage: (id: string) => ProjectUse | null;
};

const idsFile = 'ids.json';

export function openPreparedRootfs(rootDir: string): PreparedRootfs {
  const containers = join(rootDir, 'containers');
  mkdirSync(containers, { recursive: true });
  // A program that a container has made setuid must not be run by the host's users.
  chmodSync(containers, 0o700);
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
    usage: quotas.usage,
  };
}
