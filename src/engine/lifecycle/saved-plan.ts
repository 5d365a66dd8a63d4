/**
 * Saves the plan of a container's start and the timing of its operations as text beside the status, for `berth explain`, also after a failed start.
 *
 * Contains the names of environment variables, but never their values. Best effort: nothing depends on the file.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../../lib/errors.ts';
import type { EngineDeps } from '../deps.ts';
import { formatRun, type PlanRun, parseRun } from '../monitor/plan-run.ts';
import { describePlan } from '../plan/describe-plan.ts';
import type { Plan } from '../plan/plan.ts';

type SaveDeps = Pick<EngineDeps, 'store' | 'log'>;

const pathOf = ({ store }: Pick<SaveDeps, 'store'>, id: string): string => join(store.containers.directory(id), 'plan.txt');

/** Never throws. */
export function savePlan(deps: SaveDeps, id: string, plan: Plan): void {
  try {
    writeFileSync(pathOf(deps, id), describePlan(plan), { mode: 0o600 });
  } catch (error) {
    deps.log.debug({ id, reason: reasonOf(error) }, 'plan not saved');
  }
}

/** Appends the run to the file of the saved plan, where it usually fits into the last page. Never throws. */
export function saveRun(deps: SaveDeps, id: string, run: PlanRun): void {
  try {
    appendFileSync(pathOf(deps, id), `\n${runWord}${formatRun(run)}`);
  } catch (error) {
    deps.log.debug({ id, reason: reasonOf(error) }, 'run of the plan not saved');
  }
}

/** The first word of the line with the run. */
const runWord = 'ran ';

/** @returns the lines of the plan, mostly one for each operation, and the timing of the operations and of the clone. Undefined before the start. */
export function readSavedPlan(deps: Pick<SaveDeps, 'store'>, id: string): { readonly plan: readonly string[]; readonly ran: PlanRun } | undefined {
  try {
    const lines = readFileSync(pathOf(deps, id), 'utf8').split('\n');
    const ran = lines.filter((line) => line.startsWith(runWord)).at(-1);
    return { plan: lines.filter((line) => !line.startsWith(runWord)), ran: parseRun(ran?.slice(runWord.length) ?? '') };
  } catch {
    return undefined;
  }
}
