/**
 * A container's verbose status as text for people: what it is, what its start took, and its plan. Pure.
 */
import type { ContainerStatusResponse } from '../cri/wire/messages.ts';
import { formatUs, type PlanRun } from '../engine/monitor/plan-run.ts';

/** The topics that the daemon's verbose ContainerStatus has. */
type Info = { readonly pid: number; readonly monitorPid: number; readonly cgroupPath: string; readonly sandboxID: string };

/** Values of environment variables are not in it. */
export function explanationOf({ status, info = {} }: ContainerStatusResponse): string {
  const about = parse<Partial<Info>>(info['info'], {});
  const timeline = Object.entries(parse<Record<string, number>>(info['timeline'], {}));
  const plan = parse<readonly string[]>(info['plan'], []);
  const ran = parse<PlanRun>(info['ran'], []);
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
      : [
          `plan, ${plan.length} lines in the order in which they run${ran.length === 0 ? '' : '; microseconds, until the next one that has a time'}`,
          ...planLines(plan, ran),
        ]),
  ].join('\n');
}

/** Each operation with its time, and with what came of it where that was not what it is for. */
function planLines(plan: readonly string[], ran: PlanRun): string[] {
  const operations = ran.values();
  return plan.map((line) => {
    if (ran.length === 0) return `  ${line}`;
    const run = /^(parent|clone|child) /.test(line) ? operations.next().value : undefined;
    const outcome = run === undefined || run.outcome === 'done' ? '' : run.outcome;
    return `${formatUs(run ?? {}).padStart(10)} ${outcome.padEnd(outcomeWidth)} ${line}`;
  });
}

const outcomeWidth = 'unfinished'.length;

function parse<T>(json: string | undefined, otherwise: T): T {
  return json === undefined ? otherwise : (JSON.parse(json) as T);
}
