/**
 * The remote-command and port-forward protocols of Kubernetes: names and versions, exit status, terminal sizes, channels of WebSocket messages.
 *
 * Pure. Source: the channel protocols as implemented by kubectl, crictl and client-go 0.36.
 */
import { BerthError, invalidArgument } from '../lib/errors.ts';
import type { StreamFlags } from './backend.ts';

/** The result of a session, sent to the client. */
export type Outcome = { readonly exitCode: number } | { readonly failure: string };

/** Protocols over SPDY and their versions. A client may offer several, in order of preference. */
export const spdyCommandProtocols: ReadonlyMap<string, number> = new Map([
  ['v4.channel.k8s.io', 4],
  ['v3.channel.k8s.io', 3],
  ['v2.channel.k8s.io', 2],
  ['channel.k8s.io', 1],
]);

export const spdyForwardProtocol = 'portforward.k8s.io';

/** SPDY tunneled in WebSocket messages. */
export const tunnelProtocol = 'SPDY/3.1+portforward.k8s.io';

export type WebSocketProtocol = {
  /** Since version 4 the status is JSON; since version 5 a channel can be closed. */
  readonly version: number;
  /** Messages are text: the channel as a digit, then base64. */
  readonly isBase64: boolean;
};

/** By name; the empty name is for clients that offer none. */
export const webSocketCommandProtocols: ReadonlyMap<string, WebSocketProtocol> = new Map([
  ['', { version: 1, isBase64: false }],
  ['channel.k8s.io', { version: 1, isBase64: false }],
  ['base64.channel.k8s.io', { version: 1, isBase64: true }],
  ['v4.channel.k8s.io', { version: 4, isBase64: false }],
  ['v4.base64.channel.k8s.io', { version: 4, isBase64: true }],
  ['v5.channel.k8s.io', { version: 5, isBase64: false }],
]);

export const webSocketForwardProtocols: ReadonlyMap<string, WebSocketProtocol> = new Map([
  ['', { version: 4, isBase64: false }],
  ['v4.channel.k8s.io', { version: 4, isBase64: false }],
  ['v4.base64.channel.k8s.io', { version: 4, isBase64: true }],
]);

/** The WebSocket channels of a remote command. */
export const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

/** Returns the client's most preferred protocol that is known. @param offered a header value: comma-separated names. */
export function chooseProtocol(offered: string, known: Iterable<string>): string | undefined {
  const names = new Set(known);
  return offered
    .split(',')
    .map((name) => name.trim())
    .find((name) => name !== '' && names.has(name));
}

/** Checks the flags as the CRI requires. @throws {BerthError} INVALID_ARGUMENT without any stream, or with both stderr and a terminal. */
export function checkFlags(flags: StreamFlags): void {
  if (flags.tty && flags.stderr) throw invalidArgument('tty and stderr cannot both be true: a terminal has one output');
  if (!flags.stdin && !flags.stdout && !flags.stderr) throw invalidArgument('one of stdin, stdout and stderr must be true');
}

/** Returns the `streamType` values that a client of this version opens. */
export function expectedStreams(flags: StreamFlags, version: number): readonly string[] {
  const requested = (['stdin', 'stdout', 'stderr'] as const).filter((name) => flags[name]);
  return ['error', ...requested, ...(flags.tty && version >= 3 ? ['resize'] : [])];
}

/** Returns the final content of the error stream. Before version 4 it is plain text, empty on success. */
export function encodeStatus(outcome: Outcome, version: number): Buffer {
  const message = 'failure' in outcome ? outcome.failure : `command terminated with non-zero exit code: exit status ${outcome.exitCode}`;
  const isSuccess = 'exitCode' in outcome && outcome.exitCode === 0;
  if (version < 4) return Buffer.from(isSuccess ? '' : message);
  if (isSuccess) return Buffer.from(JSON.stringify({ metadata: {}, status: 'Success' }));
  if ('failure' in outcome) {
    return Buffer.from(JSON.stringify({ metadata: {}, status: 'Failure', message, reason: 'InternalError', code: 500 }));
  }
  const details = { causes: [{ reason: 'ExitCode', message: String(outcome.exitCode) }] };
  return Buffer.from(JSON.stringify({ metadata: {}, status: 'Failure', message, reason: 'NonZeroExitCode', details }));
}

const resizeTextMax = 1024;

/** Parses terminal sizes from a stream of JSON objects. Skips anything else, and drops an object that does not end. */
export class ResizeParser {
  #text = '';

  *parse(bytes: Buffer): Generator<{ readonly columns: number; readonly rows: number }> {
    this.#text += bytes.toString('latin1');
    for (let end = this.#text.indexOf('}'); end >= 0; end = this.#text.indexOf('}')) {
      const size = parseSize(this.#text.slice(0, end + 1));
      this.#text = this.#text.slice(end + 1);
      if (size !== undefined) yield size;
    }
    if (this.#text.length > resizeTextMax) this.#text = '';
  }
}

function parseSize(text: string): { columns: number; rows: number } | undefined {
  const columns = fieldOf(text, 'Width');
  const rows = fieldOf(text, 'Height');
  return isSize(columns) && isSize(rows) ? { columns, rows } : undefined;
}

const fieldOf = (text: string, name: string) => Number(new RegExp(`"${name}"\\s*:\\s*(\\d{1,5})\\b`, 'i').exec(text)?.[1]);
const isSize = (size: number) => Number.isInteger(size) && size > 0 && size <= 65_535;

/** A part of a message's content and its channel. */
export type ChannelPart = { readonly channel: number; readonly bytes: Buffer };

/** Parses parts of messages into channels and bytes. The first byte of a message is its channel; with base64 it is a digit. */
export class ChannelParser {
  readonly #isBase64: boolean;
  #channel = -1;
  /** Base64 characters, at most three, that do not form a whole byte yet. */
  #rest = '';

  constructor(isBase64: boolean) {
    this.#isBase64 = isBase64;
  }

  /** @throws {BerthError} INVALID_ARGUMENT for invalid base64. */
  *parse(part: { readonly bytes: Buffer; readonly isFirst: boolean; readonly isLast: boolean }): Generator<ChannelPart> {
    let { bytes } = part;
    if (part.isFirst) {
      this.#channel = -1;
      this.#rest = '';
    }
    if (this.#channel < 0) {
      const first = bytes[0];
      if (first === undefined) return;
      this.#channel = this.#isBase64 ? first - 0x30 : first;
      bytes = bytes.subarray(1);
    }
    if (this.#isBase64) bytes = this.#decode(bytes, part.isLast);
    if (bytes.length > 0) yield { channel: this.#channel, bytes };
  }

  #decode(bytes: Buffer, isLast: boolean): Buffer {
    const text = this.#rest + bytes.toString('latin1');
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new BerthError('INVALID_ARGUMENT', 'WebSocket message: invalid base64');
    const usable = isLast ? text.length : text.length - (text.length % 4);
    this.#rest = text.slice(usable);
    return Buffer.from(text.slice(0, usable), 'base64');
  }
}

/** Returns the parts of a message on a channel. */
export function encodeChannelMessage(number: number, bytes: Buffer, isBase64: boolean): Buffer[] {
  // As UTF-8, like Go: text messages with other bytes are invalid.
  if (isBase64) return [Buffer.from(`${String.fromCharCode(0x30 + number)}${bytes.toString('base64')}`)];
  return [Buffer.from([number]), bytes];
}
