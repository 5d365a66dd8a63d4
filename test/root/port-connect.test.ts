/** Connections to ports of sandboxes: both loopbacks, half-close, refusal, many at once, and the host's network. */
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

/** Answers with what it got and `!`, once the client has ended its side. Listens inside of a sandbox: a socket stays where it was made. */
async function listen(sandboxId: string, port: number, ipv6Only = false): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => socket.write(bytes));
    socket.on('end', () => socket.end('!'));
  });
  servers.push(server);
  const listening = new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  const pin = host.engine.sandbox(sandboxId).record.netnsPath;
  // Without a host: looking one up would take it out of this moment, and so out of the namespace.
  const begin = () => void server.listen({ port, ipv6Only, backlog: 512 });
  if (pin === undefined) begin();
  else visitNetNamespaces([pin], begin);
  await listening;
}

/** Sends, ends its side, and reads to the end. */
async function ask(socket: Duplex, question: string): Promise<string> {
  socket.end(question);
  const chunks: Buffer[] = [];
  for await (const bytes of socket) chunks.push(bytes as Buffer);
  return Buffer.concat(chunks).toString();
}

test('connectPort() reaches a port of the sandbox by IPv4, keeps half-close, and leaves the daemon where it was', async () => {
  const own = readlinkSync('/proc/thread-self/ns/net');
  await listen(id, 8080);
  assert.equal(await ask(await host.engine.connectPort(id, 8080), 'hello'), 'hello!');
  assert.equal(readlinkSync('/proc/thread-self/ns/net'), own);
});

test('connectPort() goes to IPv6 when nobody listens at IPv4', async () => {
  await listen(id, 8081, true);
  assert.equal(await ask(await host.engine.connectPort(id, 8081), 'six'), 'six!');
});

test('a port where nobody listens is refused in words', async () => {
  const message = /^forward port 9 of sandbox pod1: connect to 127\.0\.0\.1:9: connection refused \(ECONNREFUSED\)$/;
  await assert.rejects(host.engine.connectPort(id, 9), { code: 'UNAVAILABLE', message });
});

test('a port of one sandbox is none of another, nor of the host', async () => {
  const other = await host.engine.runSandbox(sandboxSpec());
  await assert.rejects(host.engine.connectPort(other, 8080), { code: 'UNAVAILABLE' });
  const onHost = await host.engine.runSandbox(sandboxSpec({ namespaces: { network: 'node', ipc: 'pod', pid: 'container' } }));
  // Refused, or unreachable where the test's own network has no loopback.
  await assert.rejects(host.engine.connectPort(onHost, 8080), /connect to 127\.0\.0\.1:8080/);
});

test('two hundred connections at once do not mix, and leave no file open', async () => {
  const files = readdirSync('/proc/self/fd').length;
  const sockets = await Promise.all(Array.from({ length: 200 }, () => host.engine.connectPort(id, 8080)));
  const answers = await Promise.all(sockets.map((socket, i) => ask(socket, `${i} `.repeat(10_000))));
  answers.forEach((answer, i) => {
    assert.equal(answer, `${`${i} `.repeat(10_000)}!`);
  });
  for (let tries = 0; tries < 100 && readdirSync('/proc/self/fd').length > files; tries++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(readdirSync('/proc/self/fd').length <= files);
});

test('a sandbox that was stopped forwards nothing', async () => {
  const other = await host.engine.runSandbox(sandboxSpec());
  await host.engine.stopSandbox(other);
  await assert.rejects(host.engine.connectPort(other, 8080), { code: 'FAILED_PRECONDITION', message: /the sandbox is not ready/ });
  await assert.rejects(host.engine.connectPort('0'.repeat(64), 1), { code: 'NOT_FOUND' });
});
