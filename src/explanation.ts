/**
 * A container's verbose status as text for people: what it is, what its start took, and its plan. Pure.
 */
import type { ContainerStatusResponse } from './cri/messages.ts';

/** The topics that the daemon's verbose ContainerStatus has. */
type Info = { readonly pid: number; readonly monitorPid: number; readonly cgroupPath: string; readonly sandboxID: string };

/** Values of environment variables are not in it. */
export function explanationOf({ status, info = {} }: ContainerStatusResponse): string {
  const about = parse<Partial<Info>>(info['info'], {});
  const timeline = Object.entries(parse<Record<string, number>>(info['timeline'], {}));
  const plan = parse<readonly string[]>(info['plan'], []);
  const total = timeline.reduce((sum, [, ms]) => sum + ms, 0);
  return [
    `container ${status?.id} (${status?.metadata?.name}, attempt ${status?.metadata?.attempt ?? 0}): ${status?.state?.replace('CONTAINER_', '').toLowerCase()}`,
    ...(status?.message ? [`message   ${status.message}`] : []),
    `image     ${status?.image?.image ?? ''}`,
    `sandbox   ${about.sandboxID}`,
    `cgroup    ${about.cgroupPath}`,
    ...(about.pid ? [`pid       ${about.pid}, started by monitor ${about.monitorPid}`] : []),
    '',
    'time in ms, by step',
    ...[...timeline, ['sum', total] as const].map(([step, ms]) => `  ${step.padEnd(16)}${ms.toFixed(3).padStart(12)}`),
    '',
    ...(plan.length === 0
      ? ['no plan: it has not been started']
      : [`plan, ${plan.length} lines in the order in which they run`, ...plan.map((line) => `  ${line}`)]),
  ].join('\n');
}

function parse<T>(json: string | undefined, otherwise: T): T {
  return json === undefined ? otherwise : (JSON.parse(json) as T);
}
