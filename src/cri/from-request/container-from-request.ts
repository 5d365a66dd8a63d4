/**
 * CreateContainerRequest -> ContainerSpec: everything about a container that can be refused without image, files or kernel is refused here. Pure.
 */
import { posix } from 'node:path';
import type { ContainerSpec, EnvVar, SandboxSpec } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { absolutePath, ownBytes, present, quoted, type RequestFacts, requiredName, withoutNul } from './checks.ts';
import { deviceFrom, mountFrom } from './mounts-from-request.ts';
import { initialResourcesFrom } from './resources-from-request.ts';
import { securitySpecFrom } from './security-from-request.ts';

/**
 * @param sandbox as it was made; the request repeats its config, which is not read.
 * @throws {BerthError} INVALID_ARGUMENT for what contradicts itself, the contract or the sandbox, UNIMPLEMENTED for what berth does not do yet,
 *   FAILED_PRECONDITION for what this node cannot do.
 */
export function containerSpecFrom({ config }: cri.CreateContainerRequest, sandbox: SandboxSpec, facts: RequestFacts): ContainerSpec {
  if (config === undefined) throw invalidArgument('config: it is missing');
  const { linux = {}, command = [], args = [], annotations = {} } = config;
  const metadata = { name: requiredName('metadata.name', config.metadata?.name), attempt: config.metadata?.attempt ?? 0 };
  return present({
    metadata,
    image: imageOf(config.image),
    command: command.map((word) => withoutNul('command', word)),
    args: args.map((word) => withoutNul('args', word)),
    workingDir: config.working_dir ? absolutePath('working_dir', config.working_dir) : '',
    env: environment(config.envs ?? []),
    mounts: (config.mounts ?? []).map((mount) => mountFrom(mount, facts, sandbox.namespaces.user)),
    devices: (config.devices ?? []).map(deviceFrom),
    labels: config.labels ?? {},
    annotations,
    logPath: logPath(sandbox.logDirectory, config.log_path ?? ''),
    hasStdin: config.stdin ?? false,
    closesStdinAfterFirstAttach: config.stdin_once ?? false,
    hasTerminal: config.tty ?? false,
    resources: initialResourcesFrom(linux.resources),
    security: securitySpecFrom(linux.security_context, sandbox, facts),
    stopSignal: stopSignal(config.stop_signal),
  });
}

function imageOf(image: cri.ImageSpec | undefined): ContainerSpec['image'] {
  return {
    requested: requiredName('image.image', image?.image),
    userSpecified: image?.user_specified_image ?? '',
    annotations: image?.annotations ?? {},
    runtimeHandler: image?.runtime_handler ?? '',
  };
}

/** Never shows a value: those are where secrets are. */
function environment(pairs: readonly cri.KeyValue[]): EnvVar[] {
  const values = ownBytes(pairs.map(({ value }) => value ?? Buffer.alloc(0)));
  return pairs.map(({ key = '' }, index) => {
    const value = values[index] ?? Buffer.alloc(0);
    // What follows the first "=" may be meant as a value, and no value goes into an error.
    if (key === '' || /[=\0]/.test(key))
      throw invalidArgument(`envs: a name is empty, or holds "=" or NUL after ${quoted(key.split(/[=\0]/, 1)[0] ?? '')}`);
    if (value.includes(0)) throw invalidArgument(`envs: the value of ${quoted(key)} holds a NUL`);
    return { name: key, value };
  });
}

/** Undefined when either part is missing: the output is then discarded. */
function logPath(directory: string, path: string): string | undefined {
  if (directory === '' || path === '') return undefined;
  withoutNul('log_path', path);
  const joined = posix.join(directory, path);
  const inside = posix.relative(directory, joined);
  if (posix.isAbsolute(path) || inside === '' || inside.split('/')[0] === '..' || joined.endsWith('/')) {
    throw invalidArgument(`log_path: ${quoted(path)} is not a file below the sandbox's log directory`);
  }
  return joined;
}

/** Numbers of the enum are not numbers of signals, so names are what counts: `SIGNAL_SIGRTMINPLUS3` -> `SIGRTMIN+3`. */
function stopSignal(signal: cri.Signal | undefined): string | undefined {
  if (signal === undefined || signal === 'SIGNAL_RUNTIME_DEFAULT') return undefined;
  // A number that the contract has no name for arrives as that number.
  if (typeof signal !== 'string') throw invalidArgument(`stop_signal: there is no signal ${signal}`);
  return signal.replace('SIGNAL_', '').replace('PLUS', '+').replace('MINUS', '-');
}

/**
 * Names of devices of the Container Device Interface, unchecked. Device plugins of old kubelets have them as annotations, with commas between;
 * a kubelet may send the same ones both ways.
 */
export function deviceNames({ CDI_devices: devices = [], annotations = {} }: cri.ContainerConfig): string[] {
  const annotated = Object.keys(annotations).filter((key) => key.startsWith('cdi.k8s.io/'));
  return [...devices.map((device) => device.name ?? ''), ...annotated.sort().flatMap((key) => (annotations[key] ?? '').split(','))];
}
