/**
 * The streaming server: issues one-time URLs for exec, attach and port-forward, and serves the clients that connect to them.
 *
 * Its clients are crictl and the kubelet, which proxies kubectl. A URL is the only credential and can be used once.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { failedTo, reasonOf } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { AttachTarget, ContainerStreams, ExecTarget, StreamFlags, StreamingBackend } from './backend.ts';
import { type CertificateFiles, readCertificate, watchCertificate } from './certificate.ts';
import { type Agreement, agreeOnSpdy, agreeOnWebSocket, headerOf, type Refusal, writeRefusal, writeSwitch } from './handshake.ts';
import { type Link, type LinkHandlers, Wire } from './link.ts';
import { forwardOverSpdy } from './port-forward.ts';
import { checkPorts, forwardOverWebSocket, portsOfQuery } from './port-forward-websocket.ts';
import {
  checkFlags,
  spdyCommandProtocols,
  spdyForwardProtocol,
  tunnelProtocol,
  webSocketCommandProtocols,
  webSocketForwardProtocols,
} from './remote-command.ts';
import { receiveSpdyClient } from './remote-spdy.ts';
import type { RemoteClient } from './remote-streams.ts';
import { receiveWebSocketClient } from './remote-websocket.ts';
import { runSession } from './session.ts';
import { createTokens, type Tokens } from './tokens.ts';
import { tunnelThrough, WebSocketConnection } from './websocket-connection.ts';

export type StreamingSettings = {
  /** IP address to listen on and to use in URLs. The kubelet must be able to reach it. */
  readonly address: string;
  /** 0: any free port. */
  readonly port: number;
  readonly tls?: CertificateFiles;
};

/** Timeouts in milliseconds. */
export type StreamingLimits = {
  /** Time for a client to open its streams. */
  readonly creationTimeoutMs: number;
  /** Time after which an idle connection is closed. The same as the kubelet's own timeout, which expires first. */
  readonly idleTimeoutMs: number;
  /** See ForwardDeps. */
  readonly halfCloseGraceMs: number;
  /** See SessionDeps. */
  readonly outputGraceMs: number;
};

export const streamingLimits: StreamingLimits = {
  creationTimeoutMs: 30_000,
  idleTimeoutMs: 4 * 60 * 60_000,
  halfCloseGraceMs: 1_000,
  outputGraceMs: 2_000,
};

export type StreamingDeps = {
  readonly backend: StreamingBackend;
  readonly log: Log;
  readonly limits: StreamingLimits;
  /** For metrics: called when a session starts; the returned function is called when the client's connection has closed. */
  readonly observe?: (kind: Ticket['kind']) => () => void;
};

export type StreamingServer = {
  /**
   * Checks the flags and returns a URL for one session, valid for a minute. The caller must check that the container exists.
   * @throws {BerthError} INVALID_ARGUMENT for invalid flags, RESOURCE_EXHAUSTED while 1000 URLs are pending.
   */
  readonly prepareExec: (target: ExecTarget) => string;
  readonly prepareAttach: (target: AttachTarget) => string;
  /**
   * @param ports of the request, for a client over plain WebSocket: the kubelet passes the ports of its client in the request, and connects to the URL
   *   as it is (k8s.io/kubelet 0.37, pkg/cri/streaming/portforward/websocket.go). Without them, they are taken from the query. Clients over SPDY name the
   *   port of each connection.
   * @throws {BerthError} INVALID_ARGUMENT for an invalid port.
   */
  readonly preparePortForward: (sandboxId: string, ports?: readonly number[]) => string;
  /** `http://address:port` or `https://…`. */
  readonly baseUrl: string;
  /** Ends all sessions and stops listening. */
  readonly close: () => Promise<void>;
};

type Command = { readonly kind: 'exec' | 'attach'; readonly flags: StreamFlags; readonly start: () => Promise<ContainerStreams> };
type Forward = { readonly kind: 'portforward'; readonly sandboxId: string; readonly ports: readonly number[] };
type Ticket = Command | Forward;

/** Serves a negotiated protocol on a connection. */
type Service = (openLink: (handlers: LinkHandlers) => Link) => void;

type Choice = { readonly agreement: Agreement; readonly serve: (protocol: string) => Service };
type Chosen = { readonly kind: Ticket['kind']; readonly agreement: Exclude<Agreement, Refusal>; readonly serve: (protocol: string) => Service };

