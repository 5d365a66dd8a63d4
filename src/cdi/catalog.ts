/**
 * Finds devices by name among the CDI files of a node, and merges what they change about a container.
 *
 * Pure: device-files.ts has read the files.
 */
import type { DeviceEdits } from '../engine/state/spec.ts';
import { failedPrecondition } from '../lib/errors.ts';
import type { ContainerEdits } from './container-edits.ts';
import type { DeviceFile } from './device-file.ts';
import { checkedNames } from './qualified-name.ts';

/** A file that was read, or why it could not be. */
export type FoundFile = { readonly path: string; readonly directory: string } & (
  | { readonly file: DeviceFile; readonly failure?: never }
  | { readonly failure: string; readonly file?: never }
);

/** `directories`: those that were looked into, the later ones of higher precedence. */
export type Catalog = { readonly directories: readonly string[]; readonly files: readonly FoundFile[] };

type Found = { readonly name: string; readonly path: string; readonly file: DeviceFile; readonly edits: ContainerEdits };

/**
 * What the devices change, in the order of the names: of each file once, before the first of its devices.
 *
 * @param names may repeat.
 * @throws {BerthError} INVALID_ARGUMENT for names that are none; FAILED_PRECONDITION naming all devices that are not there, the two files of one that
 *   is in both, and what berth does not do.
 */
export function editsOf(names: readonly string[], catalog: Catalog): DeviceEdits {
  const devices = checkedNames(names).map((name) => ({ name, found: findDevice(name, catalog) }));
  const unknown = devices.filter(({ found }) => found === undefined).map(({ name }) => name);
  if (unknown.length > 0) throw failedPrecondition(unknownText(unknown, catalog));
  const found = devices.flatMap((device) => device.found ?? []);
  for (const { name, path, file, edits } of found) {
    const [refusal] = [...file.edits.refusals, ...edits.refusals];
    if (refusal !== undefined) throw failedPrecondition(`CDI device ${name} of ${path}: ${refusal}`);
  }
  return merge(
    found.map(({ name }) => name),
    found.flatMap(({ file, edits }, i) => (found.findIndex((each) => each.file === file) === i ? [file.edits, edits] : [edits])),
  );
}

/** That of the last directory that has one. @throws {BerthError} FAILED_PRECONDITION when it is there twice. */
function findDevice(name: string, { directories, files }: Catalog): Found | undefined {
  const all = files.flatMap(({ path, directory, file }): (Found & { readonly directory: string })[] => {
    const edits = file?.devices.get(name);
    return file === undefined || edits === undefined ? [] : [{ name, path, directory, file, edits }];
  });
  const directory = directories.findLast((each) => all.some((found) => found.directory === each));
  const [found, second] = all.filter((each) => each.directory === directory);
  if (found !== undefined && second !== undefined) {
    throw failedPrecondition(`CDI device ${name} is in ${found.path} and in ${second.path}; remove one`);
  }
  return found;
}

function unknownText(names: readonly string[], { directories, files }: Catalog): string {
  if (directories.length === 0) return `CDI devices ${names.join(', ')}: this node has none; the setting cdi_spec_dirs is empty`;
  const failures = files.flatMap(({ path, failure }) => (failure === undefined ? [] : [`; ${path} was not read: ${failure}`]));
  return `CDI devices ${names.join(', ')}: not in any file of ${directories.join(', ')}${failures.join('')}`;
}

function merge(names: readonly string[], all: readonly ContainerEdits[]): DeviceEdits {
  return {
    names,
    env: all.flatMap(({ env }) => env),
    nodes: all.flatMap(({ nodes }) => nodes),
    mounts: all.flatMap(({ mounts }) => mounts),
    gids: [...new Set(all.flatMap(({ gids }) => gids))],
    hooks: all.flatMap(({ hooks }) => hooks),
  };
}
