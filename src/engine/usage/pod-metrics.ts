/**
 * Resource usage of ready sandboxes and their containers in full detail, for metrics. Costs several times as much as stats.ts.
 */
import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { mountOf, parseMountInfo } from '../../sys/call/proc.ts';
import { type CgroupDetails, type DeviceIo, detailsV1, detailsV2 } from '../../sys/cgroup/cgroup-details.ts';
import { type CgroupReader, createCgroupReader } from '../../sys/cgroup/cgroup-stats.ts';
import { countOpenFiles, openFilesLimit, type ProcessCounters } from '../../sys/cgroup/process-counters.ts';
import { blockDeviceName } from '../../sys/filesystem/block-devices.ts';
import type { ContainerStatus, SandboxView } from '../state/records.ts';
import { type ContainerStats, podCgroupPath, type SandboxStats, type Stats, type StatsDeps } from './stats.ts';

/** The file system of the writable layers. */
export type LayerFilesystem = {
  readonly device: string;
  readonly totalBytes: number;
  readonly inodes: number;
  readonly freeInodes: number;
};

/** With the names of block devices. */
export type NamedDetails = Omit<CgroupDetails, 'devices'> & { readonly devices: readonly (DeviceIo & { readonly name: string })[] };

export type ContainerMetrics = {
  readonly stats: ContainerStats;
  readonly status: ContainerStatus;
  readonly cgroup: NamedDetails;
  readonly processes: ProcessCounters;
  /** Soft limit of the first process; null: unlimited. */
  readonly openFilesMax: number | null;
};

export type SandboxMetrics = {
  readonly stats: SandboxStats;
  /** The pod's own cgroup; null if it has none. */
  readonly pod: { readonly cgroupPath: string; readonly cgroup: NamedDetails } | null;
  readonly containers: readonly ContainerMetrics[];
  readonly filesystem: LayerFilesystem;
};

export type PodMetrics = (views: readonly SandboxView[]) => AsyncGenerator<SandboxMetrics>;

export function createPodMetrics(deps: StatsDeps, stats: Stats): PodMetrics {
  const { cgroups, settings } = deps;
  const reader = createCgroupReader(cgroups);
  const device = mountOf(parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')), settings.rootDir)?.source ?? '';
  return async function* (views) {
    const { blocks, bsize, files, ffree } = await statfs(settings.rootDir);
    const filesystem = { device, totalBytes: blocks * bsize, inodes: files, freeInodes: ffree };
    for await (const batch of stats.sandboxes(views)) {
      for (const sandbox of batch) {
        const containers: ContainerMetrics[] = [];
        for (const each of sandbox.containers) containers.push(...(await containerDetails(deps, reader, each)));
        const cgroupPath = podCgroupPath(deps, sandbox.record);
        const pod = cgroupPath === null ? null : { cgroupPath, cgroup: cgroupDetails(deps, reader, cgroupPath) };
        yield { stats: sandbox, pod, containers, filesystem };
      }
    }
  };
}

async function containerDetails(deps: StatsDeps, reader: CgroupReader, stats: ContainerStats): Promise<ContainerMetrics[]> {
  const { id, cgroupPath } = stats.record;
  const status = deps.store.containers.get(id)?.status;
  if (status?.process === undefined) return [];
  const processes = await countOpenFiles(deps.cgroups, cgroupPath);
  return [{ stats, status, cgroup: cgroupDetails(deps, reader, cgroupPath), processes, openFilesMax: openFilesLimit(status.process.pid) }];
}

function cgroupDetails({ cgroups }: StatsDeps, reader: CgroupReader, path: string): NamedDetails {
  const read = (controller: string, file: string) => reader.text(path, controller, file);
  const details = (cgroups.version === 1 ? detailsV1 : detailsV2)(read, cgroups.hugepageSizes);
  return { ...details, devices: details.devices.map((device) => ({ ...device, name: blockDeviceName(device.major, device.minor) })) };
}
