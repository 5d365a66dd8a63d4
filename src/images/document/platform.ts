/**
 * Platforms: which variants of an image a CPU can run, and the aliases of an architecture.
 *
 * Pure: the node's platform is an argument, never probed here.
 */
import { notFound } from '../../lib/errors.ts';
import { quoted } from './untrusted-json.ts';

export type Platform = { readonly os: string; readonly architecture: string; readonly variant?: string };

/**
 * Returns the platform of images for a CPU.
 *
 * @param nodeArch Node's name of the architecture.
 * @param cpuFlags of /proc/cpuinfo; they decide the variant on x86-64.
 */
export function toPlatform(nodeArch: string, cpuFlags: ReadonlySet<string> = new Set()): Platform {
  if (nodeArch === 'x64') {
    const missing = amd64Levels.findIndex(({ flags }) => !flags.every((flag) => cpuFlags.has(flag)));
    const variant = amd64Levels.at(missing < 0 ? -1 : missing - 1)?.variant;
    return { os: 'linux', architecture: 'amd64', ...(missing === 0 || variant === undefined ? {} : { variant }) };
  }
  if (nodeArch === 'arm64') return { os: 'linux', architecture: 'arm64', variant: 'v8' };
  if (nodeArch === 'arm') return { os: 'linux', architecture: 'arm', variant: 'v7' };
  return { os: 'linux', architecture: nodeArch };
}

/** Each level includes the ones before it. Source: x86-64 psABI, section 3.1.1; Linux arch/x86/include/asm/cpufeatures.h for the flags' names. */
const amd64Levels: readonly { readonly variant: string; readonly flags: readonly string[] }[] = [
  { variant: 'v2', flags: ['cx16', 'lahf_lm', 'popcnt', 'pni', 'sse4_1', 'sse4_2', 'ssse3'] },
  { variant: 'v3', flags: ['avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe', 'xsave'] },
  { variant: 'v4', flags: ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'] },
];

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
  const named = platform.architecture.toLowerCase();
  const architecture = Object.hasOwn(aliases, named) ? (aliases[named] ?? '') : named;
  const given = platform.variant?.toLowerCase() || (named === 'armel' ? 'v6' : '');
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
