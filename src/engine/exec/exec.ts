/**
 * Runs a program in a container, and returns its output.
 *
 * Uses no files and no threads: two pipes, and a monitor that exits with the program.
 */
import { openSync } from 'node:fs';
import { endsWithin } from '../../lib/deadline.ts';
import { BerthError, failedPrecondition, failedTo } from '../../lib/errors.ts';
import { type Span, untraced } from '../../lib/spans.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, pidfdOpen, pipe } from '../../sys/call/syscalls.ts';
import { openProcessCgroup } from '../../sys/cgroup/cgroups.ts';
import { killTree } from '../../sys/cgroup/process-tree.ts';
import { isAlive, processStartTime } from '../../sys/process/processes.ts';
import { collect } from '../../sys/process/spawn.ts';
import type { EngineDeps } from '../deps.ts';
import { containerOf } from '../lifecycle/container.ts';
import { monitorPlacer } from '../lifecycle/monitor-cgroup.ts';
import { startExec } from '../monitor/monitor.ts';
import { planParts } from '../monitor/plan-spans.ts';
import type { Plan, Reg } from '../plan/plan.ts';
import { planExec } from '../plan/plan-exec.ts';
import { containerCapabilities, planProcess } from '../plan/process-plan.ts';
import { addCgroupEntry, processFacts } from '../sources/container-sources.ts';
import { giveToUser } from '../sources/process-streams.ts';
import { createRegisters, type Registers } from '../sources/registers.ts';
import { type ContainerView, containerState, type ProcessIdentity } from '../state/records.ts';

export type ExecRequest = {
  readonly argv: readonly string[];
  /** 0: no timeout. */
  readonly timeoutMs: number;
  /** Kills the program when the caller disconnects. */
  readonly signal: AbortSignal;
};

/** Limit of each stream; the rest is dropped. Both together must be less than 16 MiB, the kubelet's limit for one message. */
const outputBytesMax = 8 * 1024 * 1024 - 64 * 1024;

export type ExecResult = { readonly exitCode: number; readonly stdout: Buffer; readonly stderr: Buffer };

/**
 * Runs a program in a running container until it exits. Its background processes keep running, and do not delay the call.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the container is not running or the program cannot be executed; DEADLINE_EXCEEDED after the timeout and
 *   CANCELLED after an abort, when the program and its descendants have been killed.
 */
export async function execSync(deps: EngineDeps, id: string, request: ExecRequest): Promise<ExecResult> {
  const view = containerOf(deps, id);
  const { trace = untraced } = deps;
  const [[out, outEnd], [err, errEnd]] = twoPipes();
  const [stdout, stderr] = [collect(out, outputBytesMax), collect(err, outputBytesMax)];
  try {
    const { pid, exited } = await trace('exec.start', (span) => start(deps, view, request.argv, [outEnd, errEnd], span));
    await trace('exec.run', () => awaitEnd(deps, view, pid, exited, request));
    const { exitCode } = await exited;
    return { exitCode, stdout: stdout.finish(), stderr: stderr.finish() };
  } finally {
    stdout.finish();
    stderr.finish();
  }
}

function twoPipes(): [ReturnType<typeof pipe>, ReturnType<typeof pipe>] {
  const first = pipe();
  try {
    return [first, pipe()];
  } catch (error) {
    first.forEach(close);
    throw error;
  }
}

async function start(deps: EngineDeps, view: ContainerView, argv: readonly string[], outputs: readonly [number, number], span: Span) {
  const registers = createRegisters();
  try {
    registers.add('stdout', outputs[0]);
    registers.add('stderr', outputs[1]);
    registers.add('stdin', openSync('/dev/null', 'r'));
    giveToUser(view.record, outputs);
    const plan = composeExec(deps, view, argv, registers);
    return await startExec(deps, { plan, fds: registers.fds, name: view.record.id, spawned: monitorPlacer(deps, view), ...planParts(span, plan) });
  } catch (error) {
    throw failedExec(view, error);
  } finally {
    registers.closeAll();
  }
}

