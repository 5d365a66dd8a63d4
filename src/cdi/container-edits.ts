/**
 * Reads the `containerEdits` of a CDI file: what a device changes about a container.
 *
 * Pure. What berth does not do becomes a sentence, which is told when a container asks for the device: the other devices of the file work.
 * Source: SPEC.md of the Container Device Interface 1.1.0, "OCI Edits".
 */
import type { DeviceEdits, EditedNode, EnvVar, Hook, HookPoint, Mount } from '../engine/state/spec.ts';
import { invalidArgument } from '../lib/errors.ts';
import { type Fields, shown } from './fields.ts';

export type ContainerEdits = Omit<DeviceEdits, 'names'> & {
  /** Why a container cannot have this. */
  readonly refusals: readonly string[];
};

export const editFields = ['env', 'deviceNodes', 'netDevices', 'hooks', 'mounts', 'intelRdt', 'additionalGids'];
const nodeFields = ['path', 'hostPath', 'type', 'major', 'minor', 'fileMode', 'permissions', 'uid', 'gid'];
const mountFields = ['hostPath', 'containerPath', 'options', 'type'];
const hookFields = ['hookName', 'path', 'args', 'env', 'timeout'];
const rdtFields = ['closID', 'l3CacheSchema', 'memBwSchema', 'schemata', 'enableMonitoring', 'enableCMT', 'enableMBM'];

/** 2^32 - 1 means "leave as it is" in chown(2). */
const idMax = 0xfffffffe;
/** Of dev_t: 12 bits and 20 bits, makedev(3). */
const majorMax = 0xfff;
const minorMax = 0xfffff;

/** @throws {BerthError} INVALID_ARGUMENT naming the place of what is not as the specification has it. */
export function readEdits(fields: Fields | undefined): ContainerEdits {
  if (fields === undefined) return { env: [], nodes: [], mounts: [], gids: [], hooks: [], refusals: [] };
  const mounts = fields.objects('mounts', mountFields).map(readMount);
  const hooks = fields.objects('hooks', hookFields).map(readHook);
  return {
    env: fields.texts('env').map((entry) => readVariable(entry, `${fields.at}.env`)),
    nodes: fields.objects('deviceNodes', nodeFields).map(readNode),
    mounts: mounts.filter((mount) => typeof mount !== 'string'),
    // The specification: values of 0 are ignored.
    gids: fields.numbers('additionalGids', idMax).filter((gid) => gid !== 0),
    hooks: hooks.filter((hook) => typeof hook !== 'string'),
    refusals: [...[...mounts, ...hooks].filter((each) => typeof each === 'string'), ...refusals(fields)],
  };
}

function refusals(fields: Fields): string[] {
  const interfaces = fields.objects('netDevices', ['hostInterfaceName', 'name']).map((device) => device.requiredText('hostInterfaceName'));
  const rdt = fields.object('intelRdt', rdtFields);
  return [
    ...interfaces.map((name) => `netDevices: berth does not move network interfaces into pods (${name})`),
    ...(rdt === undefined ? [] : ['intelRdt: berth does not assign classes of cache and memory bandwidth']),
  ];
}

function readVariable(entry: string, at: string): EnvVar {
  const equals = entry.indexOf('=');
  if (equals < 1) throw invalidArgument(`${at}: ${shown(entry)} is not NAME=VALUE`);
  return { name: entry.slice(0, equals), value: Buffer.from(entry.slice(equals + 1)) };
}

/** `u` is the character device of mknod(1), too. */
const nodeTypes: Readonly<Record<string, EditedNode['type']>> = { b: 'block', c: 'char', u: 'char', p: 'fifo' };

function readNode(fields: Fields): EditedNode {
  const path = fields.path('path');
  if (/^[/.]*$/.test(path)) throw invalidArgument(`${fields.at}.path: nothing can be made at ${shown(path)}`);
  const typeText = fields.text('type') || undefined;
  const type = typeText === undefined ? undefined : nodeTypes[typeText];
  if (typeText !== undefined && type === undefined) throw invalidArgument(`${fields.at}.type: ${shown(typeText)} is none of b, c, u and p`);
  const given = {
    type,
    ...numbersOf(fields, type),
    mode: fields.number('fileMode', 0o7777),
    uid: fields.number('uid', idMax),
    gid: fields.number('gid', idMax),
  };
  const hostPath = fields.text('hostPath') ? fields.path('hostPath') : path;
  return { path, hostPath, ...defined(given), permissions: permissionsOf(fields) };
}

