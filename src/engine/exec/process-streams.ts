/**
 * A process with its streams, as those see it who stand between it and a person. Types only.
 */
import type { Readable, Writable } from 'node:stream';

/** Which streams somebody wants. With a terminal there is no stderr: both outputs are the terminal. */
export type WantedStreams = {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
};

export type ProcessStreams = {
  /** Present when wanted and there. What is written when nobody reads it any more is thrown away; that is no error. */
  readonly stdin?: Writable;
  readonly stdout?: Readable;
  readonly stderr?: Readable;
  /** Sets the size of the terminal, when there is one. */
  readonly resize: (columns: number, rows: number) => void;
  /** The process has ended, and what it wrote is in the streams. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** Nobody is there any more. */
  readonly abandon: () => void;
};
