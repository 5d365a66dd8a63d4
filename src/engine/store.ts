/**
 * Records and statuses of sandboxes and containers: the truth is on disk, one directory per object, and memory is its view.
 *
 * The directories lie on /run, which dies with the kernel they describe; so nothing waits for a disk. Decides nothing.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '../sys/ffi.ts';
import { removeTree, replaceFile } from '../sys/files.ts';
import type { ContainerRecord, ContainerStatus, SandboxRecord, SandboxStatus } from './records.ts';
import { recordVersion } from './records.ts';

/** One kind of object. A view is a new object at each change, so that it can be a key of caches. */
export type ObjectStore<Record extends { readonly id: string }, Status> = {
  /** The object's own directory. */
  readonly directory: (id: string) => string;
  /** Makes the directory and writes both files; after a crash the object is found through them. */
  readonly create: (record: Record, status: Status) => void;
  readonly get: (id: string) => { readonly record: Record; readonly status: Status } | undefined;
  readonly all: () => readonly { readonly record: Record; readonly status: Status }[];
  /** Writes what `change` makes of the status, then shows it. An object that is gone stays gone. */
  readonly update: (id: string, change: (status: Status) => Status) => void;
  /** Removes the object and its directory. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
  /** Ids of directories whose files cannot be read, with why; nothing of them is touched. */
  readonly unreadable: ReadonlyMap<string, string>;
};

export type Store = {
  readonly sandboxes: ObjectStore<SandboxRecord, SandboxStatus>;
  readonly containers: ObjectStore<ContainerRecord, ContainerStatus>;
};

/** Reads everything below the state directory. @throws when the directory cannot be made or read; a single bad record does not. */
export function openStore(stateDir: string): Store {
  return {
    sandboxes: openObjects<SandboxRecord, SandboxStatus>(join(stateDir, 'sandboxes')),
    containers: openObjects<ContainerRecord, ContainerStatus>(join(stateDir, 'containers')),
  };
}

function openObjects<Record extends { readonly id: string; readonly version: number }, Status>(root: string): ObjectStore<Record, Status> {
  mkdirSync(root, { recursive: true, mode: 0o711 });
  const views = new Map<string, { readonly record: Record; readonly status: Status }>();
  const unreadable = new Map<string, string>();
  const directory = (id: string) => join(root, id);
  const writeStatus = (id: string, status: Status) => replaceFile(join(directory(id), 'status.json'), toJson(status), { survivesPowerLoss: false });

  for (const id of readdirSync(root)) {
    try {
      views.set(id, readObject(directory(id), id));
    } catch (error) {
      // The record is written before the first effect: without one there is nothing but the directory.
      if (isErrno(error, 'ENOENT')) rmSync(directory(id), { recursive: true, force: true });
      else unreadable.set(id, error instanceof Error ? error.message : String(error));
    }
  }

  return {
    directory,
    unreadable,
    create: (record, status) => {
      mkdirSync(directory(record.id), { mode: 0o711 });
      writeStatus(record.id, status);
      replaceFile(join(directory(record.id), 'record.json'), toJson(record), { survivesPowerLoss: false });
      views.set(record.id, { record, status });
    },
    get: (id) => views.get(id),
    all: () => [...views.values()],
    update: (id, change) => {
      const view = views.get(id);
      if (view === undefined) return;
      const status = change(view.status);
      writeStatus(id, status);
      views.set(id, { record: view.record, status });
    },
    remove: async (id) => {
      await removeTree(directory(id));
      views.delete(id);
      unreadable.delete(id);
    },
  };
}

function readObject<Record extends { readonly id: string; readonly version: number }, Status>(
  directory: string,
  id: string,
): { record: Record; status: Status } {
  const record = fromJson<Record>(readFileSync(join(directory, 'record.json'), 'utf8'));
  if (record.version !== recordVersion) throw new Error(`record of ${id} has version ${record.version}; this berth reads ${recordVersion}`);
  if (record.id !== id) throw new Error(`record of ${id} names itself ${record.id}`);
  return { record, status: fromJson<Status>(readFileSync(join(directory, 'status.json'), 'utf8')) };
}

/** JSON in which bytes stand as `{"base64": …}`. */
function toJson(value: unknown): string {
  return JSON.stringify(value, function (this: { [key: string]: unknown }, key, plain: unknown) {
    const original = this[key];
    return Buffer.isBuffer(original) ? { base64: original.toString('base64') } : plain;
  });
}

function fromJson<T>(text: string): T {
  return JSON.parse(text, (_, value: unknown) => {
    if (typeof value !== 'object' || value === null || !('base64' in value) || Object.keys(value).length !== 1) return value;
    return typeof value.base64 === 'string' ? Buffer.from(value.base64, 'base64') : value;
  }) as T;
}
