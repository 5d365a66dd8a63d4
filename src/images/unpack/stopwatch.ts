/**
 * Where the time of a layer goes: one stage at a time, each with its milliseconds. Pure but for the clock.
 */

export type LayerStage = 'wait' | 'digest' | 'decompress' | 'diffId' | 'files';

/** Milliseconds by stage: waiting for bytes, hashing them, decompressing, hashing the tar, making files of it. */
export type LayerTimes = Readonly<Record<LayerStage, number>>;

export type Stopwatch = {
  /** From now on time goes to this stage. */
  readonly enter: (stage: LayerStage) => void;
  readonly times: () => LayerTimes;
};

/** Begins with waiting. */
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

/** Of several layers; whole milliseconds. */
export function sumTimes(all: readonly LayerTimes[]): LayerTimes {
  const sum = (stage: LayerStage): number => Math.round(all.reduce((total, times) => total + times[stage], 0));
  return { wait: sum('wait'), digest: sum('digest'), decompress: sum('decompress'), diffId: sum('diffId'), files: sum('files') };
}

/** For a span: downloading and unpacking go on at the same time, so that their parts are sums and not spans. */
export function timesToAttributes(times: LayerTimes): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(times).map(([stage, ms]) => [`layer.${stage}_ms`, Math.round(ms * 1000) / 1000]));
}
