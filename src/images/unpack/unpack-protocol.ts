/**
 * What the daemon's thread and an unpacking worker say to each other.
 *
 * One layer at a time per worker:
 *
 *     daemon                                worker
 *       unpack  ───────────────────────────▶
 *       bytes (in shared memory) ──────────▶  hash, decompress, hash, parse, write
 *             ◀─────────────────── returned   (the piece, to be filled again)
 *       end / cancel ──────────────────────▶
 *             ◀──────────── unpacked / failed
 *
 * An image's archive that is spooled goes the same way. One that is put together comes the other way:
 *
 *       assemble / returned ───────────────▶
 *             ◀───────────────────── bytes
 *       cancel ────────────────────────────▶
 *             ◀───────────── done / failed
 *
 * The other jobs are one message each way. Pure types.
 */
import type { ErrorCode } from '../../lib/errors.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { DevicePolicy, WrittenLayer } from '../layer/layer-writer.ts';
import type { SpooledMember, SpoolJob } from './spool-stream.ts';
import type { LayerTimes } from './stopwatch.ts';

/** `tarBytes`: of the archive. */
export type UnpackedLayer = WrittenLayer & { readonly tarBytes: number; readonly times: LayerTimes };

export type LayerJob = {
  /** Empty directory, made for this layer. */
  readonly directory: string;
  /** Where records of the files go, to check them by later; absent: nowhere. */
  readonly tarSplitFile?: string;
  /** Of the bytes as they come. */
  readonly digest: string;
  /** Of the tar within. */
  readonly diffId: string;
  readonly sizeBytes: number;
};

/** Every message carries the number of its job: of a layer that failed, pieces still come back while the worker does something else. */
export type ToWorker = {
  readonly id: number;
} /** Moved memory would be counted anew each time, and make V8 collect all garbage every few megabytes; shared memory is sent once. */ & (
  | { readonly kind: 'unpack'; readonly job: LayerJob; readonly devices: DevicePolicy; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'spool'; readonly job: SpoolJob; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'bytes'; readonly piece: number; readonly length: number }
  | { readonly kind: 'end' }
  | { readonly kind: 'assemble'; readonly job: AssembleJob; readonly pieces: readonly SharedArrayBuffer[] }
  | { readonly kind: 'returned'; readonly piece: number }
  | { readonly kind: 'cancel' }
  | { readonly kind: 'remove'; readonly path: string }
  | { readonly kind: 'sync'; readonly path: string }
);

export type FromWorker = { readonly id: number } & (
  | { readonly kind: 'returned'; readonly piece: number }
  | { readonly kind: 'unpacked'; readonly layer: UnpackedLayer }
  | { readonly kind: 'spooled'; readonly members: readonly SpooledMember[] }
  | { readonly kind: 'bytes'; readonly piece: number; readonly length: number }
  | { readonly kind: 'done' }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string }
);
