/**
 * Sends the HTTP requests of one pull: keep-alive connections, TLS with the node's certificates, proxies, redirects and timeouts.
 *
 * Knows nothing about registries or tokens. Never sends a credential to any host but the one it is for and its subdomains.
 */
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { NetConnectOpts } from 'node:net';
import tls from 'node:tls';
import { reasonOf } from '../../lib/errors.ts';
import type { TlsFiles } from './hosts.ts';
import { type ProxySettings, proxyFor } from './proxy.ts';
import { redirected } from './redirect.ts';
import { HostFailure } from './registry-error.ts';

export type HttpRequest = {
  readonly url: URL;
  readonly method: 'GET' | 'HEAD' | 'POST';
  /** Sent to redirect targets of any origin. */
  readonly headers: Readonly<Record<string, string>>;
  /** Credentials and headers set by the operator: redirects take them only to the host of `url` and its subdomains, as those of Go's client. */
  readonly ownHeaders: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: string;
  readonly tls: TlsFiles;
  /** The caller checks the digest of the content: a redirect from https to http is followed, without credentials. */
  readonly isVerified?: boolean;
};

export type HttpResponse = { readonly message: http.IncomingMessage; readonly url: URL };

export type Transport = {
  /**
   * Sends a request and follows redirects.
   *
   * @returns the final response. The caller must read or destroy its body.
   * @throws {Error} of the connection, or HostFailure for a redirect that is not followed.
   */
  send(request: HttpRequest): Promise<HttpResponse>;
  /** Closes all connections. */
  close(): void;
};

export type TransportDeps = {
  readonly userAgent: string;
  readonly proxy: ProxySettings;
  readonly responseTimeoutMs: number;
  readonly signal: AbortSignal;
};

const redirectsMax = 10;
/** Limit of a pull's connections to one host; callers open fewer at a time. */
const socketsPerHostMax = 16;
/** Idle connections are closed after this time, in case a session is not closed. */
const idleSocketMs = 15_000;
const discardBytesMax = 64 << 10;
/** The size of the read buffer of connections. */
const readBytes = 256 << 10;
const redirectStatuses: readonly number[] = [301, 302, 303, 307, 308];

export function createTransport(deps: TransportDeps): Transport {
  const agents = new Map<string, Promise<http.Agent>>();
  let isClosed = false;

  function agentFor(url: URL, files: TlsFiles): Promise<http.Agent> {
    const proxy = proxyFor(url, deps.proxy);
    const key = JSON.stringify([url.protocol, proxy, url.protocol === 'https:' ? files : null]);
    const agent = agents.get(key) ?? createAgent(url.protocol === 'https:', proxy, files);
    agents.set(key, agent);
    return agent;
  }

  async function send(request: HttpRequest): Promise<HttpResponse> {
    let current = request;
    for (let hop = 0; hop <= redirectsMax; hop += 1) {
      const agent = await agentFor(current.url, current.tls);
      if (isClosed) throw new HostFailure('wrong', 'the pull has ended');
      const message = await exchange(deps, current, agent);
      const location = message.headers.location;
      if (location === undefined || !redirectStatuses.includes(message.statusCode ?? 0) || current.method === 'POST')
        return { message, url: current.url };
      discard(message);
      current = redirected(current, location, request.url);
    }
    throw new HostFailure('wrong', `more than ${redirectsMax} redirects`);
  }

  function close(): void {
    isClosed = true;
    for (const agent of agents.values()) agent.then((created) => created.destroy()).catch(() => undefined);
    agents.clear();
  }

  return { send, close };
}

/** Discards a response. Reads a short body to its end, to keep the connection; otherwise closes the connection. */
export function discard(message: http.IncomingMessage): void {
  const lengthBytes = Number(message.headers['content-length'] ?? Number.POSITIVE_INFINITY);
  message.on('error', () => undefined);
  // A response to HEAD has a content-length but no body: it is already complete.
  const isShort = lengthBytes <= discardBytesMax || message.complete;
  if (isShort) message.resume();
  else message.destroy();
}

