/**
 * Writes a checkpoint of a running container to an archive: its processes as saved by criu, the changes in its rootfs, and its configuration. The
 * container keeps running.
 *
 * The layout is that of the forensic container checkpoint (KEP-2008), which CRI-O, containerd and checkpointctl read. The archive appears at its
 * location only when it is complete. While the processes are frozen, a work directory exists beside the rootfs: recovery finds it after a crash, and
 * thaws the processes.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, failedPrecondition, failedTo } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { parseMountInfo } from '../../sys/call/proc.ts';
import { freeze, freezerDirectory, thaw } from '../../sys/cgroup/cgroup-processes.ts';
import { archiveChanges } from '../../sys/filesystem/changes-archive.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import { isAlive, processStartTime } from '../../sys/process/processes.ts';
import type { EngineDeps } from '../deps.ts';
import { checkpointKey, containerOf } from '../lifecycle/container.ts';
import { planProcess } from '../plan/process-plan.ts';
import { processFacts } from '../sources/container-sources.ts';
import { type ContainerView, containerState, type ProcessIdentity, type SandboxView } from '../state/records.ts';
import type { IdRange } from '../state/spec.ts';
import { type Archive, openArchive } from './checkpoint-archive.ts';
import { checkpointDocuments } from './checkpoint-documents.ts';
import { externalMounts } from './checkpoint-mounts.ts';
import { dumpProcesses, type FoundCriu, findCriu } from './criu.ts';
import { dumpLogFile } from './criu-request.ts';

export type CheckpointRequest = {
  /** Absolute path of the archive. It must not exist; its directory must. */
  readonly location: string;
  /** 0: two minutes, the kubelet's default timeout. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

const defaultTimeoutMs = 120_000;
const freezeTimeoutMs = 10_000;
/** For criu to finish by itself: killed at the moment when it writes its code into a process, it would leave the process broken. */
const criuGraceMs = 3_000;
/** The id that the kernel shows for ids without a mapping in the pod's user namespace. */
const overflowId = 65_534;
/** File in the work directory: pid and start time of criu. */
const criuFile = 'criu.json';

/**
 * Writes a checkpoint of a container to `request.location`, with mode 0600.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the container is not running or is stopped in the meantime, or if no usable criu is installed, with
 *   instructions; ALREADY_EXISTS if the location exists; DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED. After an error the container keeps
 *   running, and nothing is left behind.
 */
export function checkpointContainer(deps: EngineDeps, id: string, request: CheckpointRequest): Promise<void> {
  return deps.queue.run(checkpointKey(id), async () => {
    const view = containerOf(deps, id);
    const attempt = `checkpoint container ${view.record.spec.metadata.name}`;
    const limit = timeLimit(request.timeoutMs || defaultTimeoutMs);
    const { signal } = limit;
    const stopping = deps.watches.of(id)?.stopping;
    const ends = AbortSignal.any([request.signal, signal, ...(stopping ? [stopping.signal] : [])]);
    try {
      const { criu, sandbox } = await requirements(deps, view, request.location);
      await checkpoint({ deps, view, sandbox, criu, location: request.location, signal: ends, stopping: stopping?.signal });
    } catch (error) {
      throw failedTo(attempt, ends.aborted ? ends.reason : error);
    } finally {
      limit.clear();
    }
  });
}

/** Like AbortSignal.timeout(), but the signal's reason is a BerthError. */
function timeLimit(timeoutMs: number): { readonly signal: AbortSignal; readonly clear: () => void } {
  const controller = new AbortController();
  const expire = () => controller.abort(new BerthError('DEADLINE_EXCEEDED', `timeout after ${timeoutMs / 1000} s; the container keeps running`));
  const timer = setTimeout(expire, timeoutMs);
  return { signal: controller.signal, clear: () => clearTimeout(timer) };
}

type Requirements = { readonly criu: FoundCriu; readonly sandbox: SandboxView };

async function requirements(deps: EngineDeps, { record, status }: ContainerView, location: string): Promise<Requirements> {
  const state = containerState(status);
  const sandbox = deps.store.sandboxes.get(record.sandboxId);
  if (state !== 'running' || sandbox === undefined) throw failedPrecondition(`the container is ${state}`);
  if (existsSync(location)) throw new BerthError('ALREADY_EXISTS', `${location} already exists`);
  const criu = await findCriu(deps.settings.criu);
  if ('lack' in criu) throw failedPrecondition(criu.lack);
  return { criu, sandbox };
}

