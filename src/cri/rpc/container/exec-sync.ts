/**
 * ExecSync: runs a program in a container and returns its output, for example for liveness probes.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName, withoutNul } from '../../from-request/checks.ts';
import { secondsToMs } from '../../from-request/seconds.ts';
import type { ExecSyncRequest, ExecSyncResponse } from '../../wire/messages.ts';

/**
 * A non-zero exit code is a response, not an error.
 *
 * @throws {BerthError} INVALID_ARGUMENT without a command, DEADLINE_EXCEEDED after the timeout, else as the engine.
 */
export async function execSync({ engine }: Pick<CriDeps, 'engine'>, request: ExecSyncRequest, signal: AbortSignal): Promise<ExecSyncResponse> {
  const id = requiredName('container_id', request.container_id);
  const argv = (request.cmd ?? []).map((word) => withoutNul('cmd', word));
  if (argv.length === 0) throw invalidArgument('cmd: missing');
  const { stdout, stderr, exitCode } = await engine.execSync(id, argv, secondsToMs(request.timeout), signal);
  return { stdout, stderr, exit_code: exitCode };
}
