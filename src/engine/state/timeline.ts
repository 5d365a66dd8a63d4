/**
 * How long each step of a pod's start took: a stopwatch around the steps, and what it leaves in a status. Pure.
 *
 * The one source of steps: the status, the metrics and the traces have them from here.
 */
import { type Span, type Trace, untraced, whenOver } from '../../lib/spans.ts';

/** In the order in which a pod takes them. Each is a label of a metric, too: few, and never from outside. */
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
  /** Does one step of the work, whose end is a promise's if it gives one. A step that fails counts as well. */
  readonly step: <T>(name: Step, work: (span: Span) => T) => T;
  /** What has been done so far. */
  readonly timeline: () => Timeline;
};

/** Who wants to know of steps. */
export type StepWatchers = {
  /** Told of each step when it ends. */
  readonly observeStep?: (step: Step, seconds: number) => void;
  /** Each step is a span. */
  readonly trace?: Trace;
};

/** @param nowMs a clock that never goes back. */
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
