/**
 * Adds the run of a plan to its span, as three parts: the operations of the parent, the clone, and the operations of the child. Pure.
 */
import type { Attributes, Span } from '../../lib/spans.ts';
import type { Plan } from '../plan/plan.ts';
import type { PlanRun, RunTimes } from './plan-run.ts';

/** Adds the parts to a span. @param clock performance.now(), and CLOCK_MONOTONIC in nanoseconds at the same time. */
export function addPlanParts(
  span: Span,
  plan: Plan,
  { run, times }: { readonly run: PlanRun; readonly times: RunTimes },
  clock: { readonly nowMs: number; readonly monotonicNs: number } = { nowMs: performance.now(), monotonicNs: Number(process.hrtime.bigint()) },
): void {
  if (!span.isRecorded || times.endedNs === 0) return;
  const toMs = (ns: number) => clock.nowMs + (ns - clock.monotonicNs) / 1e6;
  const part = (name: string, fromNs: number, untilNs: number, attributes: Attributes) => {
    if (fromNs !== 0) span.addPart(name, toMs(fromNs), toMs(untilNs || times.endedNs), attributes);
  };
  const clone = plan.parent.length;
  part('plan.parent', plan.parent.length === 0 ? 0 : times.beganNs, times.clonedNs, slowest(plan.parent, run.slice(0, clone)));
  part('plan.clone', times.clonedNs, times.childNs, {});
  part('plan.child', times.childNs, times.endedNs, slowest(plan.child, run.slice(clone + 1)));
}

/** Returns the part of a MonitorRequest that adds the parts to a span. If the span is not recorded, the monitor does not stamp the operations. */
export function planParts(span: Span, plan: Plan): { readonly ran?: (run: { readonly run: PlanRun; readonly times: RunTimes }) => void } {
  return span.isRecorded ? { ran: (run) => addPlanParts(span, plan, run) } : {};
}

/** Returns attributes for the slowest operation. They contain its note, never its arguments. */
function slowest(operations: Plan['parent'], run: PlanRun): Attributes {
  const worst = run.reduce((most, { us = 0 }, index) => (us > most.us ? { us, index } : most), { us: 0, index: 0 });
  return { 'plan.operations': run.length, 'plan.slowest': operations[worst.index]?.note ?? '', 'plan.slowest_us': worst.us };
}
