/**
 * Measures how long each step of a pod's start takes. Pure.
 *
 * The only source of steps: the status, the metrics and the traces all use it.
 */
import { type Span, type Trace, untraced, whenOver } from '../../lib/spans.ts';

/** In the order in which they run. Each is also a metric label: there are few, and none comes from outside. */
export type Step =
  | 'sandbox.files'
  | 'sandbox.namespaces'
  | 'sandbox.reaper'
  | 'sandbox.network'
  | 'create.root'
  | 'create.cgroup'
  | 'create.plan'
  | 'start.root'
  | 'start.plan'
  | 'start.hooks'
  | 'start.monitor';

/** Milliseconds by step, in the order of the steps. */
export type Timeline = Readonly<Partial<Record<Step, number>>>;

export type Stopwatch = {
  /** Runs one step and measures it; if `work` returns a promise, until that settles. Failed steps count too. */
  readonly step: <T>(name: Step, work: (span: Span) => T) => T;
  /** The steps so far. */
  readonly timeline: () => Timeline;
};

/** Observers of steps. */
export type StepWatchers = {
  /** Called when a step ends. */
  readonly observeStep?: (step: Step, seconds: number) => void;
  /** Records each step as a span. */
  readonly trace?: Trace;
};

/** @param nowMs a monotonic clock. */
export function createStopwatch({ observeStep, trace = untraced }: StepWatchers, nowMs: () => number = () => performance.now()): Stopwatch {
  const timeline: Partial<Record<Step, number>> = {};
  const step = <T>(name: Step, work: (span: Span) => T): T => {
    const startedAtMs = nowMs();
    const end = () => {
      const ms = nowMs() - startedAtMs;
      timeline[name] = Math.round(ms * 1000) / 1000;
      observeStep?.(name, ms / 1000);
    };
    return whenOver(() => trace(name, work), end);
  };
  return { step, timeline: () => ({ ...timeline }) };
}
