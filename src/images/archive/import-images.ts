/**
 * Imports images from an archive into the store: spools the archive beside the layers, resolves its images, and then continues like a pull.
 * Always removes the spool.
 */

import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { BerthError, failedPrecondition, failedTo, invalidArgument } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { imageConfigBytesMax, manifestBytesMax, orRefusal, parseImageConfig, selectPlatform } from '../document/manifest.ts';
import type { Platform } from '../document/platform.ts';
import { formatDigest, formatReference, formatTag, parseReference, type Reference } from '../document/reference.ts';
import { openTransfer, type Transfer, type TransferAccount } from '../document/transfer.ts';
import { obtainImage, pairLayers, type ResolvedImage, resolveFirst } from '../pull/obtain-image.ts';
import type { SharedLayers } from '../pull/shared-layers.ts';
import type { SignaturePolicy } from '../signature/signature-policy.ts';
import type { ImageRecord } from '../store/image-record.ts';
import type { ImageStore } from '../store/store.ts';
import type { SpooledMember } from '../unpack/spool-stream.ts';
import type { Unpacker } from '../unpack/unpack.ts';
import { digestOfConfigPath, imagesOfLayout, imagesOfSave, type LayoutImage, type SavedImage } from './archive-index.ts';
import { type ArchiveSource, openArchiveSource } from './archive-source.ts';

export type ImportDeps = {
  readonly store: ImageStore;
  readonly shared: SharedLayers;
  readonly unpacker: Pick<Unpacker, 'spool'>;
  /** Of this node. */
  readonly platform: Platform;
  /** Undefined: every image is accepted. Archives contain no signatures. */
  readonly policy?: SignaturePolicy;
  readonly log?: Log;
};

export type ImportRequest = {
  /** A tar archive, uncompressed or compressed with gzip or zstd, with its members in any order. */
  readonly archive: AsyncIterable<Buffer>;
  /** Replaces the names in an archive with a single image. */
  readonly name?: string | undefined;
  readonly signal: AbortSignal;
  /** Receives a function that returns the progress; bytes read from the archive count as received. */
  readonly onStart?: (progress: () => Transfer) => void;
};

/** A resolved image of the archive. `topDigest`: the digest of its manifest or index. */
type Found = { readonly names: readonly Reference[]; readonly image: ResolvedImage; readonly topDigest: string | undefined };

/**
 * Imports the images of an archive.
 *
 * @returns the images, without duplicates.
 * @throws {BerthError} `import …`: INVALID_ARGUMENT when it is not an image archive, or for an invalid name; FAILED_PRECONDITION for a digest mismatch,
 *   or when the policy rejects an image; NOT_FOUND when there is no image for this platform; RESOURCE_EXHAUSTED when the disk is full.
 */
export async function importImages(deps: ImportDeps, request: ImportRequest): Promise<readonly ImageRecord[]> {
  const name = request.name === undefined ? undefined : parseReference(request.name);
  if (name?.digest !== undefined) throw invalidArgument(`import ${formatReference(name)}: the name must not have a digest`);
  const startedMs = performance.now();
  const subject = name === undefined ? 'archive' : formatReference(name);
  const account = openTransfer(subject, Date.now());
  request.onStart?.(account.now);
  const { stagingDir } = await deps.store.layers.stage();
  try {
    const images = await importSpooled(deps, { ...request, name, account, spool: join(stagingDir, 'spool') });
    const durationMs = Math.round(performance.now() - startedMs);
    deps.log?.info({ images: images.map(({ id }) => id), bytes: account.now().receivedBytes, durationMs }, 'images imported');
    return images;
  } catch (error) {
    if (request.signal.aborted) throw request.signal.reason;
    throw failedTo(`import ${subject}`, error);
  } finally {
    await deps.store.layers.discard(stagingDir);
  }
}

type Run = Omit<ImportRequest, 'name'> & { readonly name: Reference | undefined; readonly account: TransferAccount; readonly spool: string };

async function importSpooled(deps: ImportDeps, run: Run): Promise<readonly ImageRecord[]> {
  const bytes = Readable.from(run.archive, { objectMode: false });
  const members = await deps.unpacker.spool({ file: run.spool }, bytes, run.signal, (count) => run.account.received('', count));
  const file = await open(run.spool);
  try {
    const source = openArchiveSource(file, run.spool, new Map(members.map((member) => [member.path, member])));
    const found = withName(await findImages(deps, source, members), run.name);
    for (const { names } of found) requireAllowed(deps, names);
    const images = new Map<string, ImageRecord>();
    for (const each of found) for (const image of await store(deps, run, source, each)) images.set(image.id, image);
    return [...images.values()];
  } finally {
    await file.close();
  }
}

