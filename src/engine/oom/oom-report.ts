/**
 * Whose limit a process was killed at, and the sentence that says it to people. Pure.
 */
import type { LimitHolder, MemoryUse, OomKill, OomVictim } from '../state/oom-kill.ts';
import { type ContainerView, containerState } from '../state/records.ts';

/** The container whose process was killed: by its id in the path of the cgroup, or as its first process. undefined: somebody else's. */
export function containerOfKill(kill: OomKill, views: readonly ContainerView[]): ContainerView | undefined {
  const ids: readonly string[] = kill.cgroup?.match(/[0-9a-f]{64}/g) ?? [];
  return views.find(({ record, status }) => {
    if (kill.cgroup !== null) return ids.includes(record.id);
    return containerState(status) === 'running' && status.process?.pid === kill.pid && wasThere(status.process.startTime, kill.atUs);
  });
}

/** Start times are ticks of a hundredth of a second since boot, proc_pid_stat(5). */
const wasThere = (startTime: string, atUs: number): boolean => Number(startTime) * 10_000 <= atUs + 1_000_000;

/** @param hasPodCgroup whether the cgroup around the container's is the pod's alone. */
export function toVictim(kill: OomKill, { record, status }: ContainerView, hasPodCgroup: boolean): OomVictim {
  const isFirst = status.process?.pid === kill.pid;
  const pidInside = isFirst && record.spec.security.namespaces.pid === 'container' ? { pidInside: 1 } : {};
  const limit = limitHolder(kill, record.id, hasPodCgroup);
  // Of a pod with one container the kernel names either.
  const isOwnToo = limit === 'pod' && kill.limitBytes !== null && kill.limitBytes === status.resources.memoryLimitBytes;
  return { ...kill, limit, isFirst, ...pidInside, ...(isOwnToo ? { isOwnLimitToo: true } : {}) };
}

/** By the paths as the kernel has them, which are others than the daemon's where that is in a container itself. */
function limitHolder({ cgroup, limitedCgroup }: OomKill, id: string, hasPodCgroup: boolean): LimitHolder {
  if (cgroup === null) return 'unknown';
  if (limitedCgroup === null) return 'node';
  const components = cgroup.split('/');
  const depth = components.findIndex((component) => component.includes(id));
  const own = components.slice(0, depth + 1).join('/');
  const pod = components.slice(0, depth).join('/');
  if (limitedCgroup === own) return 'container';
  if (limitedCgroup.startsWith(`${own}/`)) return 'inner';
  return limitedCgroup === pod && hasPodCgroup ? 'pod' : 'outer';
}

/** `OOM-killed: process 37 (stress) of the container, at its limit of 64 MiB; in use there: 60 MiB anonymous, 3 MiB file`. */
export function describeVictim(victim: OomVictim): string {
  const { pid, pidInside, isFirst, command, limit, limitBytes, limitedCgroup, memory } = victim;
  const inside = pidInside === undefined ? '' : `, pid ${pidInside} inside`;
  const who = `process ${pid} (${command})${isFirst ? `, the container's first${inside}` : ' of the container'}`;
  const size = limitBytes === null ? '' : ` of ${mebibytes(limitBytes)}`;
  const where: Readonly<Record<LimitHolder, string>> = {
    container: `, at its limit${size}`,
    inner: `, at the limit${size} of a cgroup that the container made`,
    pod: `, at the pod's limit${size}${victim.isOwnLimitToo ? ', which is its own too' : ''}`,
    outer: `, at the limit${size} of cgroup ${limitedCgroup || '/'}`,
    node: ', for the node had no memory left',
    unknown: '',
  };
  return `OOM-killed: ${who}${where[limit]}${describeMemory(memory, limitedCgroup === null ? 'the process had' : 'in use there:')}`;
}

function describeMemory(memory: MemoryUse | null, intro: string): string {
  if (memory === null) return '';
  const kinds = [
    ['anonymous', memory.anonBytes],
    ['file', memory.fileBytes],
    ['tmpfs and shared', memory.shmemBytes],
    ['kernel', memory.kernelBytes ?? 0],
  ] as const;
  const told = kinds.filter(([kind, bytes]) => bytes > 0 || kind === 'anonymous');
  return `; ${intro} ${told.map(([kind, bytes]) => `${mebibytes(bytes)} ${kind}`).join(', ')}`;
}

function mebibytes(bytes: number): string {
  const value = bytes / 2 ** 20;
  return value >= 1024 ? `${trimmed(value / 1024)} GiB` : `${trimmed(value)} MiB`;
}

/** One decimal, but none for whole numbers and from 100 on. */
const trimmed = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, ''));
