/**
 * Platforms: which variants of an image a CPU can run, and the aliases of an architecture.
 *
 * Pure: the node's platform is an argument, never probed here.
 */
import { notFound } from '../../lib/errors.ts';
import { quoted } from './untrusted-json.ts';

export type Platform = { readonly os: string; readonly architecture: string; readonly variant?: string };

/** Returns the platform of images for a CPU. @param nodeArch Node's name of the architecture. */
export function toPlatform(nodeArch: string): Platform {
  if (nodeArch === 'x64') return { os: 'linux', architecture: 'amd64' };
  if (nodeArch === 'arm64') return { os: 'linux', architecture: 'arm64', variant: 'v8' };
  if (nodeArch === 'arm') return { os: 'linux', architecture: 'arm', variant: 'v7' };
  return { os: 'linux', architecture: nodeArch };
}

/** Returns the variants that a CPU can run, best first. An image without a variant is for the baseline (arm: v7, as Docker). */
export function acceptedVariants(platform: Platform): readonly string[] {
  const { architecture, variant } = normalized(platform);
  const levels: Readonly<Record<string, readonly string[]>> = { amd64: ['v4', 'v3', 'v2', ''], arm: ['v8', 'v7', 'v6', 'v5'], arm64: [''] };
  const known = levels[architecture];
  if (known === undefined) return variant === undefined ? [''] : [variant, ''];
  const own = known.indexOf(variant ?? '');
  // An unknown variant is newer than this table: it can run all of them.
  return own < 0 ? [variant ?? '', ...known] : known.slice(own);
}

/** Replaces aliases by the canonical names. Source: containerd platforms/database.go (facts). */
export function normalized(platform: Platform): Platform {
  const aliases: Readonly<Record<string, string>> = { x86_64: 'amd64', 'x86-64': 'amd64', aarch64: 'arm64', armhf: 'arm', armel: 'arm' };
  const architecture = Object.hasOwn(aliases, platform.architecture) ? (aliases[platform.architecture] ?? '') : platform.architecture;
  const given = platform.variant ?? (platform.architecture === 'armel' ? 'v6' : '');
  const variant = /^[0-9]/.test(given) ? `v${given}` : given;
  const os = platform.os.toLowerCase();
  if (architecture === 'arm') return { os, architecture, variant: variant === '' ? 'v7' : variant };
  const isBaseline = (architecture === 'arm64' && variant === 'v8') || (architecture === 'amd64' && variant === 'v1');
  return variant === '' || isBaseline ? { os, architecture } : { os, architecture, variant };
}

export function platformText(platform: Platform): string {
  return [platform.os, platform.architecture, ...(platform.variant === undefined ? [] : [platform.variant])].join('/');
}

/**
 * Checks the platform in the config of an image, which need not have been selected from an index. An absent value matches.
 *
 * @throws {BerthError} NOT_FOUND when the image is for another system or architecture.
 */
export function checkPlatform(config: { readonly os: string; readonly architecture: string }, platform: Platform): void {
  const image = normalized(config);
  const node = normalized(platform);
  const fits = (image.os === '' || image.os === node.os) && (image.architecture === '' || image.architecture === node.architecture);
  if (!fits) throw notFound(`image platform ${quoted(platformText(config))} does not match node platform ${platformText(platform)}`);
}
