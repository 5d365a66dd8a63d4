/**
 * Connects to ports of a sandbox, as its own processes would over loopback. No process per connection.
 */
import type { Duplex } from 'node:stream';
import { BerthError, failedPrecondition, failedTo, notFound } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { connectLoopback } from '../../sys/network/net-connect.ts';
import type { EngineDeps } from '../deps.ts';
import { sandboxPaths } from '../sources/sandbox-paths.ts';
import { sandboxState } from '../state/records.ts';

/** On loopback the answer comes at once, unless the listener's queue is full. */
const connectTimeoutMs = 10_000;

/**
 * @param port 1 to 65535.
 * @returns a half-open connection. With the host's network it goes to the host's loopback.
 * @throws {BerthError} UNAVAILABLE when nobody listens; FAILED_PRECONDITION when the sandbox is not ready.
 */
export async function connectPort(deps: EngineDeps, sandboxId: string, port: number): Promise<Duplex> {
  const view = deps.store.sandboxes.get(sandboxId);
  if (view === undefined) throw notFound(`sandbox ${sandboxId} not found`);
  const { name } = view.record.spec.metadata;
  const what = `forwarding to port ${port} of sandbox ${name}`;
  if (sandboxState(view.status) !== 'ready') throw failedPrecondition(`${what}: it is not ready`);
  try {
    return (await connectLoopback(sandboxPaths(deps, view.record).pins.net ?? null, port, connectTimeoutMs)).setNoDelay(true);
  } catch (error) {
    const failure = failedTo(what, error);
    throw isErrno(error, 'ECONNREFUSED') ? new BerthError('UNAVAILABLE', failure.message, error) : failure;
  }
}
