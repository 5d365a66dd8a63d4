/**
 * Overlays with fuse-overlayfs, for kernels and file systems without overlayfs. Each overlay has a process, which ends with its last mount.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { promisify } from 'node:util';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { cloneTree, MOUNT_ATTR_NODEV, MS_PRIVATE, setMountAttributes, unmount } from './mounts.ts';

const program = 'fuse-overlayfs';
const device = '/dev/fuse';
/** In case the program hangs on a device that does not respond. */
const timeoutMs = 30_000;

export type FuseOverlayRequest = {
  /** Topmost first, absolute. */
  readonly layers: readonly string[];
  readonly upper: string;
  readonly work: string;
  /** A directory on which it is mounted temporarily. */
  readonly place: string;
  /** Ranges of host ids that are shown as ids from 0 on. */
  readonly ids?: { readonly uids: Range; readonly gids: Range };
};

type Range = { readonly hostId: number; readonly length: number };

/** @throws {BerthError} FAILED_PRECONDITION with the missing requirement. */
export async function requireFuseOverlay(): Promise<void> {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    throw failedPrecondition(`${program} needs ${device}: ${reasonOf(error)}; load the kernel module (modprobe fuse)`, error);
  }
  await run(['--version']);
}

/** @returns the fd of the detached mount. @throws {BerthError} FAILED_PRECONDITION with the program's error. */
export async function createFuseOverlay({ layers, upper, work, place, ids }: FuseOverlayRequest): Promise<number> {
  const unsupported = [...layers, upper, work].find((path) => /[:,\\]/.test(path));
  if (unsupported !== undefined)
    throw failedPrecondition(`mount with ${program}: paths with a colon, comma or backslash are not supported: ${unsupported}`);
  const options = [`lowerdir=${layers.join(':')}`, `upperdir=${upper}`, `workdir=${work}`, 'volatile'];
  if (ids !== undefined) options.push(`uidmapping=${mapping(ids.uids)}`, `gidmapping=${mapping(ids.gids)}`);
  // The program moves to the background when the mount exists.
  await run(['-o', options.join(','), place]);
  try {
    const mount = cloneTree(place, { isRecursive: false });
    // Like overlayfs: devices are restricted by the cgroup, and pivot_root(2) rejects a shared root.
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
    const message = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1);
    throw failedPrecondition(`run ${program}: ${message || reasonOf(error)}`, error);
  }
}
