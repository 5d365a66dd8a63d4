/**
 * Merges the command of a container from the request and the image, and lists the paths to try with execve(2).
 *
 * Pure. Never looks at files: the monitor tries the candidates in order, inside the container's root.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { defaultPath } from './environment.ts';

/**
 * Returns the argument vector. `command` replaces ENTRYPOINT and discards the image's CMD; `args` replace CMD.
 *
 * @throws {BerthError} INVALID_ARGUMENT if the command or its name is empty, or an argument contains NUL.
 */
export function mergeCommand(
  request: { readonly command: readonly string[]; readonly args: readonly string[] },
  image: { readonly entrypoint: readonly string[]; readonly cmd: readonly string[] },
): string[] {
  const hasCommand = request.command.length > 0;
  const cmd = hasCommand ? [] : image.cmd;
  const argv = [...(hasCommand ? request.command : image.entrypoint), ...(request.args.length > 0 ? request.args : cmd)];
  if (argv.length === 0) throw invalidArgument('missing command: neither the request nor the image specifies one');
  if (argv[0] === '') throw invalidArgument('invalid command: argument 0 is empty');
  const invalid = argv.findIndex((arg) => arg.includes('\0'));
  if (invalid !== -1) throw invalidArgument(`invalid command: argument ${invalid} contains NUL`);
  return argv;
}

/**
 * Returns the paths to try with execve, in order, as execvp(3) does: a name with a slash as it is, any other name in each directory of PATH.
 * Empty and relative directories of PATH are relative to the working directory.
 *
 * @param path the value of PATH; undefined if it is not set.
 * @param cwd absolute path of the working directory inside the container.
 * @returns absolute paths without duplicates. Never empty.
 */
export function executableCandidates(argv0: string, path: string | undefined, cwd: string): string[] {
  if (argv0.includes('/')) return [within(cwd, argv0)];
  return [...new Set((path ?? defaultPath).split(':').map((directory) => within(within(cwd, directory), argv0)))];
}

/** Joins paths without normalizing them: if `a` is a link, `a/../b` is not `b`. The kernel resolves them. */
function within(directory: string, path: string): string {
  if (path.startsWith('/')) return path;
  return path === '' ? directory : `${directory.replace(/\/+$/, '')}/${path}`;
}
