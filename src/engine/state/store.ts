/**
 * Records and statuses of sandboxes and containers: the truth is on disk, one directory per object, and memory is its view.
 *
 * The directories lie on /run, which dies with the kernel they describe; so nothing waits for a disk. Decides nothing.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { removeTree, replaceFile } from '../../sys/filesystem/files.ts';
import type { ContainerRecord, ContainerStatus, SandboxRecord, SandboxStatus } from './records.ts';
import { recordVersion } from './records.ts';
import { unreadableContainer, unreadableSandbox } from './unreadable-record.ts';

/** One kind of object. A view is a new object at each change, so that it can be a key of caches. */
export type ObjectStore<Kept extends { readonly id: string }, Status> = {
  /** The object's own directory. */
  readonly directory: (id: string) => string;
  /** Makes the directory and writes both files; after a crash the object is found through them. */
  readonly create: (record: Kept, status: Status) => void;
  readonly get: (id: string) => { readonly record: Kept; readonly status: Status } | undefined;
  readonly all: () => readonly { readonly record: Kept; readonly status: Status }[];
  /** Writes what `change` makes of the status, then shows it. An object that is gone stays gone. */
  readonly update: (id: string, change: (status: Status) => Status) => void;
  /**
   * As update(), for what has happened already, or must go on: it is shown even when it cannot be written, for one, to a full disk.
   * The next start finds it out again. @returns why it is not written, or null.
   */
  readonly updateBestEffort: (id: string, change: (status: Status) => Status) => string | null;
  /** Removes the object and its directory. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
};

export type Store = {
  readonly sandboxes: ObjectStore<SandboxRecord, SandboxStatus>;
  readonly containers: ObjectStore<ContainerRecord, ContainerStatus>;
};

/** Reads everything below the state directory; what cannot be read has a placeholder. @throws when the directory cannot be made or read. */
export function openStore(stateDir: string): Store {
  return {
    sandboxes: openObjects<SandboxRecord, SandboxStatus>(join(stateDir, 'sandboxes'), unreadableSandbox),
    containers: openObjects<ContainerRecord, ContainerStatus>(join(stateDir, 'containers'), unreadableContainer),
  };
}

type Versioned = { readonly id: string; readonly version: number };
type Placeholder<Kept, Status> = (id: string, reason: string, createdAtNs: string) => { readonly record: Kept; readonly status: Status };

function openObjects<Kept extends Versioned, Status>(root: string, placeholder: Placeholder<Kept, Status>): ObjectStore<Kept, Status> {
  mkdirSync(root, { recursive: true, mode: 0o711 });
  const views = new Map<string, { readonly record: Kept; readonly status: Status }>();
  const directory = (id: string) => join(root, id);
  const writeStatus = (id: string, status: Status) => replaceFile(join(directory(id), 'status.json'), toJson(status), { survivesPowerLoss: false });

  for (const id of readdirSync(root)) {
    const view = readOrRemove(directory(id), id, placeholder);
    if (view !== null) views.set(id, view);
  }

  return {
    directory,
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
      // First: what is left after a crash in the middle is then known for what it is.
      rmSync(join(directory(id), 'record.json'), { force: true });
      await removeTree(directory(id));
      views.delete(id);
    },
  };
}

/** @returns null for what is left of an object that was not quite made, or not quite removed. */
function readOrRemove<Kept extends Versioned, Status>(
  directory: string,
  id: string,
  placeholder: Placeholder<Kept, Status>,
): { record: Kept; status: Status } | null {
  const unreadable = (error: unknown) => placeholder(id, reasonOf(error), String(statSync(directory, { bigint: true }).mtimeNs));
  let record: Kept;
  try {
    record = readRecord<Kept>(directory, id);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) return unreadable(error);
    // The record is written before the first effect, and removed after the last undo: without one there is nothing but the directory.
    rmSync(directory, { recursive: true, force: true });
    return null;
  }
  try {
    return { record, status: fromJson<Status>(readFileSync(join(directory, 'status.json'), 'utf8')) };
  } catch (error) {
    return { record, status: unreadable(error).status };
  }
}

function readRecord<Kept extends Versioned>(directory: string, id: string): Kept {
  const record = fromJson<Kept>(readFileSync(join(directory, 'record.json'), 'utf8'));
  if (record.version !== recordVersion) throw new Error(`record of ${id} has version ${record.version}; this berth reads ${recordVersion}`);
  if (record.id !== id) throw new Error(`record of ${id} names itself ${record.id}`);
  return record;
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
