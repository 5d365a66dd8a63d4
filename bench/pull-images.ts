/**
 * Generates the images of the pull benchmark from seeds. The bytes are the same on every machine with the same Node version.
 *
 * The content compresses about as well as software. Layers are generated one at a time, so that only one is in memory.
 */
import { createHash } from 'node:crypto';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { type Member, makeTar } from '../test/support/tar-maker.ts';

export type Shape = 'small' | 'large';
export type Compression = 'gzip' | 'zstd';

export type BenchImage = {
  /** Repository and tag in the registry, e.g. `bench/small-12-gzip:1`. */
  readonly reference: string;
  readonly layers: readonly BenchLayer[];
};

export type BenchLayer = {
  readonly seed: number;
  readonly shape: Shape;
  readonly files: number;
  readonly fileBytes: number;
  readonly compression: Compression;
};

export type MadeLayer = { readonly blob: Buffer; readonly digest: string; readonly diffId: string; readonly mediaType: string };

const small = { shape: 'small', files: 12_000, fileBytes: 8 << 10 } as const;
const large = { shape: 'large', files: 12, fileBytes: 16 << 20 } as const;

/** Returns the images whose pulls are measured. They share no layers. */
export function benchImages(): BenchImage[] {
  const cases = [small, large].flatMap((kind) =>
    [1, 12].flatMap((count) => (['gzip', 'zstd'] as const).map((compression) => ({ kind, count, compression }))),
  );
  return cases.map(({ kind, count, compression }, position) => ({
    reference: `bench/${kind.shape}-${count}-${compression}:1`,
    layers: Array.from({ length: count }, (_, at) => layerSpec(kind, kind.files / count, 1000 * (position + 1) + at, compression)),
  }));
}

/**
 * Returns three images with the same eleven base layers and a unique last layer. `other` has the base layers compressed with zstd, so that only their
 * diff ids are equal.
 */
export function sharingImages(): { readonly base: BenchImage; readonly same: BenchImage; readonly other: BenchImage } {
  const base = (compression: Compression) => Array.from({ length: 11 }, (_, at) => layerSpec(small, small.files / 12, 90_000 + at, compression));
  const image = (name: string, compression: Compression, seed: number): BenchImage => ({
    reference: `bench/${name}:1`,
    layers: [...base(compression), layerSpec(small, small.files / 12, seed, compression)],
  });
  return { base: image('base', 'gzip', 91_000), same: image('same', 'gzip', 92_000), other: image('other', 'zstd', 93_000) };
}

function layerSpec(kind: typeof small | typeof large, files: number, seed: number, compression: Compression): BenchLayer {
  return { seed, shape: kind.shape, files, fileBytes: kind.fileBytes, compression };
}

export function makeLayer(layer: BenchLayer): MadeLayer {
  const tar = makeTar(createMembers(layer));
  const isGzip = layer.compression === 'gzip';
  const blob = isGzip ? gzipSync(tar, { level: 6 }) : zstdCompressSync(tar, { params: { [constants.ZSTD_c_compressionLevel]: 3 } });
  return { blob, digest: digestOf(blob), diffId: digestOf(tar), mediaType: `application/vnd.oci.image.layer.v1.tar+${layer.compression}` };
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Generates files, twenty per directory, three directories deep. The size of a small file is between 1/8 and 15/8 of fileBytes. */
function createMembers({ seed, shape, files, fileBytes }: BenchLayer): Member[] {
  const random = createRandom(seed);
  const text = makeText(random);
  const members: Member[] = [];
  for (let file = 0; file < files; file += 1) {
    const directory = `opt/${seed}/part${Math.floor(file / 400)}/dir${Math.floor(file / 20)}/`;
    if (file % 20 === 0) members.push({ path: directory });
    const sizeBytes = shape === 'large' ? fileBytes : Math.floor(fileBytes * (0.125 + random() * 1.75));
    const content = Buffer.allocUnsafe(sizeBytes);
    for (let at = 0; at < sizeBytes; ) {
      const from = Math.floor(random() * (text.length - 4096));
      at += text.copy(content, at, from, from + 64 + Math.floor(random() * 960));
    }
    members.push({ path: `${directory}file${file}.txt`, content, mode: file % 7 === 0 ? 0o755 : 0o644 });
  }
  return members;
}

/** Returns 4 MiB of words with an uneven frequency, and some random bytes as in binaries. */
function makeText(random: () => number): Buffer {
  const words = Array.from({ length: 4096 }, () => Array.from({ length: 2 + random() * 9 }, () => String.fromCharCode(97 + random() * 26)).join(''));
  const text = Buffer.alloc(4 << 20);
  for (let at = 0; at < text.length; ) {
    if (random() < 0.01) for (const end = Math.min(text.length, at + 200); at < end; at += 1) text[at] = random() * 256;
    else at += text.write(`${words[Math.floor(words.length * random() ** 3)]} `, at, 'latin1');
  }
  return text;
}

/** Returns a generator of numbers in [0, 1) (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
