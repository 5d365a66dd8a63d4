/**
 * Decodes the frames that a monitor sends to an attached client: src/monitor/attach.c. Pure.
 */
import { internal } from '../../lib/errors.ts';

/** A piece of a stream, the number of bytes of output that were dropped at this point, or the end of the output. */
export type AttachFrame =
  | { readonly kind: 'stdout' | 'stderr'; readonly bytes: Buffer }
  | { readonly kind: 'lost'; readonly count: number }
  | { readonly kind: 'end' };

const kinds = [undefined, 'stdout', 'stderr', 'lost', 'end'] as const;
const headBytes = 4;
const lostBytes = 8;
/** Minimum and maximum size of a frame's content. A monitor reads at most 64 KiB at once. */
const bounds = { stdout: [1, 65536], stderr: [1, 65536], lost: [lostBytes, lostBytes], end: [0, 0] } as const;

/**
 * @returns a function that takes the bytes in chunks of any size, and returns the frames. An incomplete frame of a stream is returned in pieces.
 *   The function throws a BerthError INTERNAL for an invalid frame.
 */
export function createFrameReader(): (chunk: Buffer) => AttachFrame[] {
  let kind: (typeof kinds)[number];
  let missing = 0;
  let pending: Buffer = Buffer.alloc(0);

  const begin = (head: number): void => {
    kind = kinds[head >>> 24];
    missing = head & 0xffffff;
    const [min, max] = bounds[kind ?? 'end'];
    const isValid = kind !== undefined && missing >= min && missing <= max;
    if (!isValid) throw internal(`the monitor sent an invalid frame of kind ${head >>> 24} with ${missing} bytes`);
  };

  return (chunk) => {
    const frames: AttachFrame[] = [];
    let rest = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    for (;;) {
      if (missing === 0) {
        if (rest.length < headBytes) break;
        begin(rest.readUInt32LE(0));
        rest = rest.subarray(headBytes);
        if (kind === 'end') frames.push({ kind });
        continue;
      }
      if (kind === 'lost' ? rest.length < lostBytes : rest.length === 0) break;
      const bytes = rest.subarray(0, missing);
      rest = rest.subarray(bytes.length);
      missing -= bytes.length;
      if (kind === 'lost') frames.push({ kind, count: Number(bytes.readBigUInt64LE(0)) });
      else frames.push({ kind: kind as 'stdout' | 'stderr', bytes });
    }
    pending = Buffer.from(rest);
    return frames;
  };
}
