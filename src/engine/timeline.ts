/**
 * How long each step of a pod's start took: a stopwatch around the steps, and what it leaves in a status. Pure.
 */

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
  | 'start.monitor';

/** Milliseconds by step, in the order of the steps. */
export type Timeline = Readonly<Partial<Record<Step, number>>>;

export type Stopwatch = {
  /** Does one step of the work, whose end is a promise's if it gives one. A step that fails counts as well. */
  readonly step: <T>(name: Step, work: () => T) => T;
  /** What has been done so far. */
  readonly timeline: () => Timeline;
};

/** @param observe told of each step when it ends. @param nowMs a clock that never goes back. */
export function createStopwatch(observe?: (step: Step, seconds: number) => void, nowMs: () => number = () => performance.now()): Stopwatch {
  const timeline: Partial<Record<Step, number>> = {};
  const step = <T>(name: Step, work: () => T): T => {
    const startedAtMs = nowMs();
    const end = () => {
      const ms = nowMs() - startedAtMs;
      timeline[name] = Math.round(ms * 1000) / 1000;
      observe?.(name, ms / 1000);
    };
    let isPending = false;
    try {
      const result = work();
      isPending = result instanceof Promise;
      return isPending ? ((result as Promise<unknown>).finally(end) as T) : result;
    } finally {
      if (!isPending) end();
    }
  };
  return { step, timeline: () => ({ ...timeline }) };
}
