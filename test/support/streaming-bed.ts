/**
 * What the tests of the streaming server share: a server with the fake backend, client-go's client as a program, and raw requests.
 */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { test } from 'node:test';
import { type StreamingLimits, type StreamingServer, startStreamingServer, streamingLimits } from '../../src/streaming/server.ts';
import { prepareStreamingClient } from '../streaming-client/prepare.ts';
import { createFakeBackend, type FakeBackend } from './streaming-backend.ts';

/** A test that needs the Go client; skipped with the reason where that cannot be built. */
export function clientTest(name: string, body: () => Promise<void>): void {
  test(name, { skip: lacking() }, body);
}

function lacking(): string | false {
  try {
    prepareStreamingClient();
    return false;
  } catch (error) {
    return `no client: ${error instanceof Error ? error.message.split('\n')[0] : error}`;
  }
}

export type Bed = { readonly server: StreamingServer; readonly backend: FakeBackend };

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export async function startBed(
  limits: Partial<StreamingLimits> = {},
  settings: { certFile: string; keyFile: string } | undefined = undefined,
): Promise<Bed> {
  const backend = createFakeBackend();
  const tls = settings === undefined ? {} : { tls: settings };
  const server = await startStreamingServer({ backend, log, limits: { ...streamingLimits, ...limits } }, { address: '127.0.0.1', port: 0, ...tls });
  return { server, backend };
}

/** In a network namespace of its own, loopback is down at first. Elsewhere this changes nothing. */
export function raiseLoopback(): void {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
}

export type Run = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs a program with this standard input, to its end. */
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
  // Null: it stays open, as a terminal would.
  if (input !== null) child.stdin?.end(input);
  const [code] = await once(child, 'close');
  return { code, ...output };
}

export function goClient(args: readonly string[], input: string | null = null): Promise<Run> {
  return run(prepareStreamingClient(), args, input);
}

export function startGoClient(args: readonly string[]): ChildProcess {
  return spawn(prepareStreamingClient(), args, { stdio: ['pipe', 'pipe', 'pipe'] });
}

export async function until(what: string, isTrue: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!isTrue()) {
    if (Date.now() > deadline) throw new Error(`did not come about: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Sends a request's head and @returns what came until the server closed. */
export async function rawRequest(url: string, headers: Readonly<Record<string, string>>, method = 'GET'): Promise<string> {
  const { hostname, port, pathname } = new URL(url);
  const socket = connect(Number(port), hostname);
  const lines = Object.entries({ Host: hostname, ...headers }).map(([name, value]) => `${name}: ${value}`);
  socket.write(`${method} ${pathname} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  let answer = '';
  socket.on('data', (chunk) => {
    answer += chunk.toString('latin1');
  });
  await once(socket, 'close');
  return answer;
}

export const spdyUpgrade = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1' };

/** Listens on a free port of loopback. */
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