type Work = Requirements & {
  readonly deps: EngineDeps;
  readonly view: ContainerView;
  readonly location: string;
  /** Aborted by everything that ends the checkpoint: the caller, the timeout, a stop. */
  readonly signal: AbortSignal;
  /** Aborted when the container is to be stopped. */
  readonly stopping: AbortSignal | undefined;
};

async function checkpoint(work: Work): Promise<void> {
  const { deps, view, location, signal } = work;
  const workDir = workDirOf(deps, view);
  const archive = await openArchive(dirname(location));
  try {
    await removeTree(workDir);
    mkdirSync(join(workDir, 'checkpoint'), { recursive: true, mode: 0o700 });
    for (const [name, text] of Object.entries(documentsOf(work))) await archive.addText(name, text);
    await whileFrozen(work, async () => {
      await dump(work, workDir);
      await addChanges(work, archive);
    });
    for (const name of [dumpLogFile, 'stats-dump']) if (existsSync(join(workDir, name))) await archive.addFile(name, join(workDir, name), signal);
    await archive.addDirectory('checkpoint');
    for (const name of readdirSync(join(workDir, 'checkpoint')).sort()) {
      await archive.addFile(`checkpoint/${name}`, join(workDir, 'checkpoint', name), signal);
    }
    signal.throwIfAborted();
    await archive.publish(location);
  } finally {
    await archive.close();
    await removeTree(workDir);
  }
}

/** On disk, because the saved memory can be large. Removed with the container at the latest. */
function workDirOf(deps: EngineDeps, { record }: ContainerView): string {
  return join(dirname(deps.rootfs.upperDir(record.id)), 'checkpoint');
}

async function whileFrozen({ deps, view, signal }: Work, action: () => Promise<void>): Promise<void> {
  const { cgroupPath } = view.record;
  signal.throwIfAborted();
  try {
    await freeze(deps.cgroups, cgroupPath, freezeTimeoutMs);
    await action();
  } finally {
    thaw(deps.cgroups, cgroupPath);
  }
}

async function dump({ deps, view, sandbox, criu, signal, stopping }: Work, workDir: string): Promise<void> {
  const { pid } = aliveProcess(view);
  const imagesDir = join(workDir, 'checkpoint');
  const mounts = mountsOf(pid);
  if (mounts.find(({ mountPoint }) => mountPoint === '/')?.type !== 'overlay')
    throw failedPrecondition('the root file system is not on overlayfs, so the changed files cannot be determined; set snapshotter to overlay');
  // A restore needs to know what the process's standard streams were connected to.
  writeFileSync(join(imagesDir, 'descriptors.json'), JSON.stringify([0, 1, 2].map((fd) => connectionOf(pid, fd))), { mode: 0o600 });
  const patience = afterGrace(signal, stopping);
  const dumped = dumpProcesses(criu, {
    pid,
    imagesDir,
    workDir,
    freezerDirectory: freezerDirectory(deps.cgroups, view.record.cgroupPath),
    externalMounts: externalMounts(mounts, mountsOf('self')),
    externalNamespaces: externalNamespaces(view, sandbox, pid),
    onStart: (criuPid) => writeFileSync(join(workDir, criuFile), JSON.stringify({ pid: criuPid, startTime: processStartTime(criuPid) ?? '' })),
    // The signal enforces the timeout.
    timeoutMs: 2 ** 31 - 1,
    signal: patience.signal,
  });
  await dumped.finally(patience.clear);
  signal.throwIfAborted();
}

/** Returns a signal that is aborted some time after the first one, or together with the second one. */
function afterGrace(signal: AbortSignal, atOnce: AbortSignal | undefined): { readonly signal: AbortSignal; readonly clear: () => void } {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const end = () => controller.abort(signal.reason);
  const wait = () => {
    timer = setTimeout(end, criuGraceMs);
  };
  const clear = () => {
    clearTimeout(timer);
    signal.removeEventListener('abort', wait);
    atOnce?.removeEventListener('abort', end);
  };
  if (atOnce?.aborted) end();
  else if (signal.aborted) wait();
  signal.addEventListener('abort', wait, { once: true });
  atOnce?.addEventListener('abort', end, { once: true });
  return { signal: controller.signal, clear };
}

