/**
 * Follows OOM kills in containers. For each it writes a log line, increments a metric, and adds a report to the container's status.
 *
 * There is one reader for the whole daemon. Whether a container was OOM-killed is decided at its exit (exits.ts) from the counters of its cgroup, which
 * do not depend on the kernel log.
 */
import type { Log } from '../../lib/log.ts';
import type { KernelLog } from '../../sys/process/kernel-log.ts';
import type { LimitHolder, OomKill, OomVictim } from '../state/oom-kill.ts';
import { type ContainerView, containerState } from '../state/records.ts';
import type { Store } from '../state/store.ts';
import { containerOfKill, describeVictim, toVictim } from './oom-report.ts';
import { createOomScanner } from './oom-scan.ts';

export type OomKills = {
  /** Processes all new records of the kernel log. Afterwards the status of each container is up to date. */
  readonly catchUp: () => void;
  /** Counts kills that the kernel log did not report. */
  readonly countUntold: (kills: number) => void;
  readonly close: () => void;
};

export type OomDeps = {
  readonly store: Store;
  /** null: the kernel log cannot be read on this node; then only the number of kills is known. */
  readonly kernelLog: KernelLog | null;
  readonly observe?: ((limit: LimitHolder, kills: number) => void) | undefined;
  readonly log: Log;
};

export function createOomKills(deps: OomDeps): OomKills {
  const { kernelLog } = deps;
  const scan = createOomScanner();
  const catchUp = () => {
    const kills = (kernelLog?.read() ?? []).map(scan).filter((kill) => kill !== null);
    for (const kill of kills) handleKill(deps, kill);
  };
  kernelLog?.watch(catchUp);
  return {
    catchUp,
    countUntold: (kills) => {
      if (kills > 0) deps.observe?.('unknown', kills);
    },
    close: () => kernelLog?.close(),
  };
}

function handleKill(deps: OomDeps, kill: OomKill): void {
  const views = deps.store.containers.all();
  const view = containerOfKill(kill, deps.kernelLog?.hasOwnPids ? views : views.map(withoutPid));
  // The log starts at the boot: skip kills that an earlier daemon has handled, and those in containers that have exited.
  if (view === undefined || containerState(view.status) === 'exited' || kill.sequence <= (view.status.oom?.last.sequence ?? -1)) return;
  const victim = toVictim(kill, view, deps.store.sandboxes.get(view.record.sandboxId)?.record.spec.cgroupParent !== '');
  // Best effort: if the status is lost, the next daemon derives it again from the log.
  deps.store.containers.updateBestEffort(view.record.id, (status) => ({
    ...status,
    oom: { kills: (status.oom?.kills ?? 0) + 1, last: keptVictim(status.oom?.last, victim) },
  }));
  deps.observe?.(victim.limit, 1);
  if (!victim.isOfGroup) logKill(deps.log, view, victim);
}

function withoutPid({ record, status: { process: _, ...status } }: ContainerView): ContainerView {
  return { record, status };
}

/** Keeps the report of the victim instead of those of processes killed with it (memory.oom.group), which contain less. */
function keptVictim(previous: OomVictim | undefined, victim: OomVictim): OomVictim {
  return victim.isOfGroup && previous !== undefined ? { ...previous, sequence: victim.sequence } : victim;
}

function logKill(log: Log, { record }: ContainerView, victim: OomVictim): void {
  const { pid, command, limit, limitBytes, memory } = victim;
  log.warn({ id: record.id, name: record.spec.metadata.name, pid, command, limit, limitBytes, ...memory }, describeVictim(victim));
}
