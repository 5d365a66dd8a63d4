/**
 * Follows what the kernel kills in containers for want of memory: one line in the log, one count, and a report in the status for each.
 *
 * One reader for the whole daemon. Whether a container was OOM-killed is decided at its end (exits.ts), with the counters of its cgroup, which need no log.
 */
import type { Log } from '../../lib/log.ts';
import type { KernelLog } from '../../sys/process/kernel-log.ts';
import type { LimitHolder, OomKill, OomVictim } from '../state/oom-kill.ts';
import { type ContainerView, containerState } from '../state/records.ts';
import type { Store } from '../state/store.ts';
import { containerOfKill, describeVictim, toVictim } from './oom-report.ts';
import { createOomScanner } from './oom-scan.ts';

export type OomKills = {
  /** Takes in what the log holds by now: after it, the status of a container has all that is known. */
  readonly catchUp: () => void;
  /** Counts kills of which the log told nothing. */
  readonly countUntold: (kills: number) => void;
  readonly close: () => void;
};

export type OomDeps = {
  readonly store: Store;
  /** null: not to be read on this node; then nothing but the counts is known. */
  readonly kernelLog: KernelLog | null;
  readonly observe?: ((limit: LimitHolder, kills: number) => void) | undefined;
  readonly log: Log;
};

export function createOomKills(deps: OomDeps): OomKills {
  const { kernelLog } = deps;
  const scan = createOomScanner();
  const catchUp = () => {
    const kills = (kernelLog?.read() ?? []).map(scan).filter((kill) => kill !== null);
    for (const kill of kills) takeIn(deps, kill);
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

function takeIn(deps: OomDeps, kill: OomKill): void {
  const views = deps.store.containers.all();
  const view = containerOfKill(kill, deps.kernelLog?.hasOwnPids ? views : views.map(withoutPid));
  // The log goes back to the boot: what an earlier daemon has seen, or an earlier end has settled, is known.
  if (view === undefined || containerState(view.status) === 'exited' || kill.sequence <= (view.status.oom?.last.sequence ?? -1)) return;
  const victim = toVictim(kill, view, deps.store.sandboxes.get(view.record.sandboxId)?.record.spec.cgroupParent !== '');
  // A status that is not on disk is made again from the log by the next daemon.
  deps.store.containers.updateBestEffort(view.record.id, (status) => ({
    ...status,
    oom: { kills: (status.oom?.kills ?? 0) + 1, last: keptVictim(status.oom?.last, victim) },
  }));
  deps.observe?.(victim.limit, 1);
  if (!victim.isOfGroup) tell(deps.log, view, victim);
}

function withoutPid({ record, status: { process: _, ...status } }: ContainerView): ContainerView {
  return { record, status };
}

/** Those that went down with the victim tell less than it does. */
function keptVictim(before: OomVictim | undefined, victim: OomVictim): OomVictim {
  return victim.isOfGroup && before !== undefined ? { ...before, sequence: victim.sequence } : victim;
}

function tell(log: Log, { record }: ContainerView, victim: OomVictim): void {
  const { pid, command, limit, limitBytes, memory } = victim;
  log.warn({ id: record.id, name: record.spec.metadata.name, pid, command, limit, limitBytes, ...memory }, describeVictim(victim));
}
