/**
 * Composes the environment of a process from defaults, the image and the request.
 *
 * Pure. Values are bytes. They are never decoded and never appear in an error message.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { EnvVar } from '../state/spec.ts';

/** PATH if neither the image nor the request sets it: the default of Docker and containerd. */
export const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export type EnvironmentSources = {
  readonly hasTerminal: boolean;
  readonly hostname: string;
  /** `NAME=value` entries of the image's config. */
  readonly imageEnv: readonly string[];
  readonly requestEnv: readonly EnvVar[];
  /** Home directory of the user the process runs as. */
  readonly home: string;
};

/**
 * Returns `NAME=value` strings for execve(2), each name once. Later sources win: defaults for PATH, TERM and HOSTNAME, then the image, then the
 * request. HOME is set if none of them sets it. Entries of the image without a name or without `=` are skipped, as in other runtimes.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a name that is empty or contains `=` or NUL, and for a value that contains NUL.
 */
export function composeEnvironment(sources: EnvironmentSources): Buffer[] {
  const values = new Map<string, Buffer>();
  const set = (name: string, value: string | Buffer): void => {
    values.set(name, Buffer.from(value));
  };
  set('PATH', defaultPath);
  if (sources.hasTerminal) set('TERM', 'xterm');
  set('HOSTNAME', sources.hostname);
  for (const entry of sources.imageEnv) {
    const end = entry.indexOf('=');
    if (end > 0) set(entry.slice(0, end), entry.slice(end + 1));
  }
  for (const { name, value } of sources.requestEnv) {
    if (name === '' || name.includes('='))
      throw invalidArgument(`environment variable ${shown(name)}: invalid name: must not be empty or contain "="`);
    set(name, value);
  }
  if (!values.has('HOME')) set('HOME', sources.home || '/');
  return [...values].map(([name, value]) => entryOf(name, value));
}

/** Returns the value of a variable in a result of composeEnvironment(), as text. */
export function environmentValue(environment: readonly Buffer[], name: string): string | undefined {
  const prefix = Buffer.from(`${name}=`);
  return environment.find((entry) => entry.subarray(0, prefix.length).equals(prefix))?.toString('utf8', prefix.length);
}

function entryOf(name: string, value: Buffer): Buffer {
  if (name.includes('\0')) throw invalidArgument(`environment variable ${shown(name)}: the name contains NUL`);
  if (value.includes(0)) throw invalidArgument(`environment variable ${shown(name)}: the value contains NUL`);
  return Buffer.concat([Buffer.from(`${name}=`), value]);
}

const shown = (name: string): string => JSON.stringify(name.slice(0, 64));
