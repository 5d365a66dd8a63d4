/**
 * A client's streams, independent of the protocol. Types only.
 */
import type { Inbound } from './inbound.ts';

/** Sends bytes to the client. */
export type Sink = {
  /** Resolves when more data can be written, with false if the stream is closed. */
  readonly write: (chunk: Buffer) => Promise<boolean>;
  readonly end: () => void;
};

export type RemoteStreams = {
  readonly stdin?: Inbound;
  readonly resize?: Inbound;
  readonly stdout?: Sink;
  readonly stderr?: Sink;
  readonly error: Sink;
  /** The version of the remote-command protocol. */
  readonly version: number;
};

/** A client that is connecting or connected. */
export type RemoteClient = {
  /** Resolves when the client has opened all its streams, with undefined if it did not. */
  readonly streams: Promise<RemoteStreams | undefined>;
  /** Resolves when either side has closed the connection. */
  readonly closed: Promise<void>;
  /** Closes the connection after all written data is sent. */
  readonly close: () => void;
};
