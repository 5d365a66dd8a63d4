/**
 * Creates the namespaces of a pod with a user namespace, and probes whether this node supports that. The daemon cannot create or join a user
 * namespace itself, because it has threads.
 *
 * The processes that create the namespaces run in the sandbox's own cgroup until everything is pinned, so that discarding the sandbox kills them.
 */
import { mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { failedTo, reasonOf } from '../../lib/errors.ts';
import { close } from '../../sys/call/syscalls.ts';
import { openCgroup } from '../../sys/cgroup/cgroups.ts';
import { killProcess } from '../../sys/cgroup/process-tree.ts';
import { createDetachedMount, setMountAttributes } from '../../sys/mount/mounts.ts';
import { createOverlay } from '../../sys/mount/overlay.ts';
import { pinNamespace, unpinNamespaces } from '../../sys/process/namespaces.ts';
import type { Sysctl } from '../../sys/process/sysctls.ts';
import type { EngineDeps } from '../deps.ts';
import { startMonitor } from '../monitor/monitor.ts';
import type { Plan } from '../plan/plan.ts';
import { planPodNamespaces, planUserNamespace } from '../plan/plan-namespaces.ts';
import type { CgroupEntry } from '../plan/process-setup.ts';
import { openShelf, withShownLayers } from '../rootfs/overlay-rootfs.ts';
import { addCgroupEntry } from '../sources/container-sources.ts';
import { openPins } from '../sources/open-pins.ts';
import { createRegisters, type Registers } from '../sources/registers.ts';
import type { SandboxPaths } from '../sources/sandbox-paths.ts';
import type { IdMap } from '../state/spec.ts';

type Deps = Pick<EngineDeps, 'monitor' | 'cgroups'>;

export type PodNamespaces = {
  readonly id: string;
  readonly ids: IdMap;
  readonly pins: SandboxPaths['pins'];
  readonly hostname: string;
  readonly sysctls: readonly Sysctl[];
  /** Cgroup of the processes that create the namespaces. It must exist. */
  readonly cgroupPath: string;
};

/**
 * Creates the user namespace, creates the namespaces of `pins` in it, and pins them. Undone by killing the cgroup and unpinNamespaces().
 *
 * @throws {BerthError} naming the step. Namespaces that were already pinned stay pinned.
 */
export async function createPodNamespaces(deps: Deps, pod: PodNamespaces): Promise<void> {
  const { user, ...others } = pod.pins;
  if (user === undefined) return;
  const join = (registers: Registers) => addCgroupEntry(openCgroup(deps.cgroups, pod.cgroupPath), registers);
  await createUserNamespace(deps, { id: pod.id, ids: pod.ids, pin: user, join });
  const kinds = (Object.keys(others) as (keyof typeof others)[]).sort();
  if (kinds.length === 0) return;
  const plan = (registers: Registers) => {
    const { user: reg = '' } = openPins({ user }, registers);
    return planPodNamespaces({ ...pod, cgroup: join(registers), user: reg, kinds, fds: registers.names });
  };
  await withHolder(deps, pod.id, plan, (pid) => {
    for (const kind of kinds) pinNamespace(`/proc/${pid}/ns/${kind}`, others[kind] as string);
  });
}

type UserNamespaceRequest = { readonly id: string; readonly ids: IdMap; readonly pin: string; readonly join: (registers: Registers) => CgroupEntry };

async function createUserNamespace(deps: Pick<Deps, 'monitor'>, { id, ids, pin, join }: UserNamespaceRequest): Promise<void> {
  const plan = (registers: Registers) => {
    const cgroup = join(registers);
    return planUserNamespace(registers.names, cgroup);
  };
  await withHolder(deps, id, plan, (pid) => {
    writeMap(pid, 'uid_map', ids.uids);
    writeMap(pid, 'gid_map', ids.gids);
    pinNamespace(`/proc/${pid}/ns/user`, pin);
  });
}

function writeMap(pid: number, file: 'uid_map' | 'gid_map', { hostId, length }: IdMap['uids']): void {
  try {
    writeFileSync(`/proc/${pid}/${file}`, `0 ${hostId} ${length}\n`);
  } catch (error) {
    throw failedTo(`write ${file}: map ${length} ids, starting with 0, to ids of the host, starting with ${hostId}`, error);
  }
}

/** Runs a plan whose process keeps its namespaces alive, and kills the process after `use` has pinned them. */
async function withHolder(
  deps: Pick<Deps, 'monitor'>,
  name: string,
  compose: (registers: Registers) => Plan,
  use: (pid: number) => void,
): Promise<void> {
  const registers = createRegisters();
  let holder: number;
  try {
    const plan = compose(registers);
    holder = (await startMonitor(deps, { plan, fds: registers.fds, name })).pid;
  } finally {
    registers.closeAll();
  }
  try {
    use(holder);
  } finally {
    killProcess(holder);
  }
}

/** Any ids other than the host's root would work. */
const probeIds: IdMap = { uids: { hostId: 65536, length: 65536 }, gids: { hostId: 65536, length: 65536 } };

/**
 * Probes what a pod with a user namespace requires of this kernel and of the file system of `rootDir`.
 *
 * @returns null if everything works, else the first failure.
 */
export async function probeUserNamespaces(deps: Pick<Deps, 'monitor'>, rootDir: string): Promise<string | null> {
  const directory = join(rootDir, '.userns-probe');
  const pin = join(directory, 'user');
  // Leftovers of a daemon that was killed during the probe.
  unpinNamespaces([pin, join(directory, 'staging')]);
  rmSync(directory, { recursive: true, force: true });
  try {
    mkdirSync(directory, { recursive: true });
    const shelf = openShelf(directory);
    await createUserNamespace(deps, { id: 'probe', ids: probeIds, pin, join: () => ({ version: 1, procs: [] }) });
    const [layer, upper, work] = ['layer', 'upper', 'work'].map((name) => join(directory, name)) as [string, string, string];
    for (const path of [layer, upper, work]) mkdirSync(path);
    probeTmpfs(pin);
    close(withShownLayers(shelf, [layer], pin, (layers) => createOverlay({ layers, writable: { upper, work } })));
    return null;
  } catch (error) {
    return reasonOf(error);
  } finally {
    unpinNamespaces([pin]);
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Probes ID-mapped tmpfs mounts, which exist since Linux 6.3. Nearly every pod needs them: tokens and secrets are on tmpfs. */
function probeTmpfs(pin: string): void {
  const userNamespace = openSync(pin, 'r');
  const mount = createDetachedMount('tmpfs', []);
  try {
    setMountAttributes(mount, { userNamespace, isRecursive: false });
  } catch (error) {
    throw failedTo('map the ids of a tmpfs', error);
  } finally {
    close(mount);
    close(userNamespace);
  }
}