/**
 * Composes the plan of an exec.
 *
 * @param registers contains `stdin`, `stdout` and `stderr` of the process, unless `terminalSocket` is given. The other registers are added.
 * @param terminalSocket for a terminal: the register of a unix socket through which the plan sends the terminal's master.
 * @throws {BerthError} FAILED_PRECONDITION if the container is not running.
 */
export function composeExec(
  deps: EngineDeps,
  { record, status }: ContainerView,
  argv: readonly string[],
  registers: Registers,
  terminalSocket?: Reg,
): Plan {
  const sandbox = deps.store.sandboxes.get(record.sandboxId);
  if (containerState(status) !== 'running' || status.process === undefined || sandbox === undefined) {
    throw failedPrecondition(`the container is ${containerState(status)}`);
  }
  const target = registers.add('target', openProcess(status.process));
  const cgroup = addCgroupEntry(openProcessCgroup(deps.cgroups, record.cgroupPath, status.process.pid), registers);
  const facts = processFacts(deps);
  const seccomp = deps.seccomp.filterFor(record.spec.security, containerCapabilities(record, facts).effective);
  const overrides = { argv, resources: status.resources, seccomp };
  const hasTerminal = terminalSocket !== undefined;
  const stdio = hasTerminal ? null : (['stdin', 'stdout', 'stderr'] as const);
  const process = planProcess(record, sandbox.record.spec, facts, { cgroup, stdio }, { ...overrides, hasTerminal });
  const isInUserNamespace = sandbox.record.spec.namespaces.user !== undefined;
  return planExec({ fds: registers.names, process, target, isInUserNamespace, ...(hasTerminal ? { terminalSocket } : {}) });
}

/** Like failedTo(), but any INTERNAL error is FAILED_PRECONDITION if the container's process has exited, which is then the cause. */
export function failedExec({ record, status }: ContainerView, error: unknown): BerthError {
  const failure = failedTo(`exec in container ${record.spec.metadata.name}`, error);
  const { process } = status;
  // ESRCH: a zombie still has a pid, but its namespaces cannot be joined.
  const hasEnded = process !== undefined && (!isAlive(process.pid, process.startTime) || isErrno(causeOf(error), 'ESRCH'));
  return failure.code === 'INTERNAL' && hasEnded ? failedPrecondition(`${failure.message}; the process of the container has exited`, error) : failure;
}

const causeOf = (error: unknown): unknown => (error instanceof Error ? error.cause : undefined);

/** Returns a pidfd, after verifying by the start time that it refers to this process. */
function openProcess(process: ProcessIdentity): number {
  const pidfd = pidfdOpen(process.pid);
  if (processStartTime(process.pid) === process.startTime) return pidfd;
  close(pidfd);
  throw failedPrecondition('the process of the container has exited');
}

/** Waits until the program exits, or kills it. */
async function awaitEnd(deps: EngineDeps, view: ContainerView, pid: number, exited: Promise<unknown>, request: ExecRequest): Promise<void> {
  const failure = await exitOrFailure(exited, request);
  if (failure === null) return;
  await killTree(deps.cgroups, view.record.cgroupPath, pid);
  await endsWithin(killTimeoutMs, exited);
  throw failure;
}

const killTimeoutMs = 10_000;

/** @returns why the program must be killed, or null if it has exited. */
function exitOrFailure(exited: Promise<unknown>, { timeoutMs, signal, argv }: ExecRequest): Promise<BerthError | null> {
  const attempt = `exec ${JSON.stringify(argv[0])}`;
  return new Promise((resolve) => {
    const timeout = () => resolve(new BerthError('DEADLINE_EXCEEDED', `${attempt}: timeout after ${timeoutMs / 1000} s; killed`));
    const timer = timeoutMs > 0 ? setTimeout(timeout, timeoutMs) : undefined;
    const cancel = () => resolve(new BerthError('CANCELLED', `${attempt}: the caller disconnected; killed`));
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', cancel);
      resolve(null);
    };
    exited.then(end, end);
  });
}
