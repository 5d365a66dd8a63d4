/**
 * Connects to ports on a sandbox's loopback interface. Does not start a process for a connection.
 */
import type { Duplex } from 'node:stream';
import { BerthError, failedPrecondition, failedTo, notFound } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { connectLoopback } from '../../sys/network/net-connect.ts';
import type { EngineDeps } from '../deps.ts';
import { sandboxPaths } from '../sources/sandbox-paths.ts';
import { sandboxState } from '../state/records.ts';

/** On loopback a connection succeeds or fails at once, unless the listener's queue is full. */
const connectTimeoutMs = 10_000;

/**
 * Connects to a port of a sandbox; with host network, on the host's loopback interface.
 *
 * @param port 1 to 65535.
 * @returns a connection that may be half-open.
 * @throws {BerthError} UNAVAILABLE if nothing listens on the port; FAILED_PRECONDITION if the sandbox is not ready.
 */
export async function connectPort(deps: EngineDeps, sandboxId: string, port: number): Promise<Duplex> {
  const view = deps.store.sandboxes.get(sandboxId);
  if (view === undefined) throw notFound(`sandbox ${sandboxId} not found`);
  const { name } = view.record.spec.metadata;
  const attempt = `forward port ${port} of sandbox ${name}`;
  if (sandboxState(view.status) !== 'ready') throw failedPrecondition(`${attempt}: the sandbox is not ready`);
  try {
    return (await connectLoopback(sandboxPaths(deps, view.record).pins.net ?? null, port, connectTimeoutMs)).setNoDelay(true);
  } catch (error) {
    const failure = failedTo(attempt, error);
    throw isErrno(error, 'ECONNREFUSED') ? new BerthError('UNAVAILABLE', failure.message, error) : failure;
  }
}