async function findImages(deps: ImportDeps, source: ArchiveSource, members: readonly SpooledMember[]): Promise<readonly Found[]> {
  const paths = new Set(members.map(({ path }) => path));
  // Current versions of Docker write both; the layout contains more.
  if (paths.has('index.json')) {
    const images = imagesOfLayout(await source.read('index.json', manifestBytesMax));
    return withoutRefusals(deps, await oneByOne(images, (image) => resolveLayout(deps, source, image)));
  }
  if (!paths.has('manifest.json'))
    throw invalidArgument('the archive has neither an index.json (OCI image layout) nor a manifest.json (docker save)');
  const images = imagesOfSave(await source.read('manifest.json', manifestBytesMax));
  return await oneByOne(images, (image) => resolveSave(deps, source, image));
}

/** Runs `act` sequentially: a thousand images at once would hold as many documents in memory and open as many files. */
async function oneByOne<From, To>(values: readonly From[], act: (value: From, position: number) => Promise<To>): Promise<readonly To[]> {
  const results: To[] = [];
  for (const [position, value] of values.entries()) results.push(await act(value, position));
  return results;
}

/** @returns an error when it is not an image for this platform. */
async function resolveLayout(deps: ImportDeps, source: ArchiveSource, { name, candidates }: LayoutImage): Promise<Found | BerthError> {
  const chosen = candidates.length === 1 ? candidates : orRefusal(() => selectPlatform({ manifests: candidates, refusals: [] }, deps.platform));
  if (chosen instanceof BerthError) return chosen;
  const subject = name === undefined ? `image ${chosen[0]?.digest}` : `image ${formatReference(name)}`;
  const image = await resolveFirst(source, chosen, deps.platform, subject);
  return image instanceof BerthError ? image : { names: name === undefined ? [] : [name], image, topDigest: image.digests[0] };
}

/** Entries of a layout may be artifacts or images for other platforms. @throws {BerthError} the first refusal when there is nothing else. */
function withoutRefusals(deps: ImportDeps, found: readonly (Found | BerthError)[]): readonly Found[] {
  const images = found.filter((each): each is Found => !(each instanceof BerthError));
  const refusals = found.filter((each) => each instanceof BerthError);
  if (images.length === 0 && refusals[0] !== undefined) throw refusals[0];
  for (const { message } of refusals) deps.log?.warn({ reason: message }, 'entry of an archive skipped');
  return images;
}

async function resolveSave(deps: ImportDeps, source: ArchiveSource, saved: SavedImage): Promise<Found> {
  const configBytes = await source.read(saved.configPath, imageConfigBytesMax);
  const claimed = digestOfConfigPath(saved.configPath);
  const digest = `sha256:${createHash('sha256').update(configBytes).digest('hex')}`;
  if (claimed !== undefined && claimed !== digest) throw failedPrecondition(`config ${saved.configPath}: digest mismatch: found ${digest}`);
  const { diffIds } = parseImageConfig(configBytes);
  const descriptors = await oneByOne(saved.layerPaths, (path, position) => source.describe(path, diffIds[position] ?? ''));
  return { names: saved.names, image: { digests: [], ...pairLayers(configBytes, descriptors, deps.platform) }, topDigest: undefined };
}

function withName(found: readonly Found[], name: Reference | undefined): readonly Found[] {
  if (found.length === 0) throw invalidArgument('the archive contains no image');
  if (name === undefined) return found;
  const [only] = found;
  if (only === undefined || found.length > 1)
    throw invalidArgument(`the archive contains ${found.length} images; a name can be set only for a single image`);
  return [{ ...only, names: [name] }];
}

function requireAllowed({ policy }: ImportDeps, names: readonly Reference[]): void {
  const refusal = policy?.refusal(names.map(formatReference), []);
  if (refusal !== undefined) throw refusal;
}

/** Stores the image once for each of its names; the layers are unpacked with the first. */
async function store(deps: ImportDeps, run: Run, source: ArchiveSource, { names, image, topDigest }: Found): Promise<readonly ImageRecord[]> {
  const stored: ImageRecord[] = [];
  for (const name of names.length === 0 ? [undefined] : names) {
    const digest = name === undefined || topDigest === undefined ? undefined : formatDigest(name, topDigest);
    const tag = name === undefined ? undefined : formatTag(name);
    const obtained = await obtainImage(deps, { image, source, names: { tag, digest }, account: run.account, signal: run.signal });
    stored.push(obtained.image);
  }
  return stored;
}
