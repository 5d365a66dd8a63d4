/**
 * The end of a container: its monitor goes, what it left becomes the status, and what is left of its processes ends.
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

/** How long the processes that a container leaves in its cgroup may take to die of SIGKILL before they are only reported. */
const leftoverTimeoutMs = 5_000;

/** Follows a running container to its end. */
export function watchExit(deps: EngineDeps, id: string, monitor: ProcessIdentity): void {
  deps.watches.add(id, () => {
    const exited = monitorEnded(monitor).then(() => recordExit(deps, id));
    // A container whose end cannot be recorded stays RUNNING in the status: loud, and tried again at the next start.
    exited.catch((error: unknown) => deps.log.error({ id, reason: reasonOf(error) }, "recording a container's end failed"));
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

/** Makes a container EXITED from the record of its monitor; without one it was lost. For a container whose monitor is gone. */
export async function recordExit(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view === undefined) return;
  const { cgroupPath } = view.record;
  // Before the status says EXITED: the verdict, which goes with the cgroup, and the end of whatever else ran in it.
  const counted = await oomKills(deps.cgroups, cgroupPath);
  const left = await killCgroup(deps.cgroups, cgroupPath, leftoverTimeoutMs);
  if (left.length > 0) deps.log.warn({ id, pids: left }, 'processes of an ended container do not die');
  const record = await readExitRecord(deps.store.containers.directory(id));
  // Of what the kernel killed, its log tells before the process is dead, and still when the cgroup is gone: below systemd that goes with its last process,
  // at times before even the monitor has looked.
  deps.oomKills.catchUp();
  const told = deps.store.containers.get(id) ?? view;
  const toldKills = told.status.oom?.kills ?? 0;
  const kills = Math.max(counted ?? 0, record?.oomKills ?? 0, toldKills);
  deps.oomKills.countUntold(kills - toldKills);
  const end = describeEnd(told, record, kills, deps.clock.nowNs());
  const unwritten = deps.store.containers.updateBestEffort(id, (status) => ({ ...status, ...end }));
  if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, "a container's end is not on disk yet");
  deps.observeEnd?.(end.reason);
  deps.log.info({ id, name: view.record.spec.metadata.name, exitCode: end.exitCode, reason: end.reason }, 'container ended');
  await deps.cgroupDriver
    .remove(cgroupPath)
    .catch((error: unknown) => deps.log.warn({ id, reason: reasonOf(error) }, 'left for the removal of the container'));
}

/** Exit code of a container whose end nobody saw. */
const lostExitCode = 255;

type End = Pick<ContainerStatus, 'finishedAtNs' | 'exitCode' | 'message'> & { readonly reason: EndReason };

/** What the status says of an end. A clock that was set back does not let it end before it began. */
export function describeEnd({ status }: ContainerView, record: ExitRecord | null, oomKillCount: number, nowNs: string): End {
  const notBefore = BigInt(status.startedAtNs ?? 0);
  const later = (time: bigint) => String(time > notBefore ? time : notBefore);
  if (record === null) {
    return {
      finishedAtNs: later(BigInt(nowNs)),
      exitCode: lostExitCode,
      reason: 'Unknown',
      message: 'the monitor of the container ended without a record of its exit',
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

/** Without the kernel's log only the number is known. */
function describeOom({ oom }: ContainerStatus, kills: number): string {
  if (oom !== undefined) return describeVictim(oom.last);
  return `OOM-killed: ${kills} ${kills === 1 ? 'process' : 'processes'} of the container`;
}
