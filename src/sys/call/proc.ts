/**
 * Parses what /proc tells of mounts. Pure.
 */

/** A line of /proc/PID/mountinfo, proc_pid_mountinfo(5). */
export type MountInfo = {
  readonly id: number;
  readonly parentId: number;
  /** `major:minor`. */
  readonly device: string;
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** `shared:N`, `master:N`, `propagate_from:N`, `unbindable`. */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
};

/** All mounts, in the kernel's order: a later one on the same point lies over an earlier one. Lines that do not parse are left out. */
export function parseMountInfo(text: string): MountInfo[] {
  return text.split('\n').flatMap((line) => {
    const separator = line.indexOf(' - ');
    if (separator < 0) return [];
    const [id, parentId, device, root, mountPoint, options, ...propagation] = line.slice(0, separator).split(' ');
    const [type, source, superOptions] = line.slice(separator + 3).split(' ');
    if (options === undefined || type === undefined) return [];
    return [
      {
        id: Number(id),
        parentId: Number(parentId),
        device: device ?? '',
        root: unescapeOctal(root ?? ''),
        mountPoint: unescapeOctal(mountPoint ?? ''),
        options: options.split(','),
        propagation,
        type,
        source: unescapeOctal(source ?? ''),
        superOptions: (superOptions ?? '').split(','),
      },
    ];
  });
}

/** Space, tab, newline and backslash stand as octal escapes. */
function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The mount that a path lies on: the last of those whose point is the longest prefix. Undefined only for an empty list. */
export function mountOf(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  let best: MountInfo | undefined;
  for (const mount of mounts) {
    const isPrefix = mount.mountPoint === '/' || path === mount.mountPoint || path.startsWith(`${mount.mountPoint}/`);
    if (isPrefix && (best === undefined || mount.mountPoint.length >= best.mountPoint.length)) best = mount;
  }
  return best;
}
