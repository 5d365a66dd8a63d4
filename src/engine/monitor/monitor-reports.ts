/**
 * Reads the reports of a monitor: records of fixed size from a pipe. The protocol is drawn in src/monitor/main.c.
 *
 * Knows neither plans nor error messages. Waits without blocking a thread.
 */
import { closeSync, readSync } from 'node:fs';
import { isErrno } from '../../sys/call/ffi.ts';
import { onReadable } from '../../sys/process/processes.ts';

/** enum record_kind of src/monitor/monitor.h. */
export const kinds = { started: 1, failed: 2, exited: 3, refused: 4, held: 8 } as const;

/** enum phase of src/monitor/monitor.h. */
export const phases = { parent: 1, clone: 2, child: 3, supervise: 4 } as const;

const recordBytes = 16;

/** struct record of src/monitor/monitor.h. */
export type Report = { readonly kind: number; readonly a: number; readonly b: number; readonly c: number };
export type Reports = {
  /** Returns the next report, or null if the monitor has exited. One call at a time. */
  readonly next: () => Promise<Report | null>;
  readonly close: () => void;
};

/** Reads reports from `fd`, the non-blocking read end of a report pipe, and takes ownership of it. */
export function readReports(fd: number): Reports {
  let stopWatching = () => {};
  let isOpen = true;
  const next = (): Promise<Report | null> =>
    new Promise((resolve) => {
      const attempt = () => {
        const report = isOpen ? readReport(fd) : null;
        if (report === 'pending') stopWatching = onReadable(fd, attempt);
        else resolve(report);
      };
      attempt();
    });
  const close = () => {
    if (!isOpen) return;
    isOpen = false;
    stopWatching();
    closeSync(fd);
  };
  return { next, close };
}

/** Reads one report. It is never partial: writes up to PIPE_BUF are atomic, pipe(7). */
function readReport(fd: number): Report | null | 'pending' {
  const bytes = Buffer.alloc(recordBytes);
  try {
    if (readSync(fd, bytes) !== recordBytes) return null;
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return 'pending';
    throw error;
  }
  return { kind: bytes.readInt32LE(0), a: bytes.readInt32LE(4), b: bytes.readInt32LE(8), c: bytes.readInt32LE(12) };
}
