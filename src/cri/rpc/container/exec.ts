/**
 * Exec: returns a URL at which one client can run a program in a container. The program starts when the client has connected.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName, withoutNul } from '../../from-request/checks.ts';
import { flagsFromRequest } from '../../from-request/stream-flags.ts';
import type { ExecRequest, ExecResponse } from '../../wire/messages.ts';
import { requireRunning } from '../running.ts';

/** @throws {BerthError} INVALID_ARGUMENT without a command or a stream, FAILED_PRECONDITION if the container is not running. */
export async function exec({ engine, streaming }: Pick<CriDeps, 'engine' | 'streaming'>, request: ExecRequest): Promise<ExecResponse> {
  const container = engine.container(requiredName('container_id', request.container_id));
  const argv = (request.cmd ?? []).map((word) => withoutNul('cmd', word));
  if (argv.length === 0) throw invalidArgument('cmd: missing');
  requireRunning('exec in', container);
  return { url: streaming.prepareExec({ containerId: container.record.id, argv, ...flagsFromRequest(request) }) };
}