async function createAgent(isTls: boolean, proxy: string | undefined, files: TlsFiles): Promise<http.Agent> {
  const options = {
    keepAlive: true,
    maxSockets: socketsPerHostMax,
    maxFreeSockets: socketsPerHostMax,
    timeout: idleSocketMs,
    // The default of 250 ms is too short for distant registries.
    autoSelectFamilyAttemptTimeout: 2000,
    ...(proxy === undefined ? {} : { proxyEnv: { HTTP_PROXY: proxy, HTTPS_PROXY: proxy } }),
  };
  const agent = isTls
    ? new https.Agent({ ...options, secureContext: await loadSecureContext(files), rejectUnauthorized: !files.skipVerify })
    : new http.Agent(options);
  // Not with a proxy: its CONNECT handshake needs the socket's normal reads.
  if (proxy === undefined) readIntoOneBuffer(agent);
  return agent;
}

/**
 * Makes all connections of an agent read into the same buffer: the parser consumes it before the next read. By default Node allocates a buffer for
 * each read, a quarter of this size, and collecting that garbage costs more than reading. Source: Node's net.connect(), option `onread`.
 */
function readIntoOneBuffer(agent: http.Agent): void {
  const buffer = Buffer.allocUnsafeSlow(readBytes);
  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, done) => {
    const callback = (lengthBytes: number): true => {
      socket?.emit('data', buffer.subarray(0, lengthBytes));
      return true;
    };
    // The option is passed to net.connect(), but the type lacks it.
    const withBuffer: typeof options & Pick<NetConnectOpts, 'onread'> = { ...options, onread: { buffer, callback } };
    const socket = connect(withBuffer, done);
    return socket;
  };
}

/** Called once per agent: the system has hundreds of authorities to parse. */
async function loadSecureContext(files: TlsFiles): Promise<tls.SecureContext> {
  const load = (path: string): Promise<string> =>
    readFile(path, 'utf8').catch((error: unknown) => {
      throw new HostFailure('wrong', `read certificate ${path}: ${reasonOf(error)}`, { cause: error });
    });
  const own = await Promise.all(files.caFiles.map(load));
  const cert = await Promise.all(files.clientPairs.map((pair) => load(pair.certFile)));
  const key = await Promise.all(files.clientPairs.map((pair) => load(pair.keyFile)));
  const system = tls.getCACertificates('system');
  const ca = [...(system.length > 0 ? system : tls.getCACertificates('bundled')), ...own];
  try {
    return tls.createSecureContext({ ca, minVersion: 'TLSv1.2', ...(cert.length === 0 ? {} : { cert, key }) });
  } catch (error) {
    // OpenSSL's message never contains key material.
    throw new HostFailure(
      'wrong',
      `load certificates ${[...files.caFiles, ...files.clientPairs.map((pair) => pair.certFile)].join(', ')}: ${reasonOf(error)}`,
      { cause: error },
    );
  }
}

/** Sends one request and resolves with the header of its response. */
function exchange(deps: TransportDeps, request: HttpRequest, agent: http.Agent): Promise<http.IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
  const options: https.RequestOptions = {
    method: request.method,
    agent,
    headers: { 'user-agent': deps.userAgent, 'accept-encoding': 'identity', ...request.headers, ...request.ownHeaders },
    signal: deps.signal,
  };
  const sent = (request.url.protocol === 'https:' ? https : http).request(request.url, options);
  const fail = (failure: HostFailure) => {
    clearTimeout(timer);
    sent.destroy(failure);
    // It may have ended without emitting an error.
    reject(failure);
  };
  const onTimeout = () => fail(new HostFailure('unreachable', `no response within ${deps.responseTimeoutMs / 1000} s`));
  const timer = setTimeout(onTimeout, deps.responseTimeoutMs);
  // Without a listener the connection ends without a response or an error.
  sent.on('upgrade', (_message, socket) => {
    socket.destroy();
    fail(new HostFailure('wrong', 'unexpected protocol upgrade'));
  });
  sent.on('response', (message) => {
    clearTimeout(timer);
    resolve(message);
  });
  // Stays for the life of the request: a connection may break long after the header arrived.
  sent.on('error', (error) => {
    clearTimeout(timer);
    reject(error);
  });
  sent.end(request.body);
  return promise;
}