/** Starts the server. @throws {BerthError} if it cannot listen on the address or use the certificate. */
export async function startStreamingServer(deps: StreamingDeps, settings: StreamingSettings): Promise<StreamingServer> {
  const tokens = createTokens<Ticket>(() => performance.now());
  const sockets = new Set<Duplex>();
  const { server, stopWatching } = createServer(deps.log, settings.tls);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.on('request', (request, response) => refuseRequest(tokens, request, response));
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => upgrade(deps, tokens, request, socket as Socket, head));
  await listen(server, settings);
  const baseUrl = urlOf(server.address() as AddressInfo, settings.tls !== undefined);
  const issue = (ticket: Ticket) => `${baseUrl}/${ticket.kind}/${tokens.issue(ticket)}`;
  const prepare = (kind: Command['kind'], flags: StreamFlags, start: Command['start']) => {
    checkFlags(flags);
    // The session belongs to the trace of the call that prepared it.
    return issue({ kind, flags, start: AsyncLocalStorage.bind(start) });
  };
  return {
    prepareExec: (target) => prepare('exec', target, () => deps.backend.exec(target)),
    prepareAttach: (target) => prepare('attach', target, async () => succeeding(await deps.backend.attach(target))),
    preparePortForward: (sandboxId, ports = []) => {
      checkPorts(ports);
      return issue({ kind: 'portforward', sandboxId, ports });
    },
    baseUrl,
    close: async () => {
      stopWatching();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Attach succeeds when the container exits, with any exit code. */
function succeeding(container: ContainerStreams): ContainerStreams {
  return { ...container, exited: container.exited.then(() => ({ exitCode: 0 })) };
}

/**
 * Any user of the node, and any pod in its network, can connect to the address, without a valid URL. More connections than any node has sessions are
 * closed at once, and slow ones soon: else such a client could use up the daemon's memory and files.
 */
const connectionsMax = 2000;
const headersTimeoutMs = 10_000;

function createServer(log: Log, tls: CertificateFiles | undefined): { server: Server | HttpsServer; stopWatching: () => void } {
  const { server, stopWatching } = tls === undefined ? { server: createHttpServer(timeouts), stopWatching: () => {} } : createTlsServer(log, tls);
  server.maxConnections = connectionsMax;
  return { server, stopWatching };
}

const timeouts = { headersTimeout: headersTimeoutMs, requestTimeout: headersTimeoutMs, connectionsCheckingInterval: headersTimeoutMs / 2 };

function createTlsServer(log: Log, tls: CertificateFiles): { server: HttpsServer; stopWatching: () => void } {
  const server = createHttpsServer({ ...readCertificate(tls), ...timeouts, handshakeTimeout: headersTimeoutMs, minVersion: 'TLSv1.2' });
  return { server, stopWatching: watchCertificate(log, tls, (certificate) => server.setSecureContext({ ...certificate, minVersion: 'TLSv1.2' })) };
}

function listen(server: Server, { address, port }: StreamingSettings): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(failedTo(`listen for streaming clients on ${address} port ${port}`, error)));
    server.listen(port, address, () => resolve());
  });
}

