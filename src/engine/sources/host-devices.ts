/**
 * Looks up devices on the host: devices requested by path or by a CDI file, and all devices for privileged containers.
 */

import { lstatSync, readdirSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { failedPrecondition, invalidArgument, unusable } from '../../lib/errors.ts';
import { deviceNumbers } from '../../sys/filesystem/block-devices.ts';
import type { DeviceRule } from '../cgroup/device-rules.ts';
import { type DeviceNode, standardDevicePaths } from '../plan/devices.ts';
import type { Device, EditedNode } from '../state/spec.ts';

export type FoundDevices = { readonly nodes: DeviceNode[]; readonly rules: DeviceRule[] };

/**
 * Looks up requested devices. A host path may be a link, or a directory, which stands for all devices below it.
 *
 * @throws {BerthError} FAILED_PRECONDITION for a missing path, INVALID_ARGUMENT for a path that is not a device.
 */
export function findDevices(devices: readonly Device[]): FoundDevices {
  const nodes = devices.flatMap((device) => findDevice(device).map((node) => ({ node, access: device.permissions || 'rwm' })));
  return { nodes: nodes.map(({ node }) => node), rules: nodes.flatMap(({ node, access }) => ruleOf(node, access)) };
}

function ruleOf({ type, major, minor }: DeviceNode, access: string): DeviceRule[] {
  return type === 'fifo' || access === '' ? [] : [{ type, major, minor, access }];
}

/**
 * Completes nodes of a CDI file from the host's node. A node with type and device numbers needs no node on the host.
 *
 * @param owner of nodes for which the file names no owner.
 * @throws {BerthError} FAILED_PRECONDITION for a missing node, or one of another type than in the file.
 */
export function findEditedNodes(nodes: readonly EditedNode[], owner: { readonly uid: number; readonly gid: number }): FoundDevices {
  const found = nodes.map((node) => ({ node: { ...owner, ...completeNode(node) }, access: node.permissions }));
  return { nodes: found.map(({ node }) => node), rules: found.flatMap(({ node, access }) => ruleOf(node, access)) };
}

function completeNode({ permissions, ...node }: EditedNode): Omit<DeviceNode, 'uid' | 'gid'> {
  const { type, major, minor = 0, hostPath } = node;
  const host = hostNode(hostPath);
  if (type !== undefined && major !== undefined) return { mode: host?.mode ?? 0o666, ...node, type, major, minor };
  if (host === undefined) throw failedPrecondition(`CDI device node ${hostPath}: no such device on the host`);
  if (type !== undefined && type !== host.type)
    throw failedPrecondition(`CDI device node ${hostPath}: type is ${host.type} on the host, but ${type} in the CDI file`);
  return { ...host, ...node };
}

function hostNode(path: string): Pick<DeviceNode, 'type' | 'major' | 'minor' | 'mode'> | undefined {
  const stat = statOf('CDI device node', path);
  if (stat === undefined) return undefined;
  if (stat.isFIFO()) return { type: 'fifo', major: 0, minor: 0, mode: stat.mode & 0o777 };
  const node = nodeOf(stat, path, path);
  return node && { type: node.type, major: node.major, minor: node.minor, mode: node.mode };
}

/** @returns undefined if the path does not exist. @throws {BerthError} FAILED_PRECONDITION for one that cannot be followed, such as a loop of links. */
function statOf(kind: string, path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw unusable(`${kind} ${path}`, error);
  }
}

function findDevice(device: Device): DeviceNode[] {
  const stat = statOf('device', device.hostPath);
  if (stat === undefined) throw failedPrecondition(`device ${device.hostPath}: no such file or directory`);
  if (stat.isDirectory()) return devicesBelow(device.hostPath, device.containerPath);
  const node = nodeOf(stat, device.containerPath, device.hostPath);
  if (node === undefined) throw invalidArgument(`device ${device.hostPath} is not a device`);
  return [node];
}

/** Parts of /dev that each container has for itself. */
const ownPaths = new Set(['/dev/pts', '/dev/shm', '/dev/mqueue', '/dev/console', '/dev/ptmx']);
const standardPaths = new Set(standardDevicePaths);

/** Returns all device nodes of the host's /dev, for privileged containers, except the standard ones. */
export function hostDevices(): DeviceNode[] {
  return devicesBelow('/dev', '/dev').filter((node) => !standardPaths.has(node.path));
}

function devicesBelow(hostPath: string, containerPath: string): DeviceNode[] {
  const nodes: DeviceNode[] = [];
  for (const name of readdirSync(hostPath)) {
    const [from, to] = [join(hostPath, name), join(containerPath, name)];
    if (ownPaths.has(from)) continue;
    // A device may disappear at any time. Links in a directory are not followed.
    const stat = lstatSync(from, { throwIfNoEntry: false });
    if (stat?.isDirectory()) nodes.push(...devicesBelow(from, to));
    const node = stat && nodeOf(stat, to, from);
    if (node !== undefined) nodes.push(node);
  }
  return nodes;
}

function nodeOf(stat: Stats, path: string, hostPath: string): DeviceNode | undefined {
  if (!stat.isCharacterDevice() && !stat.isBlockDevice()) return undefined;
  const { major, minor } = deviceNumbers(BigInt(stat.rdev));
  return { hostPath, path, type: stat.isBlockDevice() ? 'block' : 'char', major, minor, mode: stat.mode & 0o777, uid: stat.uid, gid: stat.gid };
}
