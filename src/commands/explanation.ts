/**
 * `berth explain`: formats the verbose status of a container as text: its state, the duration of its start, and its plan. Pure.
 */
import type { ContainerStatusResponse } from '../cri/wire/messages.ts';
import { formatUs, type PlanRun } from '../engine/monitor/plan-run.ts';

/** Part of the JSON value `info` in the daemon's verbose ContainerStatus. */
type Info = { readonly pid: number; readonly monitorPid: number; readonly cgroupPath: string; readonly sandboxID: string };

/** Returns the text. It contains no values of environment variables. */
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
    ...(about.pid ? [`pid       ${about.pid} (monitor ${about.monitorPid})`] : []),
    '',
    'duration of each step, in ms',
    ...[...timeline, ['total', total] as const].map(([step, ms]) => `  ${step.padEnd(16)}${ms.toFixed(3).padStart(12)}`),
    '',
    ...(plan.length === 0
      ? ['no plan: the container has not been started']
      : [
          `plan, ${plan.length} lines in execution order${ran.length === 0 ? '' : '; time in μs, up to the next timed operation'}`,
          ...planLines(plan, ran),
        ]),
  ].join('\n');
}

/** Prefixes each operation with its time, and with its outcome unless it succeeded. */
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

function parse<T>(json: string | undefined, fallback: T): T {
  return json === undefined ? fallback : (JSON.parse(json) as T);
}
