/**
 * What containers have written to their roots: where there is a project quota as it stands, elsewhere measured in the background and
 * remembered, one tree at a time, the costlier the rarer.
 */
import { endsWithin } from '../../lib/deadline.ts';
import { type DiskUsage, measureTree } from '../../sys/filesystem/disk-usage.ts';
import type { ContainerRecord } from '../state/records.ts';

export type LayerUsage = DiskUsage & { readonly atNs: string };

export type LayerUsages = {
  /** Sees to it that the containers are measured when they are due; waits a moment for those that never were. */
  readonly refresh: (records: readonly ContainerRecord[]) => Promise<void>;
  /** The last measurement; null before the first one is done. */
  readonly of: (record: ContainerRecord) => LayerUsage | null;
};

/** As often as the kubelet looks at local storage, some ten seconds, would be a scan for each look. */
const restMsMin = 30_000;
/** Of the time, a tree is being measured for one part and left alone for so many. */
const restPerWork = 50;
/** How long a first measurement may keep a call waiting. */
const patienceMs = 250;

type Entry = { readonly usage: LayerUsage | null; readonly dueAtMs: number };

export type LayerUsageDeps = {
  readonly rootfs: { readonly upperDir: (id: string) => string; readonly usage: (id: string) => DiskUsage | null };
  readonly clock: { readonly nowNs: () => string };
};

export function createLayerUsages(deps: LayerUsageDeps): LayerUsages {
  // Gone with the containers, without anybody's telling.
  const entries = new WeakMap<ContainerRecord, Entry>();
  const due = new Set<ContainerRecord>();
  let work: Promise<void> | null = null;

  const measureDue = async () => {
    for (const record of due) {
      const startedAtMs = performance.now();
      // A container that is being removed has no tree, and its measurement no reader.
      const usage = await measureTree(deps.rootfs.upperDir(record.id)).catch(() => null);
      const endedAtMs = performance.now();
      const dueAtMs = endedAtMs + Math.max(restMsMin, restPerWork * (endedAtMs - startedAtMs));
      entries.set(record, { usage: usage && { ...usage, atNs: deps.clock.nowNs() }, dueAtMs });
      due.delete(record);
    }
    work = null;
  };
  const refresh = async (records: readonly ContainerRecord[]) => {
    const now = performance.now();
    let hasNew = false;
    for (const record of records) {
      if (deps.rootfs.usage(record.id) !== null) continue;
      const entry = entries.get(record);
      if (entry !== undefined && entry.dueAtMs > now) continue;
      due.add(record);
      if (entry !== undefined) continue;
      hasNew = true;
      // Nobody waits for it a second time.
      entries.set(record, { usage: null, dueAtMs: 0 });
    }
    if (due.size > 0) work ??= measureDue();
    if (hasNew && work !== null) await endsWithin(patienceMs, work);
  };
  const of = (record: ContainerRecord): LayerUsage | null => {
    const counted = deps.rootfs.usage(record.id);
    if (counted === null) return entries.get(record)?.usage ?? null;
    return { bytes: counted.bytes, inodes: counted.inodes, atNs: deps.clock.nowNs() };
  };
  return { refresh, of };
}
