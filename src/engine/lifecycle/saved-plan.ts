/**
 * The plan that a container was started with and how it ran, as text beside its status: for `berth explain`, also after a start that failed.
 *
 * Holds the names of environment variables and never their values. Nothing depends on it: what cannot be written is not there.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../../lib/errors.ts';
import type { EngineDeps } from '../deps.ts';
import { formatRun, type PlanRun, parseRun } from '../monitor/plan-run.ts';
import { describePlan } from '../plan/describe-plan.ts';
import type { Plan } from '../plan/plan.ts';

type KeepDeps = Pick<EngineDeps, 'store' | 'log'>;

const pathOf = ({ store }: Pick<KeepDeps, 'store'>, id: string): string => join(store.containers.directory(id), 'plan.txt');

/** Never throws. */
export function savePlan(deps: KeepDeps, id: string, plan: Plan): void {
  try {
    writeFileSync(pathOf(deps, id), describePlan(plan), { mode: 0o600 });
  } catch (error) {
    deps.log.debug({ id, reason: reasonOf(error) }, 'the plan is not kept');
  }
}

/** For a plan that is kept. In the same file, whose last page it mostly fits into. Never throws. */
export function saveRun(deps: KeepDeps, id: string, run: PlanRun): void {
  try {
    appendFileSync(pathOf(deps, id), `\n${runWord}${formatRun(run)}`);
  } catch (error) {
    deps.log.debug({ id, reason: reasonOf(error) }, 'how the plan ran is not kept');
  }
}

/** The first word of the line that says how it ran. */
const runWord = 'ran ';

/** @returns `plan`: a line per operation, and a few besides; `ran`: how each operation, and the clone, went. Undefined before the container's start. */
export function readSavedPlan(deps: Pick<KeepDeps, 'store'>, id: string): { readonly plan: readonly string[]; readonly ran: PlanRun } | undefined {
  try {
    const lines = readFileSync(pathOf(deps, id), 'utf8').split('\n');
    const ran = lines.filter((line) => line.startsWith(runWord)).at(-1);
    return { plan: lines.filter((line) => !line.startsWith(runWord)), ran: parseRun(ran?.slice(runWord.length) ?? '') };
  } catch {
    return undefined;
  }
}
