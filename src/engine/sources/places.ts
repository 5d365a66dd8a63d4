/**
 * Decides where a container's mounts and devices are, by the objects in the image and not by their names: a link of the image may lead a path into a
 * volume, or to /dev, /proc or /sys.
 */
import { statfsSync } from 'node:fs';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import { FS_MAGIC } from '../plan/abi.ts';
import type { DeviceNode } from '../plan/devices.ts';
import { isCovered, normalPath, type RootMount } from '../plan/mounts.ts';
import { placeInRoot, requireDirectories } from './mount-targets.ts';

/** Directories on which something is mounted in each container. */
export const kernelDirectories = ['/dev', '/proc', '/sys'];

export type Places = {
  /** Returns the place of a path, through the links of the image. */
  readonly of: (path: string) => string;
  /** The volumes, with their places as targets. */
  readonly volumes: readonly RootMount[];
  /** Returns whether a place is in a volume: a file created there would be created on the host. */
  readonly isInVolume: (place: string) => boolean;
};

/**
 * Finds the places of volumes.
 *
 * @throws {BerthError} FAILED_PRECONDITION for an image in which /dev, /proc or /sys is a link, INVALID_ARGUMENT for a volume that may not be in /proc.
 */
export function findPlaces(root: number, requested: readonly RootMount[], fdOf: (mount: RootMount) => number): Places {
  requireDirectories(root, kernelDirectories);
  // Twice: a link of the image may lead to a path at which another link is hidden by a volume.
  const names = requested.map((mount) => normalPath(mount.target));
  const first = new Set([...kernelDirectories, ...names]);
  const points = new Set([...kernelDirectories, ...names.map((name) => placeInRoot(root, name, first))]);
  const of = (path: string) => placeInRoot(root, path, points);
  const followed = names.map(of);
  const volumes = requested.map((mount, i): RootMount => ({ ...mount, ...placeOfVolume(names, followed, i, of) }));
  for (const [i, volume] of volumes.entries()) checkVolume(names[i] as string, volume, () => fdOf(volume));
  const targets = volumes.map((volume) => volume.target);
  return { of, volumes, isInVolume: (place) => isCovered(place, targets) };
}

/** Like the files of berth, a mount point is not created in another volume through a link of the image: the link is replaced. */
function placeOfVolume(names: readonly string[], places: readonly string[], i: number, of: Places['of']): Pick<RootMount, 'target' | 'replacesLink'> {
  const [name, place] = [names[i] as string, places[i] as string];
  const others = places.filter((each) => each !== place);
  const link = linkPlace(of, name);
  return place !== link && isCovered(place, others) && !isCovered(link, others) ? { target: link, replacesLink: true } : { target: place };
}

/** Files of /proc that programs such as lxcfs replace: the same list as in runc 1.5, libcontainer/rootfs_linux.go, checkProcMount(). */
const replaceable = [
  ...['cpuinfo', 'diskstats', 'meminfo', 'stat', 'swaps', 'uptime', 'loadavg', 'slabinfo'].map((name) => `/proc/${name}`),
  '/proc/sys/kernel/ns_last_pid',
  '/proc/sys/crypto/fips_enabled',
];

function checkVolume(name: string, { target }: RootMount, open: () => number): void {
  if (target === '/') throw failedPrecondition(`mount on ${name}: a symbolic link of the image leads to /`);
  const attempt = `mount on ${name}${target === name ? '' : `, which is ${target} in the image`}`;
  if (target === '/proc' && statfsSync(`/proc/self/fd/${open()}`).type !== FS_MAGIC.PROC)
    throw invalidArgument(`${attempt}: the source must be a proc file system`);
  if (target.startsWith('/proc/') && !replaceable.includes(target))
    throw invalidArgument(`${attempt}: a volume below /proc could hide or replace files of the kernel`);
}

const isOfKernel = (place: string): boolean => isCovered(place, kernelDirectories);

/**
 * Returns the default mounts of files at their places. A link that leads into a volume is replaced by the file: nothing is created in the volume.
 *
 * @throws {BerthError} FAILED_PRECONDITION for a link to /dev, /proc or /sys, or a directory that leads into a volume: no image needs them.
 */
export function placeDefaults(places: Places, defaults: readonly RootMount[], requested: readonly RootMount[]): RootMount[] {
  const names = requested.map((mount) => normalPath(mount.target));
  return defaults.flatMap((mount): RootMount[] => {
    const { target } = mount;
    if (isOfKernel(target)) return [mount];
    const place = places.of(target);
    if (place !== target && isOfKernel(place)) throw failedPrecondition(`mount on ${target}: a symbolic link of the image leads to ${place}`);
    // A volume replaces it.
    if (names.includes(target)) return [];
    return [{ ...mount, ...placeWithoutVolume(places, target, place, `mount on ${target}`) }];
  });
}

/** Returns the target of a file that berth creates: its place, or the last link itself if the place is in a volume. */
function placeWithoutVolume(places: Places, path: string, place: string, attempt: string): Pick<RootMount, 'target' | 'replacesLink'> {
  if (place === path || !places.isInVolume(place)) return { target: place };
  const target = linkPlace(places.of, path);
  if (target !== path && places.isInVolume(target))
    throw failedPrecondition(`${attempt}: a symbolic link of the image leads to the volume at ${place}`);
  return { target, replacesLink: true };
}

/** Returns the place of the last component itself, which may be a link. */
function linkPlace(of: Places['of'], path: string): string {
  const slash = path.lastIndexOf('/');
  return normalPath(`${of(path.slice(0, slash) || '/')}/${path.slice(slash + 1)}`);
}

/** `isLink`: the image has a link at its path, which the node replaces. */
export type PlacedNode = DeviceNode & { readonly isLink: boolean };

export type PlacedNodes = {
  /** To be created: no volume is at or above their path. */
  readonly own: readonly PlacedNode[];
  /** To be mounted on a file, because their path is in a volume. */
  readonly inVolumes: readonly PlacedNode[];
};

/**
 * Returns the device nodes with their places as paths. Of several nodes at one place only the last is kept; a node at the target of a volume is omitted.
 *
 * @param all devices that were not requested one by one, and are omitted in volumes.
 * @throws {BerthError} FAILED_PRECONDITION for a place in /proc or /sys.
 */
export function placeNodes(places: Places, all: readonly DeviceNode[], requested: readonly DeviceNode[]): PlacedNodes {
  const targets = places.volumes.map((volume) => volume.target);
  const placed = (nodes: readonly DeviceNode[]) => nodes.map((node) => ({ ...node, ...placeOfNode(places, normalPath(node.path)) }));
  const found = [...placed(all).filter((node) => !places.isInVolume(node.path)), ...placed(requested)];
  const nodes = [...new Map(found.map((node) => [node.path, node])).values()].filter((node) => !targets.includes(node.path));
  return { own: nodes.filter((node) => !places.isInVolume(node.path)), inVolumes: nodes.filter((node) => places.isInVolume(node.path)) };
}

function placeOfNode(places: Places, name: string): Pick<PlacedNode, 'path' | 'isLink'> {
  const path = linkPlace(places.of, name);
  if (!isCovered(path, ['/proc', '/sys'])) return { path, isLink: !places.isInVolume(path) && places.of(path) !== path };
  throw failedPrecondition(`create device ${name}: ${path} is in ${path.split('/', 2).join('/')}, where no device can be created`);
}
