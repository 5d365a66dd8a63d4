/**
 * What `berth image` prints. Pure.
 */
import type { Verification } from '../images/store/verify.ts';

/** As the CRI lists it. */
export type ListedImage = {
  readonly id?: string | undefined;
  readonly repo_tags?: readonly string[] | undefined;
  readonly repo_digests?: readonly string[] | undefined;
  readonly size?: string | number | undefined;
};

/** One line a name; images without a tag by their digests. */
export function imageTable(images: readonly ListedImage[]): string {
  const rows = images.flatMap(({ id = '', repo_tags: tags = [], repo_digests: digests = [], size = 0 }) => {
    const names = tags.length > 0 ? tags : digests.length > 0 ? digests : ['<none>'];
    return names.map((name) => [name, id.replace(/^sha256:/, '').slice(0, 12), `${(Number(size) / 1e6).toFixed(1)} MB`]);
  });
  const table = [['IMAGE', 'ID', 'SIZE'], ...rows.sort(([a = ''], [b = '']) => (a < b ? -1 : 1))];
  const widths = [0, 1].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  return table.map(([name = '', id = '', size = '']) => `${name.padEnd(widths[0] ?? 0)}  ${id.padEnd(widths[1] ?? 0)}  ${size}`).join('\n');
}

/** What was read, and a line for all that is wrong. */
export function verificationText(found: Verification): string {
  const { images, layers, files, bytes, damages, badImages, unrecorded, temporary } = found;
  const isWhole = damages.length === 0 && badImages.length === 0;
  return [
    ...badImages,
    ...damages.flatMap(({ layer, reasons, images: its }) => [
      ...reasons.map((reason) => `layer ${layer}: ${reason}`),
      `layer ${layer}: ${its.length === 0 ? 'no image has it' : `images ${its.join(', ')}`}`,
    ]),
    ...unrecorded.map((layer) => `layer ${layer}: nothing was recorded when it was unpacked, so nothing can be said of it`),
    ...temporary.map((name) => `${name}: of a pull under way, or left by a daemon that was killed; the next start removes it`),
    `${images} images, ${layers} layers, ${files} files and links, ${(bytes / 1e6).toFixed(1)} MB: ${isWhole ? 'whole' : 'damaged'}`,
  ].join('\n');
}
