/**
 * Determines the container and the memory limit of an OOM kill, and describes the kill in a sentence. Pure.
 */
import type { LimitHolder, MemoryUse, OomKill, OomVictim } from '../state/oom-kill.ts';
import { type ContainerView, containerState } from '../state/records.ts';

/** Returns the container of the killed process: by the id in the path of its cgroup, or by its first process. undefined: not in a container. */
export function containerOfKill(kill: OomKill, views: readonly ContainerView[]): ContainerView | undefined {
  const ids: readonly string[] = kill.cgroup?.match(/[0-9a-f]{64}/g) ?? [];
  return views.find(({ record, status }) => {
    if (kill.cgroup !== null) return ids.includes(record.id);
    return containerState(status) === 'running' && status.process?.pid === kill.pid && hadStarted(status.process.startTime, kill.atUs);
  });
}

/** Start times are in hundredths of a second since boot: proc_pid_stat(5). */
const hadStarted = (startTime: string, atUs: number): boolean => Number(startTime) * 10_000 <= atUs + 1_000_000;

/** Returns the report of a kill. @param hasPodCgroup whether the parent of the container's cgroup is the cgroup of the pod. */
export function toVictim(kill: OomKill, { record, status }: ContainerView, hasPodCgroup: boolean): OomVictim {
  const isFirst = status.process?.pid === kill.pid;
  const pidInside = isFirst && record.spec.security.namespaces.pid === 'container' ? { pidInside: 1 } : {};
  const limit = limitHolder(kill, record.id, hasPodCgroup);
  // In a pod with one container, both limits can be equal, and the kernel reports either.
  const isOwnToo = limit === 'pod' && kill.limitBytes !== null && kill.limitBytes === status.resources.memoryLimitBytes;
  return { ...kill, limit, isFirst, ...pidInside, ...(isOwnToo ? { isOwnLimitToo: true } : {}) };
}

/** Uses the paths in the kernel's form, which differ from the daemon's if it runs in a container itself. */
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

/** Returns `OOM-killed: process 37 (stress) of the container, at the container's memory limit of 64 MiB; memory usage: 60 MiB anonymous`. */
export function describeVictim(victim: OomVictim): string {
  const { pid, pidInside, isFirst, command, limit, limitBytes, limitedCgroup, memory } = victim;
  const first = pidInside === undefined ? ', first process of the container' : `, pid ${pidInside} in the container`;
  const who = `process ${pid} (${command})${isFirst ? first : ' of the container'}`;
  const size = limitBytes === null ? '' : ` of ${mebibytes(limitBytes)}`;
  const where: Readonly<Record<LimitHolder, string>> = {
    container: `, at the container's memory limit${size}`,
    inner: `, at the memory limit${size} of a cgroup inside the container`,
    pod: victim.isOwnLimitToo ? `, at the memory limit${size} of both the container and the pod` : `, at the pod's memory limit${size}`,
    outer: `, at the memory limit${size} of cgroup ${limitedCgroup || '/'}`,
    node: ', because the node was out of memory',
    unknown: '',
  };
  return `OOM-killed: ${who}${where[limit]}${describeMemory(memory, limitedCgroup === null ? 'memory of the process' : 'memory usage')}`;
}

function describeMemory(memory: MemoryUse | null, intro: string): string {
  if (memory === null) return '';
  const kinds = [
    ['anonymous', memory.anonBytes],
    ['file', memory.fileBytes],
    ['tmpfs and shared', memory.shmemBytes],
    ['kernel', memory.kernelBytes ?? 0],
  ] as const;
  const shown = kinds.filter(([kind, bytes]) => bytes > 0 || kind === 'anonymous');
  return `; ${intro}: ${shown.map(([kind, bytes]) => `${mebibytes(bytes)} ${kind}`).join(', ')}`;
}

function mebibytes(bytes: number): string {
  const value = bytes / 2 ** 20;
  return value >= 1024 ? `${trimmed(value / 1024)} GiB` : `${trimmed(value)} MiB`;
}

/** Rounds to one decimal, or to none for whole numbers and from 100 on. */
const trimmed = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, ''));
