/**
 * Test bed for the streaming server: a server with the fake backend, a client program based on client-go, and raw requests.
 */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { test } from 'node:test';
import { type StreamingLimits, type StreamingServer, startStreamingServer, streamingLimits } from '../../src/streaming/server.ts';
import { prepareStreamingClient } from '../streaming-client/prepare.ts';
import { createFakeBackend, type FakeBackend } from './streaming-backend.ts';

/** Declares a test that needs the Go client. It is skipped with the reason if the client cannot be built. */
export function clientTest(name: string, body: () => Promise<void>): void {
  test(name, { skip: whyNoClient() }, body);
}

function whyNoClient(): string | false {
  try {
    prepareStreamingClient();
    return false;
  } catch (error) {
    return `cannot build the Go client: ${error instanceof Error ? error.message.split('\n')[0] : error}`;
  }
}

export type StreamingBed = { readonly server: StreamingServer; readonly backend: FakeBackend };

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Starts a streaming server with the fake backend. @param settings files of a TLS certificate and its key; without them it serves HTTP. */
export async function startBed(
  limits: Partial<StreamingLimits> = {},
  settings: { certFile: string; keyFile: string } | undefined = undefined,
): Promise<StreamingBed> {
  const backend = createFakeBackend();
  const tls = settings === undefined ? {} : { tls: settings };
  const server = await startStreamingServer({ backend, log, limits: { ...streamingLimits, ...limits } }, { address: '127.0.0.1', port: 0, ...tls });
  return { server, backend };
}

/** Brings loopback up: it is down in a new network namespace. */
export function raiseLoopback(): void {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
}

export type Run = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs a program until it exits. @param input its standard input; null leaves it open, like a terminal. */
export async function run(program: string, args: readonly string[], input: string | null = null, options: SpawnOptions = {}): Promise<Run> {
  const child = spawn(program, args, { ...options, stdio: ['pipe', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  child.stdout?.on('data', (chunk) => {
    output.stdout += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output.stderr += chunk;
  });
  child.stdin?.on('error', () => {});
  if (input !== null) child.stdin?.end(input);
  const [code] = await once(child, 'close');
  return { code, ...output };
}

/** Runs the Go client until it exits. */
export function goClient(args: readonly string[], input: string | null = null): Promise<Run> {
  return run(prepareStreamingClient(), args, input);
}

/** Starts the Go client. */
export function startGoClient(args: readonly string[]): ChildProcess {
  return spawn(prepareStreamingClient(), args, { stdio: ['pipe', 'pipe', 'pipe'] });
}

/** Waits until the condition is true. @throws Error after 30 s. */
export async function until(description: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`timeout waiting until ${description}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Sends the head of a request. @returns everything the server sends until it closes the connection. */
export async function rawRequest(url: string, headers: Readonly<Record<string, string>>, method = 'GET'): Promise<string> {
  const { hostname, port, pathname } = new URL(url);
  const socket = connect(Number(port), hostname);
  const lines = Object.entries({ Host: hostname, ...headers }).map(([name, value]) => `${name}: ${value}`);
  socket.write(`${method} ${pathname} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  let response = '';
  socket.on('data', (chunk) => {
    response += chunk.toString('latin1');
  });
  await once(socket, 'close');
  return response;
}

export const spdyUpgrade = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1' };

/** Listens on a free port of loopback. @param serve is called for each connection. */
export async function listenOnLoopback(serve: (socket: Socket) => void): Promise<{ server: Server; port: number }> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { server, port: address.port };
}
