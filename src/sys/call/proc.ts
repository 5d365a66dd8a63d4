/**
 * Parses /proc/PID/mountinfo. Pure.
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

/** Returns all mounts in the kernel's order: a later mount on the same mount point covers an earlier one. Invalid lines are skipped. */
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

/** Space, tab, newline and backslash are octal escapes. */
function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Returns the mount that contains a path: the last one with the longest mount point that is a prefix. Undefined only for an empty list. */
export function mountOf(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  let best: MountInfo | undefined;
  for (const mount of mounts) {
    const isPrefix = mount.mountPoint === '/' || path === mount.mountPoint || path.startsWith(`${mount.mountPoint}/`);
    if (isPrefix && (best === undefined || mount.mountPoint.length >= best.mountPoint.length)) best = mount;
  }
  return best;
}
