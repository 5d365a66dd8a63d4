/**
 * Formats the output of `berth image ls` and `berth image verify`. Pure.
 */
import type { Verification } from '../images/store/verify.ts';

/** An image as in ListImagesResponse. */
export type ListedImage = {
  readonly id?: string | undefined;
  readonly repo_tags?: readonly string[] | undefined;
  readonly repo_digests?: readonly string[] | undefined;
  readonly size?: string | number | undefined;
};

/** Returns a table with a row for each tag. Images without tags are listed by digest. */
export function imageTable(images: readonly ListedImage[]): string {
  const rows = images.flatMap(({ id = '', repo_tags: tags = [], repo_digests: digests = [], size = 0 }) => {
    const names = tags.length > 0 ? tags : digests.length > 0 ? digests : ['<none>'];
    return names.map((name) => [name, id.replace(/^sha256:/, '').slice(0, 12), `${(Number(size) / 1e6).toFixed(1)}MB`]);
  });
  const table = [['IMAGE', 'IMAGE ID', 'SIZE'], ...rows.sort(([a = ''], [b = '']) => (a < b ? -1 : 1))];
  const widths = [0, 1].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  return table.map(([name = '', id = '', size = '']) => `${name.padEnd(widths[0] ?? 0)}  ${id.padEnd(widths[1] ?? 0)}  ${size}`).join('\n');
}

/** Returns a line for each problem, and the totals. */
export function verificationText(found: Verification): string {
  const { images, layers, files, bytes, damages, badImages, unrecorded, temporary } = found;
  const isIntact = damages.length === 0 && badImages.length === 0;
  const counts = [plural(images, 'image'), plural(layers, 'layer'), `${files} files and links`, `${(bytes / 1e6).toFixed(1)}MB`];
  return [
    ...badImages,
    ...damages.flatMap(({ layer, reasons, images: users }) => [
      ...reasons.map((reason) => `layer ${layer}: ${reason}`),
      `layer ${layer}: ${users.length === 0 ? 'not used by any image' : `used by ${users.length === 1 ? 'image' : 'images'} ${users.join(', ')}`}`,
    ]),
    ...unrecorded.map((layer) => `layer ${layer}: cannot be verified: nothing was recorded when it was unpacked`),
    ...temporary.map((name) => `${name}: temporary, from a pull in progress or a killed daemon; removed when the daemon starts`),
    `${counts.join(', ')}: ${isIntact ? 'ok' : 'corrupt'}`,
  ].join('\n');
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
