/**
 * The supported versions of the CNI specification and their order.
 *
 * Pure: calls no plugin.
 */

/** Released versions, oldest first. Source: the release list of the CNI specification. */
export const cniVersions = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

export type CniVersion = (typeof cniVersions)[number];

export function isCniVersion(text: unknown): text is CniVersion {
  return (cniVersions as readonly unknown[]).includes(text);
}

/** Reports whether `version` is `minimum` or newer. */
export function isAtLeast(version: CniVersion, minimum: CniVersion): boolean {
  return cniVersions.indexOf(version) >= cniVersions.indexOf(minimum);
}
