/**
 * Processes known by what is in their environment: programs that a daemon started and did not live to see the end of.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { endsWithin } from '../../lib/deadline.ts';
import { isErrno } from '../call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../call/syscalls.ts';
import { whenReadable } from './processes.ts';

/**
 * Kills each process that was started with one of these variables, and waits until it has ended.
 *
 * @param variables `NAME=value`, values that nobody else has.
 * @param timeoutMs for each of them; one that does not die is left.
 * @returns how many were killed.
 */
export async function killByEnvironment(variables: ReadonlySet<string>, timeoutMs: number): Promise<number> {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const killed = await Promise.all(pids.map((pid) => killIfIts(Number(pid), variables, timeoutMs)));
  return killed.filter((isKilled) => isKilled).length;
}

async function killIfIts(pid: number, variables: ReadonlySet<string>, timeoutMs: number): Promise<boolean> {
  if (!hasOne(pid, variables)) return false;
  try {
    const pidfd = pidfdOpen(pid);
    // The pidfd is of whoever has the pid now.
    const isStillIts = hasOne(pid, variables);
    if (isStillIts) pidfdSendSignal(pidfd, constants.signals.SIGKILL);
    else close(pidfd);
    return (
      isStillIts &&
      (await endsWithin(
        timeoutMs,
        whenReadable(pidfd).finally(() => close(pidfd)),
      ))
    );
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return false;
    throw error;
  }
}

/** False for a process that has ended, and for one that hides its environment: it is none of ours. */
function hasOne(pid: number, variables: ReadonlySet<string>): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1')
      .split('\0')
      .some((variable) => variables.has(variable));
  } catch {
    return false;
  }
}
