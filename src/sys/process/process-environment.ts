/**
 * Finds and kills processes by a variable in their environment: programs that were started by an earlier daemon which has died.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { endsWithin } from '../../lib/deadline.ts';
import { isErrno } from '../call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../call/syscalls.ts';
import { whenReadable } from './processes.ts';

/**
 * Kills each process that was started with one of the variables, and waits until it has ended.
 *
 * @param variables `NAME=value`, with unique values.
 * @param timeoutMs timeout for each process.
 * @returns how many processes have ended within the timeout.
 */
export async function killByEnvironment(variables: ReadonlySet<string>, timeoutMs: number): Promise<number> {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const killed = await Promise.all(pids.map((pid) => killIfMatching(Number(pid), variables, timeoutMs)));
  return killed.filter((isKilled) => isKilled).length;
}

async function killIfMatching(pid: number, variables: ReadonlySet<string>, timeoutMs: number): Promise<boolean> {
  if (!matches(pid, variables)) return false;
  try {
    return await killIfStillMatching(pid, pidfdOpen(pid), variables, timeoutMs);
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return false;
    throw error;
  }
}

/** Checks again: the pid may have been reused before the pidfd was opened. Closes the pidfd, if necessary after the timeout. */
async function killIfStillMatching(pid: number, pidfd: number, variables: ReadonlySet<string>, timeoutMs: number): Promise<boolean> {
  try {
    if (!matches(pid, variables)) {
      close(pidfd);
      return false;
    }
    pidfdSendSignal(pidfd, constants.signals.SIGKILL);
  } catch (error) {
    close(pidfd);
    throw error;
  }
  return await endsWithin(
    timeoutMs,
    whenReadable(pidfd).finally(() => close(pidfd)),
  );
}

/** Returns false for a process that has ended, or whose environment cannot be read: berth did not start it. */
function matches(pid: number, variables: ReadonlySet<string>): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1')
      .split('\0')
      .some((variable) => variables.has(variable));
  } catch {
    return false;
  }
}
