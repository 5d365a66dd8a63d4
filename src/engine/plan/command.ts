/**
 * What a container runs: the request's command and args over the image's, and where execve(2) looks for the program.
 *
 * Pure. Never looks at files: the monitor tries the candidates in order, inside the container's root.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { defaultPath } from './environment.ts';

/**
 * The argument vector. `command` replaces ENTRYPOINT, and the image's CMD then does not count; `args` replace CMD.
 *
 * @throws {BerthError} INVALID_ARGUMENT when nothing is left to run, its name is empty, or an argument holds NUL.
 */
export function mergeCommand(
  request: { readonly command: readonly string[]; readonly args: readonly string[] },
  image: { readonly entrypoint: readonly string[]; readonly cmd: readonly string[] },
): string[] {
  const hasCommand = request.command.length > 0;
  const cmd = hasCommand ? [] : image.cmd;
  const argv = [...(hasCommand ? request.command : image.entrypoint), ...(request.args.length > 0 ? request.args : cmd)];
  if (argv.length === 0) throw invalidArgument('no command to run: neither the request nor the image names one');
  if (argv[0] === '') throw invalidArgument('the name of the command to run is empty');
  const bad = argv.findIndex((arg) => arg.includes('\0'));
  if (bad !== -1) throw invalidArgument(`argument ${bad} of the command holds NUL`);
  return argv;
}

/**
 * The paths on which execve is to be tried, in order, as execvp(3) does: a name with a slash only as itself, any other in each directory
 * of PATH. An empty or relative directory of PATH is taken from the working directory.
 *
 * @param path the value of PATH; undefined when it is not set.
 * @param cwd absolute path of the working directory inside the container.
 * @returns absolute paths, each once. Never empty.
 */
export function executableCandidates(argv0: string, path: string | undefined, cwd: string): string[] {
  if (argv0.includes('/')) return [within(cwd, argv0)];
  return [...new Set((path ?? defaultPath).split(':').map((directory) => within(within(cwd, directory), argv0)))];
}

/** Not normalised: `a/../b` is something else than `b` when `a` is a link, and that is for the kernel to say. */
function within(directory: string, path: string): string {
  if (path.startsWith('/')) return path;
  return path === '' ? directory : `${directory.replace(/\/+$/, '')}/${path}`;
}
