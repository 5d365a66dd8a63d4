/**
 * Handles the exit of a container: waits for its monitor, copies the exit record to the status, and kills the remaining processes.
 */
import { reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, pidfdOpen } from '../../sys/call/syscalls.ts';
import { killCgroup } from '../../sys/cgroup/cgroup-processes.ts';
import { oomKills } from '../../sys/cgroup/cgroup-values.ts';
import { processStartTime, reap, whenReadable } from '../../sys/process/processes.ts';
import type { EngineDeps } from '../deps.ts';
import { type ExitRecord, readExitRecord } from '../monitor/monitor.ts';
import { describeVictim } from '../oom/oom-report.ts';
import type { ContainerStatus, ContainerView, EndReason, ProcessIdentity } from '../state/records.ts';

/** Timeout for SIGKILL of the processes that remain in the cgroup. After that they are only reported. */
const leftoverTimeoutMs = 5_000;

/** Watches a running container, and records its exit. */
export function watchExit(deps: EngineDeps, id: string, monitor: ProcessIdentity): void {
  deps.watches.add(id, () => {
    const exited = monitorEnded(monitor).then(() => recordExit(deps, id));
    // If the exit cannot be recorded, the status remains RUNNING, and the next start of the daemon tries again.
    exited.catch((error: unknown) => deps.log.error({ id, reason: reasonOf(error) }, 'failed to record the exit of a container'));
    return exited;
  });
}

async function monitorEnded(monitor: ProcessIdentity): Promise<void> {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(monitor.pid);
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return;
    throw error;
  }
  try {
    if (processStartTime(monitor.pid) === monitor.startTime) await whenReadable(pidfd);
  } finally {
    close(pidfd);
  }
  reap(monitor.pid);
}

/** Sets a container whose monitor has exited to EXITED, from the monitor's exit record. Without a record the reason is `Unknown`. */
export async function recordExit(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined) return;
  const { cgroupPath } = view.record;
  // Before the status changes to EXITED: read the OOM kills, which are lost with the cgroup, and kill all other processes in it.
  const counted = await oomKills(deps.cgroups, cgroupPath);
  const left = await killCgroup(deps.cgroups, cgroupPath, leftoverTimeoutMs);
  if (left.length > 0) deps.log.warn({ id, pids: left }, 'processes of an exited container survive SIGKILL');
  const record = await readExitRecord(deps.store.containers.directory(id));
  // The kernel logs an OOM kill before the process exits, and the log outlives the cgroup. With systemd the cgroup is removed with its last process,
  // sometimes before the monitor has read its counter.
  deps.oomKills.catchUp();
  const current = deps.store.containers.get(id) ?? view;
  const loggedKills = current.status.oom?.kills ?? 0;
  const kills = Math.max(counted ?? 0, record?.oomKills ?? 0, loggedKills);
  deps.oomKills.countUntold(kills - loggedKills);
  const end = describeEnd(current, record, kills, deps.clock.nowNs());
  const unwritten = deps.store.containers.updateBestEffort(id, (status) => ({ ...status, ...end }));
  if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, 'failed to write the status of an exited container');
  deps.observeEnd?.(end.reason);
  deps.log.info({ id, name: view.record.spec.metadata.name, exitCode: end.exitCode, reason: end.reason }, 'container ended');
  await deps.cgroupDriver
    .remove(cgroupPath)
    .catch((error: unknown) => deps.log.warn({ id, reason: reasonOf(error) }, 'failed to remove the cgroup; it is removed with the container'));
}

/** Exit code of a container whose exit was not recorded. */
const lostExitCode = 255;

type End = Pick<ContainerStatus, 'finishedAtNs' | 'exitCode' | 'message'> & { readonly reason: EndReason };

/** Returns the fields of the status for an exit. The end is never before the start, even if the clock was set back. */
export function describeEnd({ status }: ContainerView, record: ExitRecord | null, oomKillCount: number, nowNs: string): End {
  const notBefore = BigInt(status.startedAtNs ?? 0);
  const later = (time: bigint) => String(time > notBefore ? time : notBefore);
  if (record === null) {
    return {
      finishedAtNs: later(BigInt(nowNs)),
      exitCode: lostExitCode,
      reason: 'Unknown',
      message: 'the monitor of the container exited without an exit record',
    };
  }
  const isOom = oomKillCount > 0 && record.exitCode !== 0;
  const messages = [
    ...(isOom ? [describeOom(status, oomKillCount)] : []),
    ...(record.droppedLogBytes > 0 ? [`${record.droppedLogBytes} bytes of output could not be written to the log`] : []),
  ];
  const reason = isOom ? 'OOMKilled' : record.exitCode === 0 ? 'Completed' : 'Error';
  return {
    finishedAtNs: later(record.finishedAtNs),
    exitCode: record.exitCode,
    reason,
    ...(messages.length > 0 ? { message: messages.join('; ') } : {}),
  };
}

/** Without the kernel log only the number of kills is known. */
function describeOom({ oom }: ContainerStatus, kills: number): string {
  if (oom !== undefined) return describeVictim(oom.last);
  return `OOM-killed: ${kills} ${kills === 1 ? 'process' : 'processes'} of the container`;
}
