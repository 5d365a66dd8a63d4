/**
 * Converts a CreateContainerRequest to a ContainerSpec, with all checks that need neither the image, files nor the kernel. Pure.
 */
import { posix } from 'node:path';
import type { ContainerSpec, EnvVar, SandboxSpec } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import {
  absolutePath,
  boundedList,
  boundedMap,
  boundedPath,
  boundedText,
  ownBytes,
  present,
  quoted,
  type RequestFacts,
  requiredName,
  withoutNul,
} from './checks.ts';
import { deviceFrom, mountFrom } from './mounts-from-request.ts';
import { initialResourcesFrom } from './resources-from-request.ts';
import { securitySpecFrom } from './security-from-request.ts';

/**
 * @param sandbox the recorded spec; the sandbox config in the request is ignored.
 * @throws {BerthError} INVALID_ARGUMENT for invalid fields or conflicts with the sandbox, UNIMPLEMENTED for unsupported features,
 *   FAILED_PRECONDITION for features that this node lacks.
 */
export function containerSpecFrom({ config }: cri.CreateContainerRequest, sandbox: SandboxSpec, facts: RequestFacts): ContainerSpec {
  if (config === undefined) throw invalidArgument('config: missing');
  const { linux = {}, command = [], args = [] } = config;
  const metadata = { name: requiredName('metadata.name', config.metadata?.name), attempt: config.metadata?.attempt ?? 0 };
  return present({
    metadata,
    image: imageOf(config.image),
    command: command.map((word) => withoutNul('command', word)),
    args: args.map((word) => withoutNul('args', word)),
    workingDir: config.working_dir ? absolutePath('working_dir', config.working_dir) : '',
    env: environment(config.envs ?? []),
    mounts: boundedList('mounts', config.mounts).map((mount) => mountFrom(mount, facts, sandbox.namespaces.user)),
    devices: boundedList('devices', config.devices).map(deviceFrom),
    labels: boundedMap('labels', config.labels),
    annotations: boundedMap('annotations', config.annotations),
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
    userSpecified: boundedText('image.user_specified_image', image?.user_specified_image ?? ''),
    annotations: boundedMap('image.annotations', image?.annotations),
    runtimeHandler: boundedText('image.runtime_handler', image?.runtime_handler ?? ''),
  };
}

/** Errors never contain a value, because values may be secrets. */
function environment(pairs: readonly cri.KeyValue[]): EnvVar[] {
  const values = ownBytes(pairs.map(({ value }) => value ?? Buffer.alloc(0)));
  return pairs.map(({ key = '' }, index) => {
    const value = values[index] ?? Buffer.alloc(0);
    // The text after the first "=" may be a value.
    if (key === '' || /[=\0]/.test(key))
      throw invalidArgument(
        `envs: invalid name that starts with ${quoted(key.split(/[=\0]/, 1)[0] ?? '')}: a name must not be empty, or contain "=" or NUL`,
      );
    if (value.includes(0)) throw invalidArgument(`envs: the value of ${quoted(key)} contains NUL`);
    return { name: key, value };
  });
}

/** Returns undefined if either part is missing: the output is then discarded. */
function logPath(directory: string, path: string): string | undefined {
  if (directory === '' || path === '') return undefined;
  boundedPath('log_path', path);
  const joined = posix.join(directory, path);
  const inside = posix.relative(directory, joined);
  if (posix.isAbsolute(path) || inside === '' || inside.split('/')[0] === '..' || joined.endsWith('/')) {
    throw invalidArgument(`log_path: ${quoted(path)} is not a file below the sandbox's log directory`);
  }
  return joined;
}

/** Converts by name, `SIGNAL_SIGRTMINPLUS3` to `SIGRTMIN+3`, because the enum's values are not signal numbers. */
function stopSignal(signal: cri.Signal | undefined): string | undefined {
  if (signal === undefined || signal === 'SIGNAL_RUNTIME_DEFAULT') return undefined;
  // An unknown enum value is decoded as its number.
  if (typeof signal !== 'string') throw invalidArgument(`stop_signal: unknown signal ${signal}`);
  return signal.replace('SIGNAL_', '').replace('PLUS', '+').replace('MINUS', '-');
}

/**
 * Returns the names of CDI devices, unchecked. Old kubelets send the devices of device plugins as annotations with comma-separated names;
 * a kubelet may send the same devices in both forms.
 */
export function deviceNames({ CDI_devices: devices = [], annotations = {} }: cri.ContainerConfig): string[] {
  const annotated = Object.keys(annotations).filter((key) => key.startsWith('cdi.k8s.io/'));
  const names = [...devices.map((device) => device.name ?? ''), ...annotated.sort().flatMap((key) => (annotations[key] ?? '').split(','))];
  return [...boundedList('CDI_devices', names)];
}
