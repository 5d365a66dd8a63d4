/**
 * Test bed for unpacking layers: an unpacker, a directory, streams of layers, and a description of directory trees.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createUnpacker, type Unpacker } from '../../src/images/unpack/unpack.ts';
import type { UnpackedLayer } from '../../src/images/unpack/unpack-protocol.ts';
import { BerthError } from '../../src/lib/errors.ts';

export const workerFile = new URL('../../src/images/unpack/unpack-worker.ts', import.meta.url);

export type LayerBed = {
  readonly directory: string;
  readonly unpacker: Unpacker;
  /** Creates a new empty directory. */
  readonly newDir: () => string;
  /** Unpacks a tar into a new directory. */
  readonly unpack: (tar: Buffer, options?: UnpackOptions) => Promise<{ readonly root: string; readonly layer: UnpackedLayer }>;
  /** Asserts that unpacking fails with this code. @returns the error message. */
  readonly rejection: (tar: Buffer, code: BerthError['code'], options?: UnpackOptions) => Promise<string>;
};

export type UnpackOptions = {
  readonly compress?: (tar: Buffer) => Buffer;
  readonly digest?: string;
  readonly diffId?: string;
  readonly sizeBytes?: number;
  readonly pieceBytes?: number;
  /** Pause between pieces. */
  readonly pauseMs?: number;
  readonly signal?: AbortSignal;
};

/** Creates the test bed and registers its hooks. Call it at the top level of a test file. */
export function useLayers(): LayerBed {
  const directory = mkdtempSync(join(tmpdir(), 'berth-layers-'));
  const unpacker = createUnpacker({ workerFile, workersMax: 2 });
  after(async () => {
    await unpacker.close();
    rmSync(directory, { recursive: true, force: true });
  });
  let count = 0;
  const newDir = (): string => {
    count += 1;
    const path = join(directory, `t${count}`);
    mkdirSync(path, { mode: 0o755 });
    return path;
  };
  const unpack = async (tar: Buffer, options: UnpackOptions = {}) => {
    const root = newDir();
    const bytes = options.compress === undefined ? tar : options.compress(tar);
    const job = {
      directory: root,
      digest: options.digest ?? digestOf(bytes),
      diffId: options.diffId ?? digestOf(tar),
      sizeBytes: options.sizeBytes ?? bytes.length,
    };
    const layer = await unpacker.unpack(
      job,
      async () => toStream(bytes, options.pieceBytes ?? 65_536, options.pauseMs),
      options.signal ?? new AbortController().signal,
    );
    return { root, layer };
  };
  const rejection = async (tar: Buffer, code: BerthError['code'], options: UnpackOptions = {}): Promise<string> => {
    try {
      await unpack(tar, options);
    } catch (error) {
      assert.ok(error instanceof BerthError, String(error));
      assert.equal(error.code, code, error.message);
      assert.ok(!error.message.includes('\n'), 'one line');
      assert.match(error.message, /^layer sha256:[0-9a-f]{64}: /);
      return error.message;
    }
    assert.fail('the layer was accepted');
  };
  return { directory, unpacker, newDir, unpack, rejection };
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Copies the pieces: the unpacker takes ownership of its input buffers. */
export function* copiesOf(pieces: Iterable<Buffer>): Generator<Buffer, undefined> {
  for (const piece of pieces) yield Buffer.from(piece);
}

/** Returns a stream of the bytes in pieces. @param pauseMs pause between pieces. */
export function toStream(bytes: Buffer, pieceBytes: number, pauseMs?: number): Readable {
  const pieces = async function* () {
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      if (pauseMs !== undefined) await sleep(pauseMs);
      yield Buffer.from(bytes.subarray(at, at + pieceBytes));
    }
  };
  return Readable.from(pieces(), { objectMode: false });
}

/** Describes all entries of a tree by path (as latin1). The first name of an inode identifies it, so that hard links can be compared. */
export function describeTree(root: string, options: { readonly hasTimes?: boolean } = {}): Record<string, unknown> {
  const firstNames = new Map<bigint, string>();
  const found: Record<string, unknown> = {};
  const xattrs = xattrsBelow(root);
  const visit = (path: Buffer, name: string): void => {
    const stat = lstatSync(path, { bigint: true });
    const first = stat.isDirectory() ? name : (firstNames.get(stat.ino) ?? name);
    firstNames.set(stat.ino, first);
    found[name] = {
      mode: stat.mode.toString(8),
      owner: `${stat.uid}:${stat.gid}`,
      device: stat.isBlockDevice() || stat.isCharacterDevice() ? stat.rdev : undefined,
      mtimeNs: options.hasTimes === false ? undefined : stat.mtimeNs,
      inode: first,
      content: stat.isFile() ? digestOf(readFileSync(path)) : undefined,
      target: stat.isSymbolicLink() ? readlinkSync(path, 'latin1') : undefined,
      xattrs: xattrs.get(path.toString('latin1')) ?? [],
    };
    if (!stat.isDirectory()) return;
    for (const child of readdirSync(path, 'latin1').sort()) {
      const childPath = Buffer.concat([path, Buffer.from(`/${child}`, 'latin1')]);
      visit(childPath, name === '' ? child : `${name}/${child}`);
    }
  };
  visit(Buffer.from(root), '');
  return found;
}

/** Returns for each file below `root`, by path (as latin1), the lines of getfattr with hexadecimal values. */
function xattrsBelow(root: string): ReadonlyMap<string, readonly string[]> {
  const dump = execFileSync('getfattr', ['-R', '-P', '-h', '-d', '-m', '-', '-e', 'hex', '--absolute-names', root], { maxBuffer: 1 << 28 });
  const prefix = '# file: ';
  const found = dump
    .toString('latin1')
    .split('\n\n')
    .filter((block) => block.startsWith(prefix))
    .map((block) => block.split('\n'))
    .map(([name = '', ...lines]) => [unescapeOctal(name.slice(prefix.length)), lines.filter((line) => line !== '').sort()] as const);
  return new Map(found);
}

function unescapeOctal(name: string): string {
  return name.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
