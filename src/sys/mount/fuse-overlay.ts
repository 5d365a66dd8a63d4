/**
 * Overlays by the program fuse-overlayfs, for kernels and file systems without their own: one process for each, which ends with the last of its mounts.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { promisify } from 'node:util';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { cloneTree, MOUNT_ATTR_NODEV, MS_PRIVATE, setMountAttributes, unmount } from './mounts.ts';

const program = 'fuse-overlayfs';
const device = '/dev/fuse';
/** For one that waits for a device that never answers. */
const timeoutMs = 30_000;

export type FuseOverlayRequest = {
  /** Topmost first, absolute. */
  readonly layers: readonly string[];
  readonly upper: string;
  readonly work: string;
  /** A directory on which it lies for a moment. */
  readonly place: string;
  /** First ids of the host, and how many, as which ids from 0 on are shown. */
  readonly ids?: { readonly uids: Range; readonly gids: Range };
};

type Range = { readonly hostId: number; readonly length: number };

/** @throws {BerthError} FAILED_PRECONDITION with what is missing on this node. */
export async function requireFuseOverlay(): Promise<void> {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    throw failedPrecondition(`${program} needs ${device}: ${reasonOf(error)}; load the module fuse (modprobe fuse)`, error);
  }
  await run(['--version']);
}

/** @returns the fd of the detached mount. @throws {BerthError} FAILED_PRECONDITION with what the program says. */
export async function createFuseOverlay({ layers, upper, work, place, ids }: FuseOverlayRequest): Promise<number> {
  const strange = [...layers, upper, work].find((path) => /[:,\\]/.test(path));
  if (strange !== undefined) throw failedPrecondition(`mounting with ${program}: it takes no path with a colon, comma or backslash: ${strange}`);
  const options = [`lowerdir=${layers.join(':')}`, `upperdir=${upper}`, `workdir=${work}`, 'volatile'];
  if (ids !== undefined) options.push(`uidmapping=${mapping(ids.uids)}`, `gidmapping=${mapping(ids.gids)}`);
  // It goes into the background when the mount is there.
  await run(['-o', options.join(','), place]);
  try {
    const mount = cloneTree(place, { isRecursive: false });
    // As the kernel's overlay: devices are the cgroup's business, and pivot_root(2) refuses a shared root.
    setMountAttributes(mount, { clear: MOUNT_ATTR_NODEV, propagation: MS_PRIVATE, isRecursive: false });
    return mount;
  } finally {
    unmount(place);
  }
}

const mapping = ({ hostId, length }: Range): string => `0:${hostId}:${length}`;

async function run(args: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)(program, args, { cwd: '/', timeout: timeoutMs });
  } catch (error) {
    if (isErrno(error, 'ENOENT')) throw failedPrecondition(`${program} is not installed (Debian: apt-get install ${program})`, error);
    const said = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1);
    throw failedPrecondition(`running ${program}: ${said || reasonOf(error)}`, error);
  }
}
