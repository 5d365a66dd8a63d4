/**
 * Runs the hooks of a container's CDI devices: programs of the host, at the points that the OCI runtime specification defines.
 *
 * `prestart`, `createRuntime` and `createContainer` run while the container's process is held, with its rootfs complete but before pivot_root; if one
 * fails, the start fails. `poststart` and `poststop` run after the start and the end. A hook gets the state on its stdin, and `config.json` in the
 * bundle.
 */
import { mkdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { endsWithin } from '../../lib/deadline.ts';
import { BerthError, failedPrecondition, failedTo } from '../../lib/errors.ts';
import { memfd, pidfdOpen, pipe } from '../../sys/call/syscalls.ts';
import { openCgroup } from '../../sys/cgroup/cgroups.ts';
import { collect } from '../../sys/process/spawn.ts';
import type { EngineDeps } from '../deps.ts';
import { startExec } from '../monitor/monitor.ts';
import { rootPlace } from '../plan/plan-container.ts';
import { type HookPlan, planHook } from '../plan/plan-hook.ts';
import { clampOomScore } from '../plan/process-plan.ts';
import { addCgroupEntry } from '../sources/container-sources.ts';
import { createRegisters, type Registers } from '../sources/registers.ts';
import type { ContainerRecord } from '../state/records.ts';
import type { Hook, HookPoint } from '../state/spec.ts';

type HookDeps = Pick<EngineDeps, 'store' | 'cgroups' | 'monitor' | 'facts'>;

const ociVersion = '1.2.0';
/** Limit of a hook's output. Its end is part of the error if the hook fails. */
const outputBytesMax = 64 * 1024;
const errorCharactersMax = 512;
const killTimeoutMs = 10_000;

/** Writes the bundle, from which hooks read the path of the rootfs. It has no command and no environment, because they may contain secrets. */
export function makeBundle({ store }: Pick<HookDeps, 'store'>, { id, spec }: ContainerRecord): void {
  const bundle = store.containers.directory(id);
  mkdirSync(join(bundle, rootPlace), { recursive: true, mode: 0o711 });
  const config = { ociVersion, root: { path: join(bundle, rootPlace), readonly: spec.security.hasReadonlyRootfs }, annotations: spec.annotations };
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config), { mode: 0o644 });
}

/**
 * Runs the hooks of these points one after another, in the order of the points and then of the devices.
 *
 * @param pid of the container's process in the daemon's pid namespace; 0 if it has exited.
 * @throws {BerthError} FAILED_PRECONDITION if a hook cannot be started or fails, with the end of its output; DEADLINE_EXCEEDED if it was killed after
 *   its timeout.
 */
export async function runHooks(deps: HookDeps, record: ContainerRecord, points: readonly HookPoint[], pid: number): Promise<void> {
  const hooks = record.spec.edits?.hooks ?? [];
  for (const point of points) {
    for (const hook of hooks.filter((each) => each.point === point)) {
      await runHook(deps, record, hook, pid).catch((error: unknown) => {
        throw failedTo(`hook ${point} ${hook.path}`, error);
      });
    }
  }
}

async function runHook(deps: HookDeps, record: ContainerRecord, hook: Hook, pid: number): Promise<void> {
  const [out, outEnd] = pipe();
  const output = collect(out, outputBytesMax);
  try {
    const { pid: hookPid, exited } = await start(deps, record, hook, pid, outEnd);
    if (!(await endsWithin(hook.timeoutMs, exited))) {
      // It leads a session: this also kills the processes that it has started.
      process.kill(-hookPid, 'SIGKILL');
      await endsWithin(killTimeoutMs, exited);
      throw new BerthError('DEADLINE_EXCEEDED', `timeout after ${hook.timeoutMs / 1000} s; killed`);
    }
    const { exitCode } = await exited;
    if (exitCode !== 0) throw failedPrecondition(`exit code ${exitCode}: ${endOf(output.finish())}`);
  } finally {
    output.finish();
  }
}

async function start(deps: HookDeps, record: ContainerRecord, hook: Hook, pid: number, output: number): ReturnType<typeof startExec> {
  const registers = createRegisters();
  try {
    registers.add('output', output);
    const bundle = deps.store.containers.directory(record.id);
    const isInside = hook.point === 'createContainer';
    const container = isInside ? openContainerEntry(deps, record, pid, registers) : undefined;
    registers.add('state', stateFile(stateOf(record, hook.point, bundle, isInside ? pidInside(pid) : pid)));
    const oomScoreAdj = clampOomScore(record.spec.resources.oomScoreAdj ?? 0, deps.facts);
    const plan = planHook({ fds: registers.names, hook, bundle, oomScoreAdj, ...(container === undefined ? {} : { container }) });
    return await startExec(deps, { plan, fds: registers.fds, name: record.id });
  } finally {
    registers.closeAll();
  }
}

function openContainerEntry(deps: HookDeps, { cgroupPath, sandboxId }: ContainerRecord, pid: number, registers: Registers): HookPlan['container'] {
  return {
    target: registers.add('target', pidfdOpen(pid)),
    cgroup: addCgroupEntry(openCgroup(deps.cgroups, cgroupPath), registers),
    isInUserNamespace: deps.store.sandboxes.get(sandboxId)?.record.spec.namespaces.user !== undefined,
  };
}

const statuses = { prestart: 'creating', createRuntime: 'creating', createContainer: 'creating', poststart: 'running', poststop: 'stopped' } as const;

/** Returns the state as in runtime.md of the OCI runtime specification. `root` is an addition of crun, for hooks that may not read the bundle. */
function stateOf({ id, spec }: ContainerRecord, point: HookPoint, bundle: string, pid: number): string {
  return JSON.stringify({ ociVersion, id, status: statuses[point], pid, bundle, root: join(bundle, rootPlace), annotations: spec.annotations });
}

/** Returns the pid of a process in its own pid namespace: proc_pid_status(5). */
function pidInside(pid: number): number {
  return Number(/^NSpid:.*\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? pid);
}

function stateFile(text: string): number {
  const fd = memfd('state');
  // At offset 0, without moving the file offset: the hook reads from the beginning.
  writeSync(fd, text, 0);
  return fd;
}

/** Returns the end of the output on one line, for an error message. */
function endOf(output: Buffer): string {
  const text = output
    .toString('utf8')
    .trim()
    .replaceAll(/\s*\n\s*/g, '; ');
  return text === '' ? 'no output' : text.slice(-errorCharactersMax);
}
