/**
 * Converts LinuxContainerResources to Resources: 0 and '' mean "unset" and become undefined. Pure.
 */
import type { Resources } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { present, quoted, singleLine, wholeNumber } from './checks.ts';

/**
 * Converts the resources of an update.
 *
 * @throws {BerthError} INVALID_ARGUMENT for values that no kernel accepts.
 */
export function resourcesFrom(message: cri.LinuxContainerResources = {}): Resources {
  const memoryLimitBytes = byteLimit('memory_limit_in_bytes', message.memory_limit_in_bytes);
  const memorySwapLimitBytes = byteLimit('memory_swap_limit_in_bytes', message.memory_swap_limit_in_bytes);
  if (memoryLimitBytes !== undefined && memorySwapLimitBytes !== undefined && isBelow(memorySwapLimitBytes, memoryLimitBytes)) {
    throw invalidArgument(
      `memory_swap_limit_in_bytes: ${memorySwapLimitBytes} limits memory plus swap, and must not be below memory_limit_in_bytes ${memoryLimitBytes}`,
    );
  }
  return present({
    cpuPeriodUs: cpuPeriod(message.cpu_period),
    cpuQuotaUs: cpuQuota(message.cpu_quota),
    cpuShares: wholeNumber('cpu_shares', message.cpu_shares, 0, Number.MAX_SAFE_INTEGER) || undefined,
    memoryLimitBytes,
    memorySwapLimitBytes,
    oomScoreAdj: wholeNumber('oom_score_adj', message.oom_score_adj, -1000, 1000) || undefined,
    cpusetCpus: cpuset('cpuset_cpus', message.cpuset_cpus),
    cpusetMems: cpuset('cpuset_mems', message.cpuset_mems),
    hugepageLimits: hugepageLimits(message.hugepage_limits ?? []),
    unified: unified(message.unified ?? {}),
  });
}

/** Converts the resources of a new container. The oom score is always set: the container would inherit the daemon's. */
export function initialResourcesFrom(message: cri.LinuxContainerResources | undefined): Resources {
  return { oomScoreAdj: 0, ...resourcesFrom(message) };
}

/** Limits of the kernel: Documentation/scheduler/sched-bwc.rst. */
const [cpuUsMin, cpuPeriodUsMax] = [1000, 1_000_000];

function cpuPeriod(text: string | undefined): number | undefined {
  const period = Number(text ?? 0);
  return period === 0 ? undefined : wholeNumber('cpu_period', text, cpuUsMin, cpuPeriodUsMax);
}

function cpuQuota(text: string | undefined): number | undefined {
  const quota = Number(text ?? 0);
  if (quota <= 0) return quota === 0 ? undefined : -1;
  return wholeNumber('cpu_quota', text, cpuUsMin, Number.MAX_SAFE_INTEGER);
}

/** -1 means unlimited. A limit above 2^53 bytes, more than any machine has, is reduced to that. */
function byteLimit(field: string, text: string | undefined): number | undefined {
  const bytes = Math.min(Number(text ?? 0), Number.MAX_SAFE_INTEGER);
  if (bytes < -1) throw invalidArgument(`${field}: ${text} is below -1`);
  return bytes === 0 ? undefined : bytes;
}

const isBelow = (limit: number, other: number): boolean => limit !== -1 && (other === -1 || limit < other);

/** cpuset(7), list format. */
function cpuset(field: string, list: string | undefined): string | undefined {
  if (!list) return undefined;
  if (!/^\d+(-\d+(:\d+\/\d+)?)?(,\d+(-\d+(:\d+\/\d+)?)?)*$/.test(list))
    throw invalidArgument(`${field}: ${quoted(list)} is not a list of numbers and ranges`);
  return list;
}

function hugepageLimits(limits: readonly cri.HugepageLimit[]): Resources['hugepageLimits'] {
  if (limits.length === 0) return undefined;
  return limits.map(({ page_size = '', limit }) => {
    if (!/^\d+[KMG]B$/.test(page_size))
      throw invalidArgument(`hugepage_limits.page_size: invalid size ${quoted(page_size)}, expected a size like 2MB`);
    return { pageSize: page_size, limitBytes: byteLimit('hugepage_limits.limit', limit) ?? 0 };
  });
}

function unified(values: Readonly<Record<string, string>>): Resources['unified'] {
  const entries = Object.entries(values);
  for (const [file, value] of entries) {
    if (!/^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$/.test(file)) throw invalidArgument(`unified: ${quoted(file)} is not the name of a cgroup file`);
    // Files such as io.max accept several lines, one per write.
    for (const line of value.split('\n')) singleLine(`unified: ${file}`, line);
  }
  return entries.length === 0 ? undefined : values;
}
