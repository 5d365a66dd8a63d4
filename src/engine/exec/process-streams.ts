/**
 * A process and its streams, as used by exec and attach. Types only.
 */
import type { Readable, Writable } from 'node:stream';

/** The requested streams. With a terminal there is no stderr: all output is the terminal's. */
export type WantedStreams = {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
};

export type ProcessStreams = {
  /** Present if requested and available. Input that is no longer read is discarded, without an error. */
  readonly stdin?: Writable;
  readonly stdout?: Readable;
  readonly stderr?: Readable;
  /** Sets the size of the terminal, if there is one. */
  readonly resize: (columns: number, rows: number) => void;
  /** Resolves when the process has exited and its output is in the streams. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** To be called when the client has disconnected. */
  readonly abandon: () => void;
};
