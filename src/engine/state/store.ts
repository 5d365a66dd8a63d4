/**
 * Stores records and statuses of sandboxes and containers: on disk, one directory for each object, with a copy in memory.
 *
 * The directories are on /run, a tmpfs. Like the objects, they do not survive a reboot, so nothing waits for a disk.
 */
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { removeTree, replaceFile } from '../../sys/filesystem/files.ts';
import { makePrivateDirectory } from '../../sys/filesystem/private-directory.ts';
import type { ContainerRecord, ContainerStatus, SandboxRecord, SandboxStatus } from './records.ts';
import { recordVersion } from './records.ts';
import { unreadableContainer, unreadableSandbox } from './unreadable-record.ts';

/** Objects of one kind. Each change creates a new view, so that a view can be a cache key. */
export type ObjectStore<StoredRecord extends { readonly id: string }, Status> = {
  /** The object's own directory. */
  readonly directory: (id: string) => string;
  /** Creates the directory and writes both files, by which recovery finds the object after a crash. */
  readonly create: (record: StoredRecord, status: Status) => void;
  readonly get: (id: string) => { readonly record: StoredRecord; readonly status: Status } | undefined;
  readonly all: () => readonly { readonly record: StoredRecord; readonly status: Status }[];
  /** Writes the changed status, then makes it visible. Does nothing if the object does not exist. */
  readonly update: (id: string, change: (status: Status) => Status) => void;
  /**
   * As update(), for changes that have already happened: the status becomes visible even if it cannot be written, for example to a full disk.
   * Recovery determines it again. @returns why it was not written, or null.
   */
  readonly updateBestEffort: (id: string, change: (status: Status) => Status) => string | null;
  /** Removes the object and its directory. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
};

export type Store = {
  readonly sandboxes: ObjectStore<SandboxRecord, SandboxStatus>;
  readonly containers: ObjectStore<ContainerRecord, ContainerStatus>;
};

/** Reads all objects below the state directory; an unreadable one gets a placeholder. @throws if the directory cannot be created or read. */
export function openStore(stateDir: string): Store {
  return {
    sandboxes: openObjects<SandboxRecord, SandboxStatus>(join(stateDir, 'sandboxes'), unreadableSandbox),
    containers: openObjects<ContainerRecord, ContainerStatus>(join(stateDir, 'containers'), unreadableContainer),
  };
}

type Versioned = { readonly id: string; readonly version: number };
type Placeholder<StoredRecord, Status> = (
  id: string,
  reason: string,
  createdAtNs: string,
) => { readonly record: StoredRecord; readonly status: Status };

function openObjects<StoredRecord extends Versioned, Status>(
  root: string,
  placeholder: Placeholder<StoredRecord, Status>,
): ObjectStore<StoredRecord, Status> {
  makePrivateDirectory(root, 0o711);
  const views = new Map<string, { readonly record: StoredRecord; readonly status: Status }>();
  const directory = (id: string) => join(root, id);
  const writeStatus = (id: string, status: Status) => replaceFile(join(directory(id), 'status.json'), toJson(status), { survivesPowerLoss: false });

  for (const id of readdirSync(root)) {
    // Earlier versions let every user pass who knew the id. The group is root, or that of a pod's user namespace: lifecycle/container.ts.
    chmodSync(directory(id), statSync(directory(id)).mode & 0o710);
    const view = readOrRemove(directory(id), id, placeholder);
    if (view !== null) views.set(id, view);
  }

  return {
    directory,
    create: (record, status) => {
      mkdirSync(directory(record.id), { mode: 0o700 });
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
    updateBestEffort: (id, change) => {
      const view = views.get(id);
      if (view === undefined) return null;
      const status = change(view.status);
      views.set(id, { record: view.record, status });
      try {
        writeStatus(id, status);
        return null;
      } catch (error) {
        return reasonOf(error);
      }
    },
    remove: async (id) => {
      // First: a directory without a record is known to be a leftover.
      rmSync(join(directory(id), 'record.json'), { force: true });
      await removeTree(directory(id));
      views.delete(id);
    },
  };
}

/** @returns null for the leftovers of an object whose creation or removal was interrupted. */
function readOrRemove<StoredRecord extends Versioned, Status>(
  directory: string,
  id: string,
  placeholder: Placeholder<StoredRecord, Status>,
): { record: StoredRecord; status: Status } | null {
  const unreadable = (error: unknown) => placeholder(id, reasonOf(error), String(statSync(directory, { bigint: true }).mtimeNs));
  let record: StoredRecord;
  try {
    record = readRecord<StoredRecord>(directory, id);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) return unreadable(error);
    // The record is written before the first effect and removed after the last undo: without one only the directory is left.
    rmSync(directory, { recursive: true, force: true });
    return null;
  }
  try {
    return { record, status: fromJson<Status>(readFileSync(join(directory, 'status.json'), 'utf8')) };
  } catch (error) {
    return { record, status: unreadable(error).status };
  }
}

function readRecord<StoredRecord extends Versioned>(directory: string, id: string): StoredRecord {
  const record = fromJson<StoredRecord>(readFileSync(join(directory, 'record.json'), 'utf8'));
  if (record.version !== recordVersion)
    throw new Error(`record of ${id} has version ${record.version}; this version of berth reads version ${recordVersion}`);
  if (record.id !== id) throw new Error(`record of ${id} contains the id ${record.id}`);
  return record;
}

/** JSON in which byte strings are encoded as `{"base64": …}`. */
function toJson(value: unknown): string {
  return JSON.stringify(value, function (this: { [key: string]: unknown }, key, plain: unknown) {
    const original = this[key];
    return Buffer.isBuffer(original) ? { base64: original.toString('base64') } : plain;
  });
}

/** Byte strings are the values of environment variables, which have a name beside them. A label may be called `base64` too. */
function fromJson<T>(text: string): T {
  return JSON.parse(text, function (this: { readonly [key: string]: unknown }, key, value: unknown) {
    if (key !== 'value' || typeof this['name'] !== 'string') return value;
    if (typeof value !== 'object' || value === null || !('base64' in value)) return value;
    return typeof value.base64 === 'string' ? Buffer.from(value.base64, 'base64') : value;
  }) as T;
}
