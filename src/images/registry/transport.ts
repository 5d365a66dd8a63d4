/**
 * Sends one HTTP request after another for one pull: kept connections, TLS by the node's files, proxies, redirects, deadlines.
 *
 * Knows nothing of registries or tokens. Never sends a credential to another origin than the one it was given for.
 */
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { NetConnectOpts } from 'node:net';
import tls from 'node:tls';
import { reasonOf } from '../../lib/errors.ts';
import { oneLine } from '../document/untrusted-json.ts';
import type { TlsFiles } from './hosts.ts';
import { type ProxySettings, proxyFor } from './proxy.ts';
import { HostFailure } from './registry-error.ts';

export type HttpRequest = {
  readonly url: URL;
  readonly method: 'GET' | 'HEAD' | 'POST';
  /** May go to any origin that a redirect names. */
  readonly headers: Readonly<Record<string, string>>;
  /** Credentials, and what an operator set: for the origin of `url` alone. */
  readonly ownHeaders: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: string;
  readonly tls: TlsFiles;
};

export type HttpResponse = { readonly message: http.IncomingMessage; readonly url: URL };

export type Transport = {
  /**
   * @returns the response that is no redirect, its body unread: read it, or destroy it.
   * @throws {Error} of the connection, or HostFailure for a redirect that is not followed.
   */
  send(request: HttpRequest): Promise<HttpResponse>;
  /** Ends all connections. */
  close(): void;
};

export type TransportDeps = {
  readonly userAgent: string;
  readonly proxy: ProxySettings;
  readonly responseTimeoutMs: number;
  readonly signal: AbortSignal;
};

const redirectsMax = 10;
/** One pull's connections to one host; callers open fewer at a time. */
const socketsPerHostMax = 16;
/** Kept connections that nobody uses go after this, should a session not be closed. */
const idleSocketMs = 15_000;
const discardBytesMax = 64 << 10;
/** What one read of a connection may bring. */
const readBytes = 256 << 10;
const redirectStatuses: readonly number[] = [301, 302, 303, 307, 308];

export function createTransport(deps: TransportDeps): Transport {
  const agents = new Map<string, Promise<http.Agent>>();
  let isClosed = false;

  function agentFor(url: URL, files: TlsFiles): Promise<http.Agent> {
    const proxy = proxyFor(url, deps.proxy);
    const key = JSON.stringify([url.protocol, proxy, url.protocol === 'https:' ? files : null]);
    const known = agents.get(key) ?? makeAgent(url.protocol === 'https:', proxy, files);
    agents.set(key, known);
    return known;
  }

  async function send(request: HttpRequest): Promise<HttpResponse> {
    let current = request;
    for (let hop = 0; hop <= redirectsMax; hop += 1) {
      const agent = await agentFor(current.url, current.tls);
      if (isClosed) throw new HostFailure('wrong', 'the pull is over');
      const message = await exchange(deps, current, agent);
      const location = message.headers.location;
      if (location === undefined || !redirectStatuses.includes(message.statusCode ?? 0) || current.method === 'POST')
        return { message, url: current.url };
      discard(message);
      current = redirected(current, location);
    }
    throw new HostFailure('wrong', `more than ${redirectsMax} redirects`);
  }

  function close(): void {
    isClosed = true;
    for (const agent of agents.values()) agent.then((made) => made.destroy()).catch(() => undefined);
    agents.clear();
  }

  return { send, close };
}

/** Lets go of a response whose body nobody wants; the connection is kept where reading on is cheap. */
export function discard(message: http.IncomingMessage): void {
  const lengthBytes = Number(message.headers['content-length'] ?? Number.POSITIVE_INFINITY);
  message.on('error', () => undefined);
  // The answer to a HEAD has a length and no body. What arrived whole is not waited for.
  const isShort = lengthBytes <= discardBytesMax || message.complete;
  if (isShort) message.resume();
  else message.destroy();
}

/** The same request to where a redirect points. */
function redirected(request: HttpRequest, location: string): HttpRequest {
  const url = URL.parse(location, request.url.href);
  // The query of a signed URL is a credential: only the origin is shown.
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw new HostFailure('wrong', 'redirect to something that is not an http URL');
  if (url.protocol === 'http:' && request.url.protocol === 'https:') throw new HostFailure('wrong', `redirect from https to ${oneLine(url.origin)}`);
  if (url.origin === request.url.origin) return { ...request, url };
  // The client's certificate, too, is for the registry. Its authorities stay: storage beside a private registry has the same.
  return { ...request, url, ownHeaders: {}, tls: { ...request.tls, clientPairs: [] } };
}

