/**
 * Decodes how a plan ran from the memory that the monitor shares with the daemon, and converts it to text and back. Pure.
 *
 * The monitor stamps when each operation started, and its outcome.
 */
import { getSystemErrorName } from 'node:util';
import type { Plan } from '../plan/plan.ts';

/** An operation of the parent or the child, or the clone between them. */
export type OperationRun = {
  /** Microseconds; undefined after the seccomp filter, which may forbid reading the clock: the time is part of the operation before. */
  readonly us?: number;
  /** `unfinished`: it failed, or it is the last one, whose execve does not return. `E…`: the errno that was tolerated. */
  readonly outcome: 'done' | 'skipped' | 'unfinished' | `E${string}`;
};

/** In the order of the plan, with the clone between parent and child, up to the last operation that started. */
export type PlanRun = readonly OperationRun[];

/** Nanoseconds of CLOCK_MONOTONIC. `clonedNs` and `childNs` are 0 if that part did not start. */
export type RunTimes = { readonly beganNs: number; readonly clonedNs: number; readonly childNs: number; readonly endedNs: number };

/** struct stamp of src/monitor/monitor.h. */
const stampBytes = 16;
const done = 1n;
const skipped = 2n;

/** Returns the size of the shared memory: one stamp for each operation, one for the clone, one for the end. */
export const stampsBytes = (plan: Plan): number => (plan.parent.length + plan.child.length + 2) * stampBytes;

/** Decodes the stamps of a plan. */
export function readRun(plan: Plan, stamps: Buffer): { readonly run: PlanRun; readonly times: RunTimes } {
  const began = (index: number) => Number(stamps.readBigUInt64LE(index * stampBytes));
  const clone = plan.parent.length;
  const end = stamps.length / stampBytes - 1;
  const outcomes: OperationRun['outcome'][] = [];
  for (let index = 0; index < end && outcomes.at(-1) !== 'unfinished' && began(0) !== 0; index += 1) {
    const stamped = index === clone ? BigInt(Math.sign(began(clone + 1))) : stamps.readBigInt64LE(index * stampBytes + 8);
    outcomes.push(outcomeOf(stamped));
  }
  let nextNs = began(end);
  // From the end backwards: an operation lasts until the next one with a timestamp starts.
  const run = outcomes
    .map((outcome, index) => ({ outcome, index }))
    .reverse()
    .map(({ outcome, index }): OperationRun => {
      const [beganNs, untilNs] = [began(index), nextNs];
      if (beganNs === 0) return { outcome };
      nextNs = beganNs;
      return untilNs === 0 ? { outcome } : { us: (untilNs - beganNs) / 1000, outcome };
    })
    .reverse();
  return { run, times: { beganNs: began(0), clonedNs: began(clone), childNs: began(clone + 1), endedNs: began(end) } };
}

function outcomeOf(stamped: bigint): OperationRun['outcome'] {
  if (stamped === done) return 'done';
  if (stamped === skipped) return 'skipped';
  return stamped < 0n ? (getSystemErrorName(Number(stamped)) as `E${string}`) : 'unfinished';
}

/** Returns one word for each operation, such as `12`, `0.1,skipped`, `0.4,ENOENT` and, without a time, `,done`. */
export function formatRun(run: PlanRun): string {
  return run.map((each) => `${formatUs(each)}${each.us !== undefined && each.outcome === 'done' ? '' : `,${each.outcome}`}`).join(' ');
}

/** Returns the time with one decimal below 10 us, else without; '' if there is no time. */
export function formatUs({ us }: Pick<OperationRun, 'us'>): string {
  return us?.toFixed(us < 10 ? 1 : 0) ?? '';
}

/** Parses the result of formatRun(). */
export function parseRun(text: string): PlanRun {
  return text
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => {
      const [us = '', outcome = 'done'] = word.split(',');
      return { ...(us === '' ? {} : { us: Number(us) }), outcome: outcome as OperationRun['outcome'] };
    });
}
