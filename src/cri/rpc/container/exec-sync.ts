/**
 * ExecSync: runs a program in a container and gives back what it printed. Liveness probes are this.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName, withoutNul } from '../../from-request/checks.ts';
import { secondsToMs } from '../../from-request/seconds.ts';
import type { ExecSyncRequest, ExecSyncResponse } from '../../wire/messages.ts';

/**
 * An exit code other than 0 is an answer, not an error.
 *
 * @throws {BerthError} INVALID_ARGUMENT without a command, DEADLINE_EXCEEDED after the timeout, else as the engine.
 */
export async function execSync({ engine }: Pick<CriDeps, 'engine'>, request: ExecSyncRequest, signal: AbortSignal): Promise<ExecSyncResponse> {
  const id = requiredName('container_id', request.container_id);
  const argv = (request.cmd ?? []).map((word) => withoutNul('cmd', word));
  if (argv.length === 0) throw invalidArgument('cmd: it is missing');
  const { stdout, stderr, exitCode } = await engine.execSync(id, argv, secondsToMs(request.timeout), signal);
  return { stdout, stderr, exit_code: exitCode };
}
