/**
 * The HTTP handshake of a streaming connection: protocol negotiation, the 101 response, and refusals.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { chooseProtocol } from './remote-command.ts';

/** Fixed by RFC 6455, 1.3. */
const webSocketGuid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

const reasons: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  426: 'Upgrade Required',
  500: 'Internal Server Error',
};

export type Refusal = { readonly status: number; readonly text: string; readonly headers?: Readonly<Record<string, string>> };

/** The negotiated protocol and the header lines of the response, or the reason for a refusal. */
export type Agreement = { readonly protocol: string; readonly head: readonly string[] } | Refusal;

/** Negotiates a protocol over SPDY. @param known protocols, in any order: the client's preference decides. */
export function agreeOnSpdy(request: IncomingMessage, known: readonly string[]): Agreement {
  const offered = headerOf(request, 'x-stream-protocol-version');
  if (offered === '') return { status: 400, text: 'missing header X-Stream-Protocol-Version' };
  const protocol = chooseProtocol(offered, known);
  if (protocol === undefined) {
    const headers = { 'X-Accepted-Stream-Protocol-Versions': known.join(', ') };
    return { status: 403, text: `no common protocol: the client offers ${offered}, the server supports ${known.join(', ')}`, headers };
  }
  return { protocol, head: ['Connection: Upgrade', 'Upgrade: SPDY/3.1', `X-Stream-Protocol-Version: ${protocol}`] };
}

/** Negotiates a protocol over WebSocket. @param known protocols; an empty name accepts a client that offers none. */
export function agreeOnWebSocket(request: IncomingMessage, known: readonly string[]): Agreement {
  const key = headerOf(request, 'sec-websocket-key');
  if (request.method !== 'GET' || !/^[A-Za-z0-9+/]{22}==$/.test(key)) return { status: 400, text: 'not a WebSocket handshake' };
  if (headerOf(request, 'sec-websocket-version') !== '13') {
    return { status: 426, text: 'unsupported WebSocket version: 13 is required', headers: { 'Sec-WebSocket-Version': '13' } };
  }
  const offered = headerOf(request, 'sec-websocket-protocol');
  const protocol = offered === '' && known.includes('') ? '' : chooseProtocol(offered, known);
  if (protocol === undefined) {
    const text = known.filter((name) => name !== '').join(', ');
    return { status: 403, text: `no common protocol: the client offers ${offered || 'none'}, the server supports ${text}` };
  }
  const accept = createHash('sha1').update(`${key}${webSocketGuid}`).digest('base64');
  const named = protocol === '' ? [] : [`Sec-WebSocket-Protocol: ${protocol}`];
  return { protocol, head: ['Connection: Upgrade', 'Upgrade: websocket', `Sec-WebSocket-Accept: ${accept}`, ...named] };
}

export function writeSwitch(socket: Duplex, head: readonly string[]): void {
  socket.write(`HTTP/1.1 101 Switching Protocols\r\n${head.join('\r\n')}\r\n\r\n`);
}

/** Sends an HTTP response on an upgrade socket and closes it. */
export function writeRefusal(socket: Duplex, { status, text, headers = {} }: Refusal): void {
  const body = `${text}\n`;
  const lines = Object.entries({
    ...headers,
    Connection: 'close',
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': String(Buffer.byteLength(body)),
  }).map(([name, value]) => `${name}: ${value}`);
  socket.end(`HTTP/1.1 ${status} ${reasons[status] ?? ''}\r\n${lines.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}

/** Returns all values of a header, joined by commas; '' if absent. */
export function headerOf(request: IncomingMessage, name: string): string {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(', ') : (value ?? '');
}
