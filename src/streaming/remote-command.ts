/**
 * The remote-command and port-forward protocols of Kubernetes: names and versions, how the end of a process is told, window sizes, channels of WebSocket messages.
 *
 * Pure. Source: the channel protocols as kubectl, crictl and client-go 0.36 speak them.
 */
import { BerthError, invalidArgument } from '../lib/errors.ts';
import type { StreamFlags } from './backend.ts';

/** How a session ended, as told to the client. */
export type Outcome = { readonly exitCode: number } | { readonly failure: string };

/** Over SPDY; a client may know several and says so in the order of its choice. */
export const spdyCommandProtocols: ReadonlyMap<string, number> = new Map([
  ['v4.channel.k8s.io', 4],
  ['v3.channel.k8s.io', 3],
  ['v2.channel.k8s.io', 2],
  ['channel.k8s.io', 1],
]);

export const spdyForwardProtocol = 'portforward.k8s.io';

/** SPDY inside of WebSocket messages. */
export const tunnelProtocol = 'SPDY/3.1+portforward.k8s.io';

export type WebSocketProtocol = {
  /** Status is JSON from 4 on; a channel can be closed from 5 on. */
  readonly version: number;
  /** Messages are text: a digit and base64. */
  readonly isBase64: boolean;
};

/** By name; the empty name is for clients that name none. */
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

/** Channels of WebSocket messages of a remote command. */
export const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

/** The first of the client's choices that we know. @param offered a header's value: names with commas between. */
export function chooseProtocol(offered: string, known: Iterable<string>): string | undefined {
  const names = new Set(known);
  return offered
    .split(',')
    .map((name) => name.trim())
    .find((name) => name !== '' && names.has(name));
}

/** @throws {BerthError} INVALID_ARGUMENT as the CRI demands: at least one stream, and no stderr with a terminal. */
export function checkFlags(flags: StreamFlags): void {
  if (flags.tty && flags.stderr) throw invalidArgument('tty and stderr cannot both be true: a terminal has one output');
  if (!flags.stdin && !flags.stdout && !flags.stderr) throw invalidArgument('one of stdin, stdout and stderr must be true');
}

/** Values of `streamType` that a client of this version opens. */
export function expectedStreams(flags: StreamFlags, version: number): readonly string[] {
  const asked = (['stdin', 'stdout', 'stderr'] as const).filter((name) => flags[name]);
  return ['error', ...asked, ...(flags.tty && version >= 3 ? ['resize'] : [])];
}

/** What the error stream says in the end; empty when it says nothing. Before version 4 it is text, and success is silence. */
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

/** Window sizes out of a stream of JSON objects. What is no such object is skipped; an object that never ends is dropped. */
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

/** A part of a message's content, and the channel it is on. */
export type ChannelPart = { readonly channel: number; readonly bytes: Buffer };

/** Parts of messages to channels and bytes: the first byte of a message names its channel, in base64 as a digit. */
export class ChannelParser {
  readonly #isBase64: boolean;
  #channel = -1;
  /** Of base64: characters that make no whole byte yet, at most three. */
  #rest = '';

  constructor(isBase64: boolean) {
    this.#isBase64 = isBase64;
  }

  /** @throws {BerthError} INVALID_ARGUMENT for what should be base64 and is not. */
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
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new BerthError('INVALID_ARGUMENT', 'WebSocket message: not base64');
    const usable = isLast ? text.length : text.length - (text.length % 4);
    this.#rest = text.slice(usable);
    return Buffer.from(text.slice(0, usable), 'base64');
  }
}

/** The content of a message on a channel, as parts to send. */
export function encodeChannelMessage(number: number, bytes: Buffer, isBase64: boolean): Buffer[] {
  if (isBase64) return [Buffer.from(`${String.fromCharCode(0x30 + number)}${bytes.toString('base64')}`, 'latin1')];
  return [Buffer.from([number]), bytes];
}
