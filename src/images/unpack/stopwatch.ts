/**
 * Measures how long each stage of unpacking a layer takes. Pure, except for the clock.
 */

export type LayerStage = 'wait' | 'digest' | 'decompress' | 'diffId' | 'files';

/** Milliseconds by stage: waiting for bytes, hashing them, decompressing, hashing the tar, writing files. */
export type LayerTimes = Readonly<Record<LayerStage, number>>;

export type Stopwatch = {
  /** Ends the current stage and starts this one. */
  readonly enter: (stage: LayerStage) => void;
  readonly times: () => LayerTimes;
};

/** Starts in the stage `wait`. */
export function startStopwatch(nowMs: () => number = () => performance.now()): Stopwatch {
  const times: Record<LayerStage, number> = { wait: 0, digest: 0, decompress: 0, diffId: 0, files: 0 };
  let stage: LayerStage = 'wait';
  let sinceMs = nowMs();
  const enter = (next: LayerStage): void => {
    const atMs = nowMs();
    times[stage] += atMs - sinceMs;
    sinceMs = atMs;
    stage = next;
  };
  return {
    enter,
    times: () => {
      enter(stage);
      return { ...times };
    },
  };
}

/** Adds the times of several layers, rounded to milliseconds. */
export function sumTimes(all: readonly LayerTimes[]): LayerTimes {
  const sum = (stage: LayerStage): number => Math.round(all.reduce((total, times) => total + times[stage], 0));
  return { wait: sum('wait'), digest: sum('digest'), decompress: sum('decompress'), diffId: sum('diffId'), files: sum('files') };
}

/** Returns the attributes of a span. The stages are sums, not spans, because they alternate for each chunk. */
export function timesToAttributes(times: LayerTimes): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(times).map(([stage, ms]) => [`layer.${stage}_ms`, Math.round(ms * 1000) / 1000]));
}