const mountsOf = (process: number | 'self') => parseMountInfo(readFileSync(`/proc/${process}/mountinfo`, 'utf8'));

function aliveProcess({ status: { process } }: ContainerView): ProcessIdentity {
  if (process === undefined || !isAlive(process.pid, process.startTime)) throw failedPrecondition('the process of the container has exited');
  return process;
}

function connectionOf(pid: number, fd: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return '';
  }
}

/** The namespaces that belong to the pod: criu does not save them, and a restore joins those of its own pod. The keys are runc's. */
function externalNamespaces({ record }: ContainerView, sandbox: SandboxView, pid: number): string[] {
  const key = (kind: string, name: string) => `${kind}[${statSync(`/proc/${pid}/ns/${kind}`).ino}]:${name}`;
  const sharesPids = ['pod', 'target'].includes(record.spec.security.namespaces.pid);
  return [
    ...(sandbox.record.spec.namespaces.network === 'pod' ? [key('net', 'extRootNetNS')] : []),
    ...(sharesPids ? [key('pid', 'extRootPidNS')] : []),
  ];
}

async function addChanges({ deps, view: { record }, sandbox, signal }: Work, archive: Archive): Promise<void> {
  const deleted: string[] = [];
  const { user } = sandbox.record.spec.namespaces;
  const changes = archiveChanges({
    upper: deps.rootfs.upperDir(record.id),
    layerDirs: record.image.layerDirs,
    shift: { uid: shiftOf(user?.uids), gid: shiftOf(user?.gids) },
    onDeleted: (path) => deleted.push(Buffer.from(path, 'latin1').toString()),
  });
  await archive.addParts('rootfs-diff.tar', changes, signal);
  if (deleted.length > 0) await archive.addText('deleted.files', JSON.stringify(deleted));
}

/** Converts owners on disk, which are ids of the host, to ids in the user namespace. */
function shiftOf(range: IdRange | undefined): (id: number) => number {
  if (range === undefined) return (id) => id;
  return (id) => (id >= range.hostId && id < range.hostId + range.length ? id - range.hostId : overflowId);
}

function documentsOf({ deps, view, sandbox }: Work): Readonly<Record<string, string>> {
  const { record, status } = view;
  const fds = { cgroup: { version: 1, procs: [] }, stdio: null } as const;
  const process = planProcess(record, sandbox.record.spec, processFacts(deps), fds, { resources: status.resources, seccomp: null });
  const sources = new Map(record.spec.mounts.flatMap(({ hostPath }) => sourceOf(hostPath)));
  return checkpointDocuments({ container: view, sandbox, process, sources, atNs: deps.clock.nowNs() });
}

function sourceOf(path: string): [string, { readonly isDirectory: boolean; readonly permissions: number }][] {
  try {
    const stat = statSync(path);
    return [[path, { isDirectory: stat.isDirectory(), permissions: stat.mode & 0o777 }]];
  } catch {
    return [];
  }
}

/** Cleans up a checkpoint that a crashed daemon left behind. Ends criu before it thaws the processes, because criu would freeze them again. */
export async function abandonCheckpoint(deps: EngineDeps, view: ContainerView): Promise<void> {
  const workDir = workDirOf(deps, view);
  if (!existsSync(workDir)) return;
  const criu = readIdentity(join(workDir, criuFile));
  if (criu !== null) await endOrKill(criu);
  thaw(deps.cgroups, view.record.cgroupPath);
  await removeTree(workDir);
}

async function endOrKill({ pid, startTime }: ProcessIdentity): Promise<void> {
  for (let waitedMs = 0; waitedMs < criuGraceMs && isAlive(pid, startTime); waitedMs += 50) await sleep(50);
  if (isAlive(pid, startTime)) process.kill(pid, 'SIGKILL');
}

/** @returns null if the file does not exist or is truncated. */
function readIdentity(path: string): ProcessIdentity | null {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as ProcessIdentity;
  } catch (error) {
    if (error instanceof SyntaxError || isErrno(error, 'ENOENT')) return null;
    throw error;
  }
}
