/**
 * The plan that a container was started with, as text beside its status: for `berth explain`, also after a start that failed.
 *
 * Holds the names of environment variables and never their values. Nothing depends on it: what cannot be written is not there.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../lib/errors.ts';
import type { EngineDeps } from './deps.ts';
import { describePlan } from './describe-plan.ts';
import type { Plan } from './plan.ts';

type KeepDeps = Pick<EngineDeps, 'store' | 'log'>;

const pathOf = ({ store }: Pick<KeepDeps, 'store'>, id: string): string => join(store.containers.directory(id), 'plan.txt');

/** Never throws. */
export function keepPlan(deps: KeepDeps, id: string, plan: Plan): void {
  try {
    writeFileSync(pathOf(deps, id), describePlan(plan), { mode: 0o600 });
  } catch (error) {
    deps.log.debug({ id, reason: reasonOf(error) }, 'the plan is not kept');
  }
}

/** @returns a line per operation; undefined before the container's start. */
export function readPlan(deps: Pick<KeepDeps, 'store'>, id: string): readonly string[] | undefined {
  try {
    return readFileSync(pathOf(deps, id), 'utf8').split('\n');
  } catch {
    return undefined;
  }
}
