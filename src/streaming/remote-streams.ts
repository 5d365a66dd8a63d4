/**
 * A client's streams, whatever protocol brought them. Types only.
 */
import type { Inbound } from './inbound.ts';

/** Takes bytes for the client. */
export type Sink = {
  /** @returns false when nobody takes them any more. Resolves when more may come. */
  readonly write: (chunk: Buffer) => Promise<boolean>;
  readonly end: () => void;
};

export type RemoteStreams = {
  readonly stdin?: Inbound;
  readonly resize?: Inbound;
  readonly stdout?: Sink;
  readonly stderr?: Sink;
  readonly error: Sink;
  /** Version of the remote-command protocol. */
  readonly version: number;
};

/** A client on its way in. */
export type RemoteClient = {
  /** All streams that the client has to open; undefined when it did not. */
  readonly streams: Promise<RemoteStreams | undefined>;
  /** The connection is over, by whichever side. */
  readonly closed: Promise<void>;
  /** Ends the connection after all that was written. */
  readonly close: () => void;
};
