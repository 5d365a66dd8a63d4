/**
 * What the streaming server needs from the rest of berth: processes to talk to, and ports of sandboxes. Types only.
 */
import type { Duplex, Readable, Writable } from 'node:stream';

/** Which streams a client asked for. With a terminal there is no stderr: both outputs are the terminal. */
export type StreamFlags = {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
};

export type ExecTarget = StreamFlags & { readonly containerId: string; readonly argv: readonly string[] };
export type AttachTarget = StreamFlags & { readonly containerId: string };

/** A process with its streams: started for an exec, or a container's own that is attached to. */
export type ContainerStreams = {
  /**
   * Present when asked for. `end()` when the client has sent its last byte (half-close); `destroy()` when the client is gone, which is no end of input.
   * An error of it (the process closed its end) is no failure of the session.
   */
  readonly stdin?: Writable;
  /**
   * Present when asked for; end when no process holds the writing end any more. Read only as fast as the client takes it: whether that
   * slows the process (exec) or loses output (attach) is the backend's choice.
   */
  readonly stdout?: Readable;
  readonly stderr?: Readable;
  /** The client's window changed. Called only with a terminal; both are 1 to 65535. */
  readonly resize: (columns: number, rows: number) => void;
  /** The process, or with attach the container, has ended. A rejection's message is told to the client. */
  readonly exited: Promise<{ readonly exitCode: number }>;
  /** Nobody is there any more to see the output. Exec: end the process. Attach: leave the container alone, let go of its streams. Called once at most. */
  readonly abandon: () => void;
};

export type StreamingBackend = {
  /** Called when all streams of the client are there. A rejection's message is told to the client. */
  readonly exec: (target: ExecTarget) => Promise<ContainerStreams>;
  /** As exec(), for the container's own process. `exitCode` is not told to the client: the end of the container ends an attach with success. */
  readonly attach: (target: AttachTarget) => Promise<ContainerStreams>;
  /**
   * Connects to a port inside the sandbox's network namespace. A socket that is half-open (`allowHalfOpen`): its end of input does not end its output.
   * @throws {BerthError} whose message is told to the client.
   */
  readonly connect: (sandboxId: string, port: number) => Promise<Duplex>;
};
