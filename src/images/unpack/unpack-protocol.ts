/**
 * The messages between the daemon's thread and an unpack worker.
 *
 * A worker unpacks one layer at a time:
 *
 *     daemon                                worker
 *       unpack  ───────────────────────────▶
 *       bytes (in shared memory) ──────────▶  hash, decompress, hash, parse, write
 *             ◀─────────────────── returned   (the piece, for reuse)
 *       end / cancel ──────────────────────▶
 *             ◀──────────── unpacked / failed
 *
 * Spooling an image archive works the same way (`spool`, `spooled`). Assembling a layer's archive sends bytes in the other direction:
 *
 *       assemble / returned ───────────────▶
 *             ◀───────────────────── bytes
 *       cancel ────────────────────────────▶
 *             ◀───────────── done / failed
 *
 * All other jobs are one message in each direction. Pure: types only.
 */
import type { ErrorCode } from '../../lib/errors.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { ParentsJob } from '../layer/implied-directories.ts';
import type { DevicePolicy, WrittenLayer } from '../layer/layer-writer.ts';
import type { SpooledMember, SpoolJob } from './spool-stream.ts';
import type { LayerTimes } from './stopwatch.ts';

/** `tarBytes`: size of the uncompressed archive. */
export type UnpackedLayer = Omit<WrittenLayer, 'impliedDirectories'> & {
  readonly hasImpliedDirectories: boolean;
  readonly tarBytes: number;
  readonly times: LayerTimes;
};

export type LayerJob = {
  /** An empty directory, created for this layer. */
  readonly directory: string;
  /** File for the tar metadata, by which the layer is verified later; absent: not recorded. */
  readonly tarSplitFile?: string;
  /** File for the list of directories without an entry: implied-directories.ts; absent: not recorded. */
  readonly impliedFile?: string;
  /** Of the compressed bytes. */
  readonly digest: string;
  /** Digest of the uncompressed tar. */
  readonly diffId: string;
  readonly sizeBytes: number;
};

/**
 * Every message contains the number of its job: pieces of a failed layer still return while the worker runs another job.
 *
 * Pieces are shared memory, which is sent once. V8 would count transferred buffers as new memory each time, and collect all garbage every few
 * megabytes.
 */
export type ToWorker = { readonly id: number } & (
  | { readonly kind: 'unpack'; readonly job: LayerJob; readonly devices: DevicePolicy; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'spool'; readonly job: SpoolJob; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'bytes'; readonly piece: number; readonly length: number }
  | { readonly kind: 'end' }
  | { readonly kind: 'assemble'; readonly job: AssembleJob; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'returned'; readonly piece: number }
  | { readonly kind: 'cancel' }
  | { readonly kind: 'remove'; readonly path: string }
  | { readonly kind: 'sync'; readonly path: string }
  | { readonly kind: 'parents'; readonly job: ParentsJob }
);

export type FromWorker = { readonly id: number } & (
  | { readonly kind: 'returned'; readonly piece: number }
  | { readonly kind: 'unpacked'; readonly layer: UnpackedLayer }
  | { readonly kind: 'spooled'; readonly members: readonly SpooledMember[] }
  | { readonly kind: 'bytes'; readonly piece: number; readonly length: number }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string }
);