/** Without a major number both are those of the host's node: 0 is what Go writes for what is not given. */
function numbersOf(fields: Fields, type: EditedNode['type']): { major?: number; minor?: number } {
  const major = fields.number('major', majorMax) ?? 0;
  const minor = fields.number('minor', minorMax) ?? 0;
  if (type === 'fifo') return { major: 0, minor: 0 };
  return major === 0 ? {} : { major, minor };
}

function permissionsOf(fields: Fields): string {
  const permissions = fields.text('permissions') || 'rwm';
  if (permissions === 'none') return '';
  if (!/^[rwm]+$/.test(permissions)) throw invalidArgument(`${fields.at}.permissions: ${shown(permissions)} is not a subset of rwm, nor none`);
  return permissions;
}

function defined<T extends object>(values: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}

const propagations: Readonly<Record<string, Mount['propagation']>> = {
  private: 'private',
  rprivate: 'private',
  slave: 'host-to-container',
  rslave: 'host-to-container',
  shared: 'bidirectional',
  rshared: 'bidirectional',
};
const restrictions: Readonly<Record<string, Mount['options'][number]>> = { noexec: 'noexec', nodev: 'nodev', nosuid: 'nosuid' };
/** Say what a bind is without them, or what its file system decides. */
const idleOptions = ['bind', 'rbind', 'rw', 'exec', 'dev', 'suid', 'relatime', 'async', 'defaults'];

/** @returns a sentence for a mount that berth does not make. */
function readMount(fields: Fields): Mount | string {
  const containerPath = fields.path('containerPath');
  if (/^[/.]*$/.test(containerPath)) throw invalidArgument(`${fields.at}.containerPath: nothing can be mounted on ${shown(containerPath)}`);
  const source = fields.requiredText('hostPath');
  const type = fields.text('type') || 'bind';
  const options = fields.texts('options');
  const isBind = options.some((option) => option === 'bind' || option === 'rbind');
  if (!isBind && type !== 'bind' && type !== 'none') return `mount ${containerPath}: berth mounts paths of the host only, and no ${shown(type)}`;
  const unknown = options.filter(
    (option) => !(option === 'ro' || idleOptions.includes(option) || Object.hasOwn(propagations, option) || Object.hasOwn(restrictions, option)),
  );
  if (unknown.length > 0) return `mount ${containerPath}: berth does not know the option ${shown(unknown[0])}`;
  if (!source.startsWith('/')) throw invalidArgument(`${fields.at}.hostPath: ${shown(source)} is not an absolute path`);
  return {
    containerPath,
    hostPath: source,
    isReadonly: options.includes('ro'),
    isRecursiveReadonly: false,
    propagation: options.map((option) => propagations[option]).findLast((kind) => kind !== undefined) ?? 'private',
    wantsSelinuxRelabel: false,
    options: [...new Set(options.flatMap((option) => restrictions[option] ?? []))],
    ...(options.includes('bind') && !options.includes('rbind') ? { isShallow: true } : {}),
    mustExist: true,
  };
}

const hookPoints: readonly string[] = ['prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop'] satisfies readonly HookPoint[];
/** A hook without a time-out of its own; the kubelet waits for two minutes, for all of them. */
const hookTimeoutMs = 60_000;
/** Of a timer, in seconds. */
const timeoutMax = 86_400;

/** @returns a sentence for a hook that berth does not run. */
function readHook(fields: Fields): Hook | string {
  const point = fields.requiredText('hookName');
  const path = fields.path('path');
  const argv = fields.texts('args');
  const env = fields.texts('env');
  for (const entry of env) readVariable(entry, `${fields.at}.env`);
  const timeout = fields.number('timeout', timeoutMax);
  if (timeout === 0) throw invalidArgument(`${fields.at}.timeout is 0; it must be greater`);
  // A program of the image, before the container's own: with whose rights it should run is nowhere said.
  if (point === 'startContainer') return `hook startContainer ${path}: berth runs no hooks inside of a container`;
  if (!hookPoints.includes(point)) throw invalidArgument(`${fields.at}.hookName: there is no hook ${shown(point)}`);
  return {
    point: point as HookPoint,
    path,
    argv: argv.length === 0 ? [path] : argv,
    env,
    timeoutMs: timeout === undefined ? hookTimeoutMs : timeout * 1000,
  };
}