function urlOf({ address, port, family }: AddressInfo, isTls: boolean): string {
  return `${isTls ? 'https' : 'http'}://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

/** Refuses a request without a protocol upgrade. It uses up its token as well. */
function refuseRequest(tokens: Tokens<Ticket>, request: IncomingMessage, response: ServerResponse): void {
  const isKnown = takeTicket(tokens, request) !== undefined;
  const { status, text } = isKnown ? missingUpgrade : unknownSession;
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' });
  response.end(`${text}\n`);
}

function takeTicket(tokens: Tokens<Ticket>, request: IncomingMessage): Ticket | undefined {
  const [, kind, token] = /^\/(exec|attach|portforward)\/([A-Za-z0-9_-]{1,64})\/?(?:\?|$)/.exec(request.url ?? '') ?? [];
  if (token === undefined || (request.method !== 'GET' && request.method !== 'POST')) return undefined;
  const ticket = tokens.take(token);
  return ticket?.kind === kind ? ticket : undefined;
}

function upgrade(deps: StreamingDeps, tokens: Tokens<Ticket>, request: IncomingMessage, socket: Socket, head: Buffer): void {
  socket.on('error', () => {});
  const choice = choose(deps, tokens, request);
  if ('status' in choice) {
    writeRefusal(socket, choice);
    return;
  }
  const { protocol, head: lines } = choice.agreement;
  socket.setNoDelay(true);
  socket.setTimeout(deps.limits.idleTimeoutMs, () => socket.destroy());
  writeSwitch(socket, lines);
  if (deps.observe !== undefined) socket.once('close', deps.observe(choice.kind));
  choice.serve(protocol)((handlers) => {
    const wire = new Wire(socket, handlers);
    // Start after the opener has received the link.
    queueMicrotask(() => wire.start(head));
    return wire;
  });
}

/** Returns the negotiated protocol and its service, or a refusal. */
function choose(deps: StreamingDeps, tokens: Tokens<Ticket>, request: IncomingMessage): Chosen | Refusal {
  const ticket = takeTicket(tokens, request);
  if (ticket === undefined) return unknownSession;
  const choice = ticket.kind === 'portforward' ? chooseForward(deps, ticket, request) : chooseCommand(deps, ticket, request);
  if ('status' in choice) return choice;
  const { agreement, serve } = choice;
  return 'status' in agreement ? agreement : { kind: ticket.kind, agreement, serve };
}

function chooseCommand(deps: StreamingDeps, command: Command, request: IncomingMessage): Choice | Refusal {
  const run = (client: RemoteClient) => void runSession(deps.limits, client, command.start);
  switch (requestedProtocol(request)) {
    case 'spdy':
      return {
        agreement: agreeOnSpdy(request, [...spdyCommandProtocols.keys()]),
        serve: (protocol) => (openLink) =>
          run(receiveSpdyClient(openLink, command.flags, spdyCommandProtocols.get(protocol) ?? 1, deps.limits.creationTimeoutMs)),
      };
    case 'websocket':
      return {
        agreement: agreeOnWebSocket(request, [...webSocketCommandProtocols.keys()]),
        serve: (protocol) => (openLink) =>
          run(receiveWebSocketClient(openLink, command.flags, webSocketCommandProtocols.get(protocol) ?? { version: 1, isBase64: false })),
      };
    default:
      return missingUpgrade;
  }
}

function chooseForward(deps: StreamingDeps, forward: Forward, request: IncomingMessage): Choice | Refusal {
  const forwardDeps = { ...deps.limits, backend: deps.backend };
  const overSpdy: Service = (openLink) => void forwardOverSpdy(forwardDeps, forward.sandboxId, openLink);
  switch (requestedProtocol(request)) {
    case 'spdy':
      return { agreement: agreeOnSpdy(request, [spdyForwardProtocol]), serve: () => overSpdy };
    case 'websocket': {
      const agreement = agreeOnWebSocket(request, [tunnelProtocol, ...webSocketForwardProtocols.keys()]);
      if ('protocol' in agreement && agreement.protocol === tunnelProtocol) {
        return { agreement, serve: () => (openLink) => overSpdy((handlers) => openTunnel(openLink, handlers)) };
      }
      return chooseChannelForward(forwardDeps, forward, request, agreement);
    }
    default:
      return missingUpgrade;
  }
}

function chooseChannelForward(
  deps: StreamingDeps['limits'] & Pick<StreamingDeps, 'backend'>,
  forward: Forward,
  request: IncomingMessage,
  agreement: Agreement,
): Choice | Refusal {
  try {
    const ports = forward.ports.length > 0 ? forward.ports : portsOfQuery(new URL(request.url ?? '', 'http://server').searchParams);
    const protocolOf = (name: string) => webSocketForwardProtocols.get(name) ?? { version: 4, isBase64: false };
    return { agreement, serve: (name) => (openLink) => void forwardOverWebSocket(deps, forward.sandboxId, ports, protocolOf(name), openLink) };
  } catch (error) {
    return { status: 400, text: reasonOf(error) };
  }
}

const missingUpgrade: Refusal = { status: 400, text: 'the request must upgrade to SPDY/3.1 or WebSocket' };
const unknownSession: Refusal = { status: 404, text: 'unknown session: a URL can be used once, within one minute' };

function requestedProtocol(request: IncomingMessage): 'spdy' | 'websocket' | undefined {
  const names = headerOf(request, 'upgrade')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim());
  if (names.includes('spdy/3.1')) return 'spdy';
  return names.includes('websocket') ? 'websocket' : undefined;
}

function openTunnel(openLink: (handlers: LinkHandlers) => Link, handlers: LinkHandlers): Link {
  const connection: WebSocketConnection = new WebSocketConnection(
    openLink({
      onBytes: (chunk) => connection.receive(chunk),
      onClose: () => connection.lost(),
      onHeartbeat: () => connection.heartbeat(),
    }),
    { onPart: ({ bytes }) => handlers.onBytes(bytes), onClose: handlers.onClose },
  );
  return tunnelThrough(connection);
}
