/**
 * Finds devices by name in the CDI files of a node and merges their container edits.
 *
 * Pure: device-files.ts reads the files.
 */
import type { DeviceEdits } from '../engine/state/spec.ts';
import { failedPrecondition } from '../lib/errors.ts';
import type { ContainerEdits } from './container-edits.ts';
import type { DeviceFile } from './device-file.ts';
import { checkedNames } from './qualified-name.ts';

/** A CDI file, or the reason why it could not be read. */
export type FoundFile = { readonly path: string; readonly directory: string } & (
  | { readonly file: DeviceFile; readonly failure?: never }
  | { readonly failure: string; readonly file?: never }
);

/** `directories`: the directories searched; later ones have precedence. */
export type Catalog = { readonly directories: readonly string[]; readonly files: readonly FoundFile[] };

type Found = { readonly name: string; readonly path: string; readonly file: DeviceFile; readonly edits: ContainerEdits };

/**
 * Returns the merged edits of the devices, in the order of the names. The edits of a whole file are applied once, before its first device.
 *
 * @param names may contain duplicates.
 * @throws {BerthError} INVALID_ARGUMENT for invalid names; FAILED_PRECONDITION with all unknown devices, with two files that define the same
 *   device, or with an unsupported edit.
 */
export function editsOf(names: readonly string[], catalog: Catalog): DeviceEdits {
  const devices = checkedNames(names).map((name) => ({ name, found: findDevice(name, catalog) }));
  const unknown = devices.filter(({ found }) => found === undefined).map(({ name }) => name);
  if (unknown.length > 0) throw failedPrecondition(unknownText(unknown, catalog));
  const found = devices.flatMap((device) => device.found ?? []);
  for (const { name, path, file, edits } of found) {
    const [refusal] = [...file.edits.refusals, ...edits.refusals];
    if (refusal !== undefined) throw failedPrecondition(`CDI device ${name} in ${path}: ${refusal}`);
  }
  return merge(
    found.map(({ name }) => name),
    found.flatMap(({ file, edits }, i) => (found.findIndex((each) => each.file === file) === i ? [file.edits, edits] : [edits])),
  );
}

/** Returns the device from the last directory that defines it. @throws {BerthError} FAILED_PRECONDITION when two files of that directory define it. */
function findDevice(name: string, { directories, files }: Catalog): Found | undefined {
  const all = files.flatMap(({ path, directory, file }): (Found & { readonly directory: string })[] => {
    const edits = file?.devices.get(name);
    return file === undefined || edits === undefined ? [] : [{ name, path, directory, file, edits }];
  });
  const directory = directories.findLast((each) => all.some((found) => found.directory === each));
  const [found, second] = all.filter((each) => each.directory === directory);
  if (found !== undefined && second !== undefined) {
    throw failedPrecondition(`CDI device ${name} is ambiguous: defined in ${found.path} and ${second.path}`);
  }
  return found;
}

function unknownText(names: readonly string[], { directories, files }: Catalog): string {
  if (directories.length === 0) return `CDI devices ${names.join(', ')}: not found: the setting cdi_spec_dirs is empty`;
  const failures = files.flatMap(({ path, failure }) => (failure === undefined ? [] : [`; read ${path}: ${failure}`]));
  return `CDI devices ${names.join(', ')}: not found in ${directories.join(', ')}${failures.join('')}`;
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
