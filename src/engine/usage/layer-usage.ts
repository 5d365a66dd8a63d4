/**
 * Disk usage of containers' writable layers and of the volumes that their images declare: from the project quota where there is one, else measured in the
 * background and cached, one tree at a time; expensive trees are measured less often.
 */
import { existsSync } from 'node:fs';
import { endsWithin } from '../../lib/deadline.ts';
import { type DiskUsage, measureTree } from '../../sys/filesystem/disk-usage.ts';
import type { ContainerRecord } from '../state/records.ts';

export type LayerUsage = DiskUsage & { readonly atNs: string };

export type LayerUsages = {
  /** Starts measurements that are due, and waits briefly for containers that have never been measured. */
  readonly refresh: (records: readonly ContainerRecord[]) => Promise<void>;
  /** The last measurement; null before the first. */
  readonly of: (record: ContainerRecord) => LayerUsage | null;
};

/** Minimum pause between two measurements of a tree. Without it each request of the kubelet, about every ten seconds, would cause one. */
const pauseMsMin = 30_000;
/** The pause after a measurement, as a multiple of its duration. */
const pausePerDuration = 50;
/** How long a call waits for a first measurement. */
const firstTimeoutMs = 250;

type Entry = { readonly usage: LayerUsage | null; readonly dueAtMs: number };

export type LayerUsageDeps = {
  readonly rootfs: {
    readonly upperDir: (id: string) => string;
    readonly volumesDir: (id: string) => string;
    readonly usage: (id: string) => DiskUsage | null;
  };
  readonly clock: { readonly nowNs: () => string };
};

export function createLayerUsages(deps: LayerUsageDeps): LayerUsages {
  // Entries disappear with their records.
  const entries = new WeakMap<ContainerRecord, Entry>();
  const due = new Set<ContainerRecord>();
  let work: Promise<void> | null = null;

  const measure = async (id: string): Promise<DiskUsage> => {
    const [upper, volumes] = [deps.rootfs.upperDir(id), deps.rootfs.volumesDir(id)];
    const layer = await measureTree(upper);
    if (!existsSync(volumes)) return layer;
    const declared = await measureTree(volumes);
    return { bytes: layer.bytes + declared.bytes, inodes: layer.inodes + declared.inodes };
  };
  const measureDue = async () => {
    for (const record of due) {
      const startedAtMs = performance.now();
      // A container that is being removed has no tree, and nobody reads its measurement.
      const usage = await measure(record.id).catch(() => null);
      const endedAtMs = performance.now();
      const dueAtMs = endedAtMs + Math.max(pauseMsMin, pausePerDuration * (endedAtMs - startedAtMs));
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
      // Later calls do not wait for it.
      entries.set(record, { usage: null, dueAtMs: 0 });
    }
    if (due.size > 0) work ??= measureDue();
    if (hasNew && work !== null) await endsWithin(firstTimeoutMs, work);
  };
  const of = (record: ContainerRecord): LayerUsage | null => {
    const counted = deps.rootfs.usage(record.id);
    if (counted === null) return entries.get(record)?.usage ?? null;
    return { bytes: counted.bytes, inodes: counted.inodes, atNs: deps.clock.nowNs() };
  };
  return { refresh, of };
}
