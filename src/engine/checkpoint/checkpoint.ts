/**
 * Writes a running container into an archive: its processes as criu saves them, what it changed in its root, and what it is. It runs on.
 *
 * The layout is that of the forensic container checkpoint (KEP-2008), which CRI-O, containerd and checkpointctl read. Nothing is seen at the place of the
 * archive before it is whole. While the processes are frozen there is a directory beside the container's root: whoever finds it after a crash thaws them.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
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
  /** Of the archive: an absolute path that is not there yet, in a directory that is. */
  readonly location: string;
  /** 0: two minutes, as long as the kubelet waits by itself. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

const defaultTimeoutMs = 120_000;
const freezeTimeoutMs = 10_000;
/** Owner of what has no id in the pod's user namespace, as the kernel shows it. */
const overflowId = 65_534;
/** In the directory of a checkpoint under way: which process is criu's. */
const criuFile = 'criu.json';

/**
 * @returns when the archive is at its place, 0600.
 * @throws {BerthError} FAILED_PRECONDITION when the container does not run or is stopped meanwhile, and without a criu that works here, with what to do;
 *   ALREADY_EXISTS for a location that is taken; DEADLINE_EXCEEDED, CANCELLED, RESOURCE_EXHAUSTED. The container runs on then, and nothing is left.
 */
export function checkpointContainer(deps: EngineDeps, id: string, request: CheckpointRequest): Promise<void> {
  return deps.queue.run(checkpointKey(id), async () => {
    const view = containerOf(deps, id);
    const attempt = `checkpointing container ${view.record.spec.metadata.name}`;
    const limit = timeLimit(request.timeoutMs || defaultTimeoutMs);
    const { signal } = limit;
    const stopping = deps.watches.of(id)?.stopping;
    const ends = AbortSignal.any([request.signal, signal, ...(stopping ? [stopping.signal] : [])]);
    try {
      const { criu, sandbox } = await requirements(deps, view, request.location);
      await checkpoint({ deps, view, sandbox, criu, location: request.location, signal: ends });
    } catch (error) {
      throw failedTo(attempt, ends.aborted ? ends.reason : error);
    } finally {
      limit.clear();
    }
  });
}

/** The signal's reason is a BerthError, unlike that of AbortSignal.timeout(). */
function timeLimit(timeoutMs: number): { readonly signal: AbortSignal; readonly clear: () => void } {
  const controller = new AbortController();
  const late = () => controller.abort(new BerthError('DEADLINE_EXCEEDED', `not done within ${timeoutMs / 1000} s; it runs on`));
  const timer = setTimeout(late, timeoutMs);
  return { signal: controller.signal, clear: () => clearTimeout(timer) };
}

type Requirements = { readonly criu: FoundCriu; readonly sandbox: SandboxView };

async function requirements(deps: EngineDeps, { record, status }: ContainerView, location: string): Promise<Requirements> {
  const state = containerState(status);
  const sandbox = deps.store.sandboxes.get(record.sandboxId);
  if (state !== 'running' || sandbox === undefined) throw failedPrecondition(`it is ${state}`);
  if (existsSync(location)) throw new BerthError('ALREADY_EXISTS', `${location} is there already`);
  const criu = await findCriu(deps.settings.criu);
  if ('lack' in criu) throw failedPrecondition(criu.lack);
  return { criu, sandbox };
}

type Work = Requirements & { readonly deps: EngineDeps; readonly view: ContainerView; readonly location: string; readonly signal: AbortSignal };

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

/** On a disk, for memory can be large; goes with the container in any case. */
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

async function dump({ deps, view, sandbox, criu, signal }: Work, workDir: string): Promise<void> {
  const { pid } = livingProcess(view);
  const imagesDir = join(workDir, 'checkpoint');
  const mounts = mountsOf(pid);
  if (mounts.find(({ mountPoint }) => mountPoint === '/')?.type !== 'overlay')
    throw failedPrecondition("its root is none of the kernel's overlays, and what was changed in it cannot be told; set snapshotter to overlay");
  // For whoever restores: what was connected to the process.
  writeFileSync(join(imagesDir, 'descriptors.json'), JSON.stringify([0, 1, 2].map((fd) => connectionOf(pid, fd))), { mode: 0o600 });
  await dumpProcesses(criu, {
    pid,
    imagesDir,
    workDir,
    freezerDirectory: freezerDirectory(deps.cgroups, view.record.cgroupPath),
    externalMounts: externalMounts(mounts, mountsOf('self')),
    externalNamespaces: heldNamespaces(view, sandbox, pid),
    onStart: (criuPid) => writeFileSync(join(workDir, criuFile), JSON.stringify({ pid: criuPid, startTime: processStartTime(criuPid) ?? '' })),
    // The signal ends it in time.
    timeoutMs: 2 ** 31 - 1,
    signal,
  });
}

const mountsOf = (process: number | 'self') => parseMountInfo(readFileSync(`/proc/${process}/mountinfo`, 'utf8'));

function livingProcess({ status: { process } }: ContainerView): ProcessIdentity {
  if (process === undefined || !isAlive(process.pid, process.startTime)) throw failedPrecondition('its process has ended');
  return process;
}

function connectionOf(pid: number, fd: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return '';
  }
}

/** The pod's: criu leaves them out, and a restore joins those of its own pod. The names are runc's. */
function heldNamespaces({ record }: ContainerView, sandbox: SandboxView, pid: number): string[] {
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

/** On disk are the host's ids. */
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

/** Ends what a daemon that died has left of a checkpoint: first criu, which would freeze the processes again, then their frost. */
export async function abandonCheckpoint(deps: EngineDeps, view: ContainerView): Promise<void> {
  const workDir = workDirOf(deps, view);
  if (!existsSync(workDir)) return;
  const criu = readIdentity(join(workDir, criuFile));
  if (criu !== null && isAlive(criu.pid, criu.startTime)) process.kill(criu.pid, 'SIGKILL');
  thaw(deps.cgroups, view.record.cgroupPath);
  await removeTree(workDir);
}

/** @returns null when it is not there, or was cut off. */
function readIdentity(path: string): ProcessIdentity | null {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as ProcessIdentity;
  } catch (error) {
    if (error instanceof SyntaxError || isErrno(error, 'ENOENT')) return null;
    throw error;
  }
}
