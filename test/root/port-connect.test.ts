/** Connections to ports of sandboxes: IPv4 and IPv6 loopback, half-close, refused connections, concurrency, and the host network. */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import type { Duplex } from 'node:stream';
import { after, before, test } from 'node:test';
import { visitNetNamespaces } from '../../src/sys/process/namespaces.ts';
import { sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

let host: TestEngine;
let id: string;
const servers: Server[] = [];

before(async () => {
  host = await startEngine();
  id = await host.engine.runSandbox(sandboxSpec());
});
after(async () => {
  for (const server of servers) server.close();
  await host.end();
});

/** A server that returns its input and `!` when the client has closed its side. It listens in a sandbox: a socket stays in the namespace of its creation. */
async function listen(sandboxId: string, port: number, ipv6Only = false): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => socket.write(bytes));
    socket.on('end', () => socket.end('!'));
  });
  servers.push(server);
  const listening = new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  const pin = host.engine.sandbox(sandboxId).record.netnsPath;
  // Without a host name: a lookup is asynchronous, so the socket would be created outside the namespace.
  const begin = () => void server.listen({ port, ipv6Only, backlog: 512 });
  if (pin === undefined) begin();
  else visitNetNamespaces([pin], begin);
  await listening;
}

/** Sends text, closes its side, and reads the response. */
async function ask(socket: Duplex, question: string): Promise<string> {
  socket.end(question);
  const chunks: Buffer[] = [];
  for await (const bytes of socket) chunks.push(bytes as Buffer);
  return Buffer.concat(chunks).toString();
}

test('connectPort() connects to a port of the sandbox over IPv4, supports half-close, and leaves the daemon in its namespace', async () => {
  const own = readlinkSync('/proc/thread-self/ns/net');
  await listen(id, 8080);
  assert.equal(await ask(await host.engine.connectPort(id, 8080), 'hello'), 'hello!');
  assert.equal(readlinkSync('/proc/thread-self/ns/net'), own);
});

test('connectPort() falls back to IPv6', async () => {
  await listen(id, 8081, true);
  assert.equal(await ask(await host.engine.connectPort(id, 8081), 'six'), 'six!');
});

test('a port without listener is a clear error', async () => {
  const message = /^forward port 9 of sandbox pod1: connect to 127\.0\.0\.1:9: connection refused \(ECONNREFUSED\)$/;
  await assert.rejects(host.engine.connectPort(id, 9), { code: 'UNAVAILABLE', message });
});

test('a port of one sandbox is not reachable in another one or on the host', async () => {
  const other = await host.engine.runSandbox(sandboxSpec());
  await assert.rejects(host.engine.connectPort(other, 8080), { code: 'UNAVAILABLE' });
  const onHost = await host.engine.runSandbox(sandboxSpec({ namespaces: { network: 'node', ipc: 'pod', pid: 'container' } }));
  // Refused, or unreachable if the loopback of the test's network namespace is down.
  await assert.rejects(host.engine.connectPort(onHost, 8080), /connect to 127\.0\.0\.1:8080/);
});

test('two hundred concurrent connections are separate and leave no open files', async () => {
  const files = readdirSync('/proc/self/fd').length;
  const sockets = await Promise.all(Array.from({ length: 200 }, () => host.engine.connectPort(id, 8080)));
  const answers = await Promise.all(sockets.map((socket, i) => ask(socket, `${i} `.repeat(10_000))));
  answers.forEach((answer, i) => {
    assert.equal(answer, `${`${i} `.repeat(10_000)}!`);
  });
  for (let tries = 0; tries < 100 && readdirSync('/proc/self/fd').length > files; tries++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(readdirSync('/proc/self/fd').length <= files);
});

test('a stopped sandbox forwards nothing', async () => {
  const other = await host.engine.runSandbox(sandboxSpec());
  await host.engine.stopSandbox(other);
  await assert.rejects(host.engine.connectPort(other, 8080), { code: 'FAILED_PRECONDITION', message: /the sandbox is not ready/ });
  await assert.rejects(host.engine.connectPort('0'.repeat(64), 1), { code: 'NOT_FOUND' });
});
