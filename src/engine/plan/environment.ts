/**
 * Composes a process's environment from defaults, the image's and the request's.
 *
 * Pure. Values are bytes: never decoded, never in an error message.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { EnvVar } from '../state/spec.ts';

/** Where programs are looked for when nobody says: the value that Docker and containerd give. */
export const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export type EnvironmentSources = {
  readonly hasTerminal: boolean;
  readonly hostname: string;
  /** `NAME=value`, from the image's config. */
  readonly imageEnv: readonly string[];
  readonly requestEnv: readonly EnvVar[];
  /** Home directory of the user the process runs as. */
  readonly home: string;
};

/**
 * `NAME=value` strings for execve(2), each name once. Later sources win: PATH, TERM and HOSTNAME by default, the image, the request;
 * HOME when none of them says. What the image has without a name or without `=` is left out, as other runtimes do.
 *
 * @throws {BerthError} INVALID_ARGUMENT for a name that is empty or holds `=` or NUL, and for a value with NUL.
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
    if (name === '' || name.includes('=')) throw invalidArgument(`environment variable ${shown(name)}: a name is not empty and has no "="`);
    set(name, value);
  }
  if (!values.has('HOME')) set('HOME', sources.home || '/');
  return [...values].map(([name, value]) => entryOf(name, value));
}

/** The value of a name in what composeEnvironment() gave, as text. */
export function environmentValue(environment: readonly Buffer[], name: string): string | undefined {
  const prefix = Buffer.from(`${name}=`);
  return environment.find((entry) => entry.subarray(0, prefix.length).equals(prefix))?.toString('utf8', prefix.length);
}

function entryOf(name: string, value: Buffer): Buffer {
  if (name.includes('\0')) throw invalidArgument(`environment variable ${shown(name)}: NUL in its name`);
  if (value.includes(0)) throw invalidArgument(`environment variable ${shown(name)}: NUL in its value`);
  return Buffer.concat([Buffer.from(`${name}=`), value]);
}

const shown = (name: string): string => JSON.stringify(name.slice(0, 64));
