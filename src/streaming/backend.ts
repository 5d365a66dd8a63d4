/**
 * The interface between the streaming server and the rest of berth: the streams of processes, and ports of pod sandboxes. Types only.
 */
import type { Duplex, Readable, Writable } from 'node:stream';

/** The streams that a client requested. With a terminal there is no stderr: the terminal carries both outputs. */
export type StreamFlags = {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
};

export type ExecTarget = StreamFlags & { readonly containerId: string; readonly argv: readonly string[] };
export type AttachTarget = StreamFlags & { readonly containerId: string };

/** The streams of a process: one started for exec, or the container's own for attach. */
export type ContainerStreams = {
  /**
   * Present if requested. `end()` after the client's last byte (half-close); `destroy()` if the client disconnects, which is not an end of input.
   * An error on it (the process closed its end) does not fail the session.
   */
  readonly stdin?: Writable;
  /**
   * Present if requested. Ends when no process holds the write end open. Read only as fast as the client accepts data: the backend decides
   * whether that blocks the process (exec) or drops output (attach).
   */
  readonly stdout?: Readable;
  readonly stderr?: Readable;
  /** The client's terminal size changed. Called only with a terminal; both values are 1 to 65535. */
  readonly resize: (columns: number, rows: number) => void;
  /** Resolves when the process, or for attach the container, has exited. The message of a rejection is sent to the client. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** The client has disconnected. Exec: end the process. Attach: release the streams and leave the container running. Called at most once. */
  readonly abandon: () => void;
};

export type StreamingBackend = {
  /** Called when the client has opened all its streams. The message of a rejection is sent to the client. */
  readonly exec: (target: ExecTarget) => Promise<ContainerStreams>;
  /** Like exec(), for the container's own process. `exitCode` is not sent to the client: attach succeeds when the container exits. */
  readonly attach: (target: AttachTarget) => Promise<ContainerStreams>;
  /**
   * Connects to a port in the sandbox's network namespace. The socket has `allowHalfOpen`: the end of its input does not end its output.
   * @throws {BerthError} The message is sent to the client.
   */
  readonly connect: (sandboxId: string, port: number) => Promise<Duplex>;
};
