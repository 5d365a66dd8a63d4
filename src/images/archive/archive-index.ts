/**
 * Reads the index of an image archive: an OCI image layout, or the output of old and current versions of `docker save`.
 *
 * Pure. The input is untrusted. Sources: OCI image spec, image-layout.md and annotations.md; containerd and Docker write the full name
 * of an image to `io.containerd.image.name` (facts).
 */
import { posix } from 'node:path';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { type Descriptor, orRefusal, parseDescriptor } from '../document/manifest.ts';
import { findReference, formatReference, type Reference } from '../document/reference.ts';
import { parseFields, parseList, quoted, toFields, toList, toOptionalText, toOptionalTextMap, toOptionalTexts } from '../document/untrusted-json.ts';
import type { SpooledMember } from '../unpack/spool-stream.ts';

export type ArchiveMembers = ReadonlyMap<string, SpooledMember>;
export type ArchivedContent = Extract<SpooledMember, { kind: 'file' }>;

/** The images of one name, or without a name. One of the manifests and indexes is selected by platform. */
export type LayoutImage = { readonly name: Reference | undefined; readonly candidates: readonly Descriptor[] };

/** An image of `docker save`. The paths are paths of members. */
export type SavedImage = { readonly names: readonly Reference[]; readonly configPath: string; readonly layerPaths: readonly string[] };

const imagesMax = 1000;
const namesMax = 1000;
const layersMax = 500;
const linksMax = 40;

/**
 * Returns the content of a path. Follows links within the archive: old versions of Docker wrote a layer once and linked to it.
 *
 * @throws {BerthError} FAILED_PRECONDITION when the archive has no such file.
 */
export function contentOf(members: ArchiveMembers, path: string): ArchivedContent {
  let at = posix.normalize(path);
  for (let links = 0; links <= linksMax; links += 1) {
    const member = members.get(at);
    if (member === undefined) break;
    if (member.kind === 'file') return member;
    at = member.kind === 'link' ? posix.normalize(member.target) : posix.join(posix.dirname(at), member.target);
  }
  throw failedPrecondition(`missing member ${quoted(path)}`);
}

/** Returns `blobs/sha256/…`. */
export function blobPath(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

/**
 * Returns the images of an `index.json`, in its order. Entries with the same name are one image for several platforms. An entry with neither
 * name nor platform is an image of its own. An entry that cannot be used does not affect the others.
 *
 * @throws {BerthError} FAILED_PRECONDITION when it is invalid, or when no entry can be used.
 */
export function imagesOfLayout(bytes: Buffer): readonly LayoutImage[] {
  const { manifests } = parseFields(bytes, 'index.json', ['manifests']);
  const images = new Map<string, { readonly name: Reference | undefined; readonly candidates: Descriptor[] }>();
  let refusal: BerthError | undefined;
  for (const [position, value] of toList(manifests, 'index.json manifests', imagesMax).entries()) {
    const entry = orRefusal(() => parseEntry(value, `index.json manifests[${position}]`));
    if (entry instanceof BerthError) {
      refusal ??= entry;
      continue;
    }
    const { name, descriptor } = entry;
    const key = name !== undefined ? formatReference(name) : descriptor.platform === undefined ? `${position}` : '';
    const known = images.get(key);
    if (known === undefined) images.set(key, { name, candidates: [descriptor] });
    else known.candidates.push(descriptor);
  }
  if (images.size === 0 && refusal !== undefined) throw refusal;
  return [...images.values()];
}

function parseEntry(value: unknown, what: string): { readonly name: Reference | undefined; readonly descriptor: Descriptor } {
  const { annotations } = toFields(value, what, ['annotations']);
  return { name: nameOf(toOptionalTextMap(annotations, `${what} annotations`, namesMax)), descriptor: parseDescriptor(value, what) };
}

/** Many tools write only a tag. It is ignored: its repository is unknown. */
function nameOf(annotations: Readonly<Record<string, string>>): Reference | undefined {
  const full = annotations['io.containerd.image.name'] ?? '';
  const name = annotations['org.opencontainers.image.ref.name'] ?? '';
  return findReference(full) ?? (/[/:@]/.test(name) ? findReference(name) : undefined);
}

/** Returns the images of a `manifest.json`. @throws {BerthError} FAILED_PRECONDITION when it is invalid. */
export function imagesOfSave(bytes: Buffer): readonly SavedImage[] {
  let count = 0;
  return parseList(bytes, 'manifest.json', imagesMax).map((value, position) => {
    const what = `manifest.json [${position}]`;
    const image = toFields(value, what, ['Config', 'RepoTags', 'Layers']);
    const names = toOptionalTexts(image.RepoTags, `${what} RepoTags`, namesMax);
    count += names.length;
    if (count > namesMax) throw failedPrecondition(`manifest.json: more than ${namesMax} names`);
    return {
      names: names.flatMap((name) => findReference(name) ?? []),
      configPath: toOptionalText(image.Config, `${what} Config`),
      layerPaths: toOptionalTexts(image.Layers, `${what} Layers`, layersMax),
    };
  });
}

/** Returns the digest in the path of a config: `<hex>.json` in old archives, `blobs/sha256/<hex>` in current ones. */
export function digestOfConfigPath(path: string): string | undefined {
  const hex = /(?:^|\/)([0-9a-f]{64})(?:\.json)?$/.exec(path)?.[1];
  return hex === undefined ? undefined : `sha256:${hex}`;
}
