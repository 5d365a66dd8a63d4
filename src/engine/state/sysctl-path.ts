/**
 * Names of sysctls. Pure.
 */

/**
 * Returns the file of a sysctl, relative to /proc/sys: `net/ipv4/conf/eth0.100/forwarding`. The first separator of a name decides: after a dot, dots
 * separate and slashes stand for dots; after a slash, it is the other way round. Source: sysctl.d(5).
 *
 * @returns undefined for a name that is not one, such as an absolute path, one with `..`, or one with other characters than names have.
 */
export function sysctlPath(name: string): string | undefined {
  const separator = /[./]/.exec(name)?.[0];
  const path = separator === '.' ? name.replace(/[./]/g, (each) => (each === '.' ? '/' : '.')) : name;
  const isValid = separator !== undefined && path.split('/').every((part) => /^[A-Za-z0-9_@:-][A-Za-z0-9_.@:-]*$/.test(part));
  return isValid ? path : undefined;
}
