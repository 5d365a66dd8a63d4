import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import { type ExportDeps, exportImages } from './export-images.ts';

const id = `sha256:${'a'.repeat(64)}`;
const pieceBytes = 256 << 10;

type Layers = Readonly<Record<string, { readonly tarBytes: number; readonly pieces: (signal: AbortSignal) => AsyncGenerator<Buffer, undefined> }>>;

/** A store with one image. `events` receives what happens to its layers. */
function fakeDeps(layers: Layers, events: string[] = []): ExportDeps {
  const image = { id, configText: '{}', repoTags: ['docker.io/team/app:1'], diffIds: Object.keys(layers) };
  async function* assemble({ diffId }: AssembleJob, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
    events.push('assemble');
    try {
      yield* layers[diffId]?.pieces(signal) ?? [];
    } finally {
      events.push('assembled');
    }
  }
  const store = {
    find: (name: string) => (name === 'app' ? image : undefined),
    lease: () => void events.push('lease'),
    release: async () => void events.push('release'),
    layers: { facts: (diffId: string) => layers[diffId], filesDir: (diffId: string) => diffId, tarSplitFile: (diffId: string) => diffId },
  };
  return { store, unpacker: { assemble } } as unknown as ExportDeps;
}

const digestOf = (hash: 'sha256' | 'sha512', text: string): string => `${hash}:${createHash(hash).update(text).digest('hex')}`;

function layerOf(...pieces: readonly Buffer[]): Layers[string] {
  return {
    tarBytes: pieces.reduce((total, { length }) => total + length, 0),
    pieces: async function* () {
      yield* pieces;
      return undefined;
    },
  };
}

async function archiveOf(deps: ExportDeps): Promise<Buffer> {
  const { totalBytes, bytes } = exportImages(deps, ['app'], new AbortController().signal);
  const pieces: Buffer[] = [];
  for await (const piece of bytes) pieces.push(piece);
  const archive = Buffer.concat(pieces);
  assert.equal(archive.length, totalBytes);
  return archive;
}

test('exportImages() writes an archive of the announced size that GNU tar reads, with paths of both kinds of digests', async () => {
  const [short, long] = [digestOf('sha256', 'short'), digestOf('sha512', 'long')];
  const layers = { [short]: layerOf(Buffer.alloc(512, 'x'), Buffer.alloc(1, 'y')), [long]: layerOf(Buffer.alloc(pieceBytes, 'z')) };
  const archive = await archiveOf(fakeDeps(layers));
  assert.ok(archive.equals(await archiveOf(fakeDeps(layers))), 'deterministic');
  const tar = (...args: string[]): string => execFileSync('tar', [...args, '-f', '-'], { input: archive, encoding: 'utf8' });
  const listed = tar('--list', '--verbose', '--numeric-owner', '--utc', '--full-time').trimEnd().split('\n');
  const lineOf = (path: string): string | undefined => listed.find((line) => line.endsWith(` ${path}`))?.replaceAll(/ +/g, ' ');
  assert.equal(lineOf('blobs/'), 'drwxr-xr-x 0/0 0 1970-01-01 00:00:00 blobs/');
  for (const [path, size] of [
    [`blobs/${short.replace(':', '/')}`, 513],
    [`blobs/${long.replace(':', '/')}`, pieceBytes],
  ] as const)
    assert.equal(lineOf(path), `-rw-r--r-- 0/0 ${size} 1970-01-01 00:00:00 ${path}`);
  assert.equal(tar('--extract', '--to-stdout', `blobs/${short.replace(':', '/')}`), `${'x'.repeat(512)}y`);
  assert.deepEqual(JSON.parse(tar('--extract', '--to-stdout', 'oci-layout')), { imageLayoutVersion: '1.0.0' });
});

test('exportImages() reads a layer only as fast as the archive is read', async () => {
  let assembledBytes = 0;
  const layer: Layers[string] = {
    tarBytes: 100 * pieceBytes,
    pieces: async function* () {
      for (; assembledBytes < 100 * pieceBytes; assembledBytes += pieceBytes) yield Buffer.alloc(pieceBytes);
      return undefined;
    },
  };
  const { bytes } = exportImages(fakeDeps({ [digestOf('sha256', 'l')]: layer }), ['app'], new AbortController().signal);
  let readBytes = 0;
  for await (const { length } of bytes) {
    readBytes += length;
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(assembledBytes <= readBytes + 3 * pieceBytes, `${assembledBytes} bytes ahead of ${readBytes}`);
  }
  assert.equal(assembledBytes, 100 * pieceBytes);
});

/** Yields one piece and then waits until the signal is aborted. */
const stalled: Layers[string] = {
  tarBytes: 10 * pieceBytes,
  pieces: async function* (signal) {
    yield Buffer.alloc(pieceBytes);
    await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    return undefined;
  },
};

test('exportImages() ends the lease and stops the layer when the reader stops early', async () => {
  // After each number of reads: before the first, between documents, and in the layer.
  for (const reads of [0, 1, 2, 17, 18, 19]) {
    const events: string[] = [];
    const { bytes } = exportImages(fakeDeps({ [digestOf('sha256', 'l')]: stalled }, events), ['app'], new AbortController().signal);
    for (let read = 0; read < reads; read += 1) assert.equal((await bytes.next()).done, false);
    await new Promise((resolve) => setImmediate(resolve));
    await bytes.return(undefined);
    const assembled = events.includes('assemble') ? ['assemble', 'assembled'] : [];
    assert.deepEqual(events, reads === 0 ? [] : ['lease', ...assembled, 'release']);
  }
});

test('exportImages() fails with the reason of an aborted signal', async () => {
  const events: string[] = [];
  const controller = new AbortController();
  const { bytes } = exportImages(fakeDeps({ [digestOf('sha256', 'l')]: stalled }, events), ['app'], controller.signal);
  setTimeout(() => controller.abort(new Error('client left')), 20);
  const read = async (): Promise<void> => {
    while (!(await bytes.next()).done);
  };
  await assert.rejects(read(), { message: 'client left' });
  assert.deepEqual(events, ['lease', 'assemble', 'assembled', 'release']);
});

test('exportImages() fails when a layer fails or has another size', async () => {
  const failing = async function* (): AsyncGenerator<Buffer, undefined> {
    yield Buffer.alloc(600);
    throw new Error('disk failure');
  };
  for (const [layer, message] of [
    [{ tarBytes: 1000, pieces: failing }, 'export: disk failure'],
    [{ ...layerOf(Buffer.alloc(600)), tarBytes: 700 }, 'export: Size mismatch'],
    [{ ...layerOf(Buffer.alloc(600)), tarBytes: 500 }, 'export: Size mismatch'],
  ] as const) {
    const events: string[] = [];
    await assert.rejects(archiveOf(fakeDeps({ [digestOf('sha256', 'l')]: layer }, events)), { code: 'INTERNAL', message });
    assert.deepEqual(events, ['lease', 'assemble', 'assembled', 'release']);
  }
});
