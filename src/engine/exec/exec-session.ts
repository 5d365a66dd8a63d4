/**
 * Runs a program in a container with its streams connected to a client, with a terminal on request.
 *
 * The daemon holds the other ends of the pipes, or the master of a terminal in the container's devpts. Output that the client does not read is not
 * buffered.
 */
import { openSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { endsWithin } from '../../lib/deadline.ts';
import { internal, reasonOf } from '../../lib/errors.ts';
import { untraced } from '../../lib/spans.ts';
import { duplicate, type FdReader, readFd, writeFd } from '../../sys/call/fd-streams.ts';
import { close, programPipe } from '../../sys/call/syscalls.ts';
import { killTree } from '../../sys/cgroup/process-tree.ts';
import { receiveFd, setTerminalSize, socketPair } from '../../sys/process/terminals.ts';
import type { EngineDeps } from '../deps.ts';
import { containerOf } from '../lifecycle/container.ts';
import { monitorPlacer } from '../lifecycle/monitor-cgroup.ts';
import { type Exit, startExec } from '../monitor/monitor.ts';
import { planParts } from '../monitor/plan-spans.ts';
import type { Reg } from '../plan/plan.ts';
import { giveToUser } from '../sources/process-streams.ts';
import { createRegisters, type Registers } from '../sources/registers.ts';
import type { ContainerView } from '../state/records.ts';
import { composeExec, failedExec } from './exec.ts';
import type { ProcessStreams, WantedStreams } from './process-streams.ts';

export type SessionRequest = WantedStreams & { readonly argv: readonly string[] };

/** Time between SIGHUP, after the client has disconnected, and SIGKILL. */
const hangUpGraceMs = 5_000;
/** After the program has exited, output that it wrote to a terminal becomes readable with a delay. */
const terminalGraceMs = 200;

/**
 * Starts a program in a running container.
 *
 * @returns when the program has been executed. `exited` has no timeout, and does not wait for background processes of the program. `abandon` sends
 *   SIGHUP to the program, and kills it with its descendants if it does not exit.
 * @throws {BerthError} FAILED_PRECONDITION if the container is not running or the program cannot be executed.
 */
export async function startExecSession(deps: EngineDeps, id: string, request: SessionRequest): Promise<ProcessStreams> {
  const view = containerOf(deps, id);
  const registers = createRegisters();
  // The daemon's ends, until streams own them.
  const own = createRegisters();
  let running: Running | undefined;
  try {
    if (request.tty) openSocket(registers, own);
    else openPipes(registers, own, request);
    if (!request.tty) giveToUser(view.record, own.fds);
    const plan = composeExec(deps, view, request.argv, registers, request.tty ? terminalSocket : undefined);
    const { trace = untraced } = deps;
    running = await trace('exec.start', (span) =>
      startExec(deps, { plan, fds: registers.fds, name: id, spawned: monitorPlacer(deps, view), ...planParts(span, plan) }),
    );
    return sessionOf(deps, view, running, request.tty ? terminalEnds(own, request) : pipeEnds(own));
  } catch (error) {
    // Nobody could end a program without its streams.
    if (running !== undefined) hangUpBestEffort(deps, view, running);
    throw failedExec(view, error);
  } finally {
    registers.closeAll();
    own.closeAll();
  }
}

const terminalSocket: Reg = 'terminal.socket';

function openPipes(registers: Registers, own: Registers, wanted: WantedStreams): void {
  for (const name of ['stdin', 'stdout', 'stderr'] as const) {
    if (!wanted[name]) {
      registers.add(name, openSync('/dev/null', 'r+'));
      continue;
    }
    const [reader, writer] = programPipe();
    const isInput = name === 'stdin';
    registers.add(name, isInput ? reader : writer);
    own.add(name, isInput ? writer : reader);
  }
}

function openSocket(registers: Registers, own: Registers): void {
  const [ours, theirs] = socketPair();
  registers.add(terminalSocket, theirs);
  own.add(terminalSocket, ours);
}

/** The daemon's ends of a process's streams. */
type Ends = {
  readonly stdin?: Writable;
  readonly stdout?: Readable;
  readonly stderr?: Readable;
  readonly readers: readonly FdReader[];
  readonly graceMs: number;
  readonly resize: (columns: number, rows: number) => void;
  /** The client has disconnected, but the program may still write while it exits. */
  readonly hangUp: () => void;
  /** Closes everything. */
  readonly close: () => void;
};

function pipeEnds(own: Registers): Ends {
  const [input, output, errors] = [own.take('stdin'), own.take('stdout'), own.take('stderr')];
  const stdin = input === undefined ? undefined : writeFd(input);
  const stdout = output === undefined ? undefined : readFd(output);
  const stderr = errors === undefined ? undefined : readFd(errors);
  const readers = [stdout, stderr].filter((reader) => reader !== undefined);
  return {
    ...(stdin ? { stdin } : {}),
    ...(stdout ? { stdout: stdout.stream } : {}),
    ...(stderr ? { stderr: stderr.stream } : {}),
    readers,
    graceMs: 0,
    resize: () => {},
    hangUp: () => {
      stdin?.destroy();
      for (const reader of readers) reader.discard();
    },
    close: () => {
      for (const stream of [stdin, stdout?.stream, stderr?.stream]) stream?.destroy();
    },
  };
}

/** The output is read even if it is not wanted: a full terminal would block the program. */
function terminalEnds(own: Registers, wanted: WantedStreams): Ends {
  const master = receiveFd(own.fdOf(terminalSocket));
  if (master === null) throw internal('the monitor did not send a terminal');
  own.add('master', master);
  own.add('output', duplicate(master));
  if (wanted.stdin) own.add('input', duplicate(master));
  // All fds are open: the streams take them.
  own.take('master');
  const reader = readFd(own.take('output') as number);
  const input = own.take('input');
  const stdin = input === undefined ? undefined : writeFd(input);
  if (!wanted.stdout) reader.stream.resume();
  let isOpen = true;
  // Closes the last fds of the master, so that the kernel sends SIGHUP to the terminal's programs.
  const release = () => {
    stdin?.destroy();
    reader.stream.destroy();
    if (isOpen) close(master);
    isOpen = false;
  };
  return {
    ...(stdin ? { stdin } : {}),
    ...(wanted.stdout ? { stdout: reader.stream } : {}),
    readers: [reader],
    graceMs: terminalGraceMs,
    resize: (columns, rows) => {
      if (isOpen) setTerminalSize(master, rows, columns);
    },
    hangUp: release,
    close: release,
  };
}

type Running = { readonly pid: number; readonly exited: Promise<Exit> };

function sessionOf(deps: EngineDeps, view: ContainerView, { pid, exited }: Running, ends: Ends): ProcessStreams {
  let hasEnded = false;
  const settle = () => {
    hasEnded = true;
    ends.stdin?.destroy();
    for (const reader of ends.readers) reader.finish(ends.graceMs);
  };
  const settled = exited.finally(settle);
  settled.catch(() => {});
  let open = ends.readers.length;
  const closeWhenRead = () => {
    open -= 1;
    if (open === 0) settled.finally(ends.close).catch(() => {});
  };
  for (const { stream } of ends.readers) stream.once('close', closeWhenRead);
  const abandon = () => {
    if (hasEnded) return ends.close();
    ends.hangUp();
    hangUpBestEffort(deps, view, { pid, exited });
  };
  const { stdin, stdout, stderr, resize } = ends;
  return { ...(stdin ? { stdin } : {}), ...(stdout ? { stdout } : {}), ...(stderr ? { stderr } : {}), resize, exited: settled, abandon };
}

function hangUpBestEffort(deps: EngineDeps, view: ContainerView, running: Running): void {
  const { pid } = running;
  hangUp(deps, view, running).catch((error: unknown) => deps.log.warn({ pid, reason: reasonOf(error) }, 'failed to kill an exec process'));
}

/** Sends SIGHUP to the process group that the program leads. A background process started with nohup(1) survives if the program exits in time. */
async function hangUp(deps: EngineDeps, view: ContainerView, { pid, exited }: Running): Promise<void> {
  try {
    process.kill(-pid, 'SIGHUP');
  } catch {
    // It has already exited.
  }
  if (await endsWithin(hangUpGraceMs, exited)) return;
  await killTree(deps.cgroups, view.record.cgroupPath, pid);
}
