/**
 * Makes the namespaces of a pod with a user namespace, which the daemon, having threads, can neither make nor join, and finds out whether this node can.
 *
 * The processes that make them live in the sandbox's own cgroup until all is pinned: whoever undoes the sandbox ends them with it.
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
import type { EngineDeps } from '../deps.ts';
import { startMonitor } from '../monitor/monitor.ts';
import type { Plan } from '../plan/plan.ts';
import type { CgroupEntry } from '../plan/plan-container.ts';
import { planPodNamespaces, planUserNamespace } from '../plan/plan-namespaces.ts';
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
  readonly sysctls: Readonly<Record<string, string>>;
  /** Where the processes live that make them; it is there. */
  readonly cgroupPath: string;
};

/**
 * Makes the user namespace and in it those that `pins` names, and pins them. Undone by killing the cgroup and unpinNamespaces().
 *
 * @throws {BerthError} naming the step; what was pinned until then stays pinned.
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
    throw failedTo(`mapping ${length} ids from 0 to ${hostId} (${file})`, error);
  }
}

/** Runs a plan whose process stays, and ends that when its namespaces have been pinned. */
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

/** Any that are not the host's root would do. */
const probeIds: IdMap = { uids: { hostId: 65536, length: 65536 }, gids: { hostId: 65536, length: 65536 } };

/**
 * Tries what a pod with a user namespace needs of this kernel and of the file system of `rootDir`.
 *
 * @returns null when it is all there, else what failed.
 */
export async function probeUserNamespaces(deps: Pick<Deps, 'monitor'>, rootDir: string): Promise<string | null> {
  const directory = join(rootDir, '.userns-probe');
  const pin = join(directory, 'user');
  // Of a daemon that was killed here.
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

/** Tokens and secrets are on tmpfs, so that hardly any pod can do without: from Linux 6.3 on. */
function probeTmpfs(pin: string): void {
  const userNamespace = openSync(pin, 'r');
  const mount = createDetachedMount('tmpfs', []);
  try {
    setMountAttributes(mount, { userNamespace, isRecursive: false });
  } catch (error) {
    throw failedTo('mapping the ids of a tmpfs', error);
  } finally {
    close(mount);
    close(userNamespace);
  }
}