async function makeAgent(isTls: boolean, proxy: string | undefined, files: TlsFiles): Promise<http.Agent> {
  const options = {
    keepAlive: true,
    maxSockets: socketsPerHostMax,
    maxFreeSockets: socketsPerHostMax,
    timeout: idleSocketMs,
    // The default of 250 ms gives up on far registries.
    autoSelectFamilyAttemptTimeout: 2000,
    ...(proxy === undefined ? {} : { proxyEnv: { HTTP_PROXY: proxy, HTTPS_PROXY: proxy } }),
  };
  const agent = isTls
    ? new https.Agent({ ...options, secureContext: await loadSecureContext(files), rejectUnauthorized: !files.skipVerify })
    : new http.Agent(options);
  // The way through a proxy is made with the socket's own reads.
  if (proxy === undefined) readIntoOneBuffer(agent);
  return agent;
}

/**
 * Lets all connections of an agent read into the same memory: the parser takes from it what it needs before the next read. Else Node makes a buffer
 * for each, four times as small, and the collection of that garbage costs more than the reading. Source: Node's net.connect(), option `onread`.
 */
function readIntoOneBuffer(agent: http.Agent): void {
  const buffer = Buffer.allocUnsafeSlow(readBytes);
  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, done) => {
    const callback = (lengthBytes: number): true => {
      socket?.emit('data', buffer.subarray(0, lengthBytes));
      return true;
    };
    // The types of what is handed on to net.connect() leave this one out.
    const given: typeof options & Pick<NetConnectOpts, 'onread'> = { ...options, onread: { buffer, callback } };
    const socket = connect(given, done);
    return socket;
  };
}

/** Made once per agent: the system's authorities are hundreds of certificates to parse. */
async function loadSecureContext(files: TlsFiles): Promise<tls.SecureContext> {
  const load = (path: string): Promise<string> =>
    readFile(path, 'utf8').catch((error: unknown) => {
      throw new HostFailure('wrong', `reading certificate ${path}: ${reasonOf(error)}`, { cause: error });
    });
  const own = await Promise.all(files.caFiles.map(load));
  const cert = await Promise.all(files.clientPairs.map((pair) => load(pair.certFile)));
  const key = await Promise.all(files.clientPairs.map((pair) => load(pair.keyFile)));
  const system = tls.getCACertificates('system');
  const ca = [...(system.length > 0 ? system : tls.getCACertificates('bundled')), ...own];
  try {
    return tls.createSecureContext({ ca, minVersion: 'TLSv1.2', ...(cert.length === 0 ? {} : { cert, key }) });
  } catch (error) {
    // OpenSSL's message never holds key material.
    throw new HostFailure(
      'wrong',
      `certificates ${[...files.caFiles, ...files.clientPairs.map((pair) => pair.certFile)].join(', ')}: ${reasonOf(error)}`,
      { cause: error },
    );
  }
}

/** One request, up to the header of its response. */
function exchange(deps: TransportDeps, request: HttpRequest, agent: http.Agent): Promise<http.IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
  const options: https.RequestOptions = {
    method: request.method,
    agent,
    headers: { 'user-agent': deps.userAgent, 'accept-encoding': 'identity', ...request.headers, ...request.ownHeaders },
    signal: deps.signal,
  };
  const sent = (request.url.protocol === 'https:' ? https : http).request(request.url, options);
  const giveUp = (failure: HostFailure) => {
    clearTimeout(timer);
    sent.destroy(failure);
    // It may have ended without a word.
    reject(failure);
  };
  const late = () => giveUp(new HostFailure('unreachable', `no answer within ${deps.responseTimeoutMs / 1000} s`));
  const timer = setTimeout(late, deps.responseTimeoutMs);
  // Without a listener the connection ends, and neither response nor error comes.
  sent.on('upgrade', (_message, socket) => {
    socket.destroy();
    giveUp(new HostFailure('wrong', 'answers in another protocol'));
  });
  sent.on('response', (message) => {
    clearTimeout(timer);
    resolve(message);
  });
  // Stays for the life of the request: a connection may break long after the header.
  sent.on('error', (error) => {
    clearTimeout(timer);
    reject(error);
  });
  sent.end(request.body);
  return promise;
}
