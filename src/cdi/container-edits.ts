/**
 * Reads the `containerEdits` of a CDI file: the changes that a device makes to a container.
 *
 * Pure. An unsupported edit does not invalidate the file: it becomes an error text, which is returned when a container requests the device.
 * Source: SPEC.md of the Container Device Interface 1.1.0, "OCI Edits".
 */
import type { DeviceEdits, EditedNode, EnvVar, Hook, HookPoint, Mount } from '../engine/state/spec.ts';
import { invalidArgument } from '../lib/errors.ts';
import { type Fields, shown } from './fields.ts';

export type ContainerEdits = Omit<DeviceEdits, 'names'> & {
  /** Edits that berth does not support, as error texts. */
  readonly refusals: readonly string[];
};

export const editFields = ['env', 'deviceNodes', 'netDevices', 'hooks', 'mounts', 'intelRdt', 'additionalGids'];
const nodeFields = ['path', 'hostPath', 'type', 'major', 'minor', 'fileMode', 'permissions', 'uid', 'gid'];
const mountFields = ['hostPath', 'containerPath', 'options', 'type'];
const hookFields = ['hookName', 'path', 'args', 'env', 'timeout'];
const rdtFields = ['closID', 'l3CacheSchema', 'memBwSchema', 'schemata', 'enableMonitoring', 'enableCMT', 'enableMBM'];

/** chown(2) reserves 2^32 - 1: it means "do not change". */
const idMax = 0xfffffffe;
/** The kernel's dev_t: 12 bits for the major number, 20 bits for the minor, makedev(3). */
const majorMax = 0xfff;
const minorMax = 0xfffff;

/** Reads one `containerEdits` object. @throws {BerthError} INVALID_ARGUMENT with the path of the field that violates the specification. */
export function readEdits(fields: Fields | undefined): ContainerEdits {
  if (fields === undefined) return { env: [], nodes: [], mounts: [], gids: [], hooks: [], refusals: [] };
  const mounts = fields.objects('mounts', mountFields).map(readMount);
  const hooks = fields.objects('hooks', hookFields).map(readHook);
  return {
    env: fields.texts('env').map((entry) => readVariable(entry, `${fields.at}.env`)),
    nodes: fields.objects('deviceNodes', nodeFields).map(readNode),
    mounts: mounts.filter((mount) => typeof mount !== 'string'),
    // By the specification, 0 is ignored.
    gids: fields.numbers('additionalGids', idMax).filter((gid) => gid !== 0),
    hooks: hooks.filter((hook) => typeof hook !== 'string'),
    refusals: [...[...mounts, ...hooks].filter((each) => typeof each === 'string'), ...refusals(fields)],
  };
}

function refusals(fields: Fields): string[] {
  const interfaces = fields.objects('netDevices', ['hostInterfaceName', 'name']).map((device) => device.requiredText('hostInterfaceName'));
  const rdt = fields.object('intelRdt', rdtFields);
  return [
    ...interfaces.map((name) => `netDevices: moving network interfaces into pods is not supported (${name})`),
    ...(rdt === undefined ? [] : ['intelRdt: not supported']),
  ];
}

function readVariable(entry: string, at: string): EnvVar {
  const equals = entry.indexOf('=');
  if (equals < 1) throw invalidArgument(`${at}: ${shown(entry)} is not NAME=VALUE`);
  return { name: entry.slice(0, equals), value: Buffer.from(entry.slice(equals + 1)) };
}

/** As in mknod(1), `u` is a character device too. */
const nodeTypes: Readonly<Record<string, EditedNode['type']>> = { b: 'block', c: 'char', u: 'char', p: 'fifo' };

function readNode(fields: Fields): EditedNode {
  const path = fields.path('path');
  if (/^[/.]*$/.test(path)) throw invalidArgument(`${fields.at}.path: invalid path ${shown(path)}`);
  const typeText = fields.text('type') || undefined;
  const type = typeText === undefined ? undefined : nodeTypes[typeText];
  if (typeText !== undefined && type === undefined) throw invalidArgument(`${fields.at}.type: unknown type ${shown(typeText)}; want b, c, u or p`);
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

/** Without a major number, both numbers are taken from the host's node. Go writes 0 for an absent number. */
function numbersOf(fields: Fields, type: EditedNode['type']): { major?: number; minor?: number } {
  const major = fields.number('major', majorMax) ?? 0;
  const minor = fields.number('minor', minorMax) ?? 0;
  if (type === 'fifo') return { major: 0, minor: 0 };
  return major === 0 ? {} : { major, minor };
}

function permissionsOf(fields: Fields): string {
  const permissions = fields.text('permissions') || 'rwm';
  if (permissions === 'none') return '';
  if (!/^[rwm]+$/.test(permissions)) throw invalidArgument(`${fields.at}.permissions: ${shown(permissions)} is neither a subset of rwm nor "none"`);
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
/** Options without effect: defaults of a bind mount, and options that its file system determines. */
const ignoredOptions = ['bind', 'rbind', 'rw', 'exec', 'dev', 'suid', 'relatime', 'async', 'defaults'];

/** @returns an error text for a mount that berth does not support. */
function readMount(fields: Fields): Mount | string {
  const containerPath = fields.path('containerPath');
  if (/^[/.]*$/.test(containerPath)) throw invalidArgument(`${fields.at}.containerPath: invalid path ${shown(containerPath)}`);
  const source = fields.requiredText('hostPath');
  const type = fields.text('type') || 'bind';
  const options = fields.texts('options');
  const isBind = options.some((option) => option === 'bind' || option === 'rbind');
  if (!isBind && type !== 'bind' && type !== 'none') return `mount ${containerPath}: unsupported type ${shown(type)}; only bind mounts are supported`;
  const unknown = options.filter(
    (option) => !(option === 'ro' || ignoredOptions.includes(option) || Object.hasOwn(propagations, option) || Object.hasOwn(restrictions, option)),
  );
  if (unknown.length > 0) return `mount ${containerPath}: unsupported option ${shown(unknown[0])}`;
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
/** The default timeout of a hook. The kubelet waits two minutes for all hooks together. */
const hookTimeoutMs = 60_000;
/** The longest timeout that a file may set, in seconds. */
const timeoutMax = 86_400;

/** @returns an error text for a hook that berth does not run. */
function readHook(fields: Fields): Hook | string {
  const point = fields.requiredText('hookName');
  const path = fields.path('path');
  const argv = fields.texts('args');
  const env = fields.texts('env');
  for (const entry of env) readVariable(entry, `${fields.at}.env`);
  const timeout = fields.number('timeout', timeoutMax);
  if (timeout === 0) throw invalidArgument(`${fields.at}.timeout must be greater than 0`);
  // Runs a program of the image before the container's process; no specification defines its privileges.
  if (point === 'startContainer') return `hook startContainer ${path}: hooks inside the container are not supported`;
  if (!hookPoints.includes(point)) throw invalidArgument(`${fields.at}.hookName: unknown hook ${shown(point)}`);
  return {
    point: point as HookPoint,
    path,
    argv: argv.length === 0 ? [path] : argv,
    env,
    timeoutMs: timeout === undefined ? hookTimeoutMs : timeout * 1000,
  };
}
