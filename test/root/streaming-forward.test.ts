/** Port-forward through the streaming server with client-go over SPDY and SPDY over WebSocket, and with old WebSocket clients. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { after, test } from 'node:test';
import { clientTest, goClient, listenOnLoopback, raiseLoopback, startBed, startGoClient, until } from '../support/streaming-bed.ts';

raiseLoopback();
/** Two servers: one with the default grace period, one with a short one. */
const { server } = await startBed();
const { server: hasty } = await startBed({ halfCloseGraceMs: 500 });
const echo = await listenOnLoopback((socket) => socket.pipe(socket));
after(async () => {
  echo.server.close();
  await server.close();
  await hasty.close();
});

const transports = ['spdy', 'websocket'] as const;

/** A port without listener. */
async function refusedPort(): Promise<number> {
  const { server, port } = await listenOnLoopback(() => {});
  server.close();
  await once(server, 'close');
  return port;
}

async function startForward(
  transport: string,
  port: number,
  bed = server,
): Promise<{ localPort: number; stop: () => Promise<void>; stderr: () => string }> {
  const child = startGoClient(['forward', '-transport', transport, '-url', bed.preparePortForward('s'), '-port', String(port)]);
  let stderr = '';
  child.stderr?.on('data', (chunk) => {
    stderr += chunk;
  });
  const [line] = await once(child.stdout as NodeJS.ReadableStream, 'data');
  const stop = async () => {
    const closed = once(child, 'close');
    child.stdin?.end();
    await closed;
  };
  return { localPort: Number(String(line)), stop, stderr: () => stderr };
}

/** Sends data and half-closes the connection. @returns the response. */
async function exchange(port: number, bytes: Buffer): Promise<Buffer> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const parts: Buffer[] = [];
  socket.on('data', (part) => parts.push(part));
  socket.end(bytes);
  await once(socket, 'close');
  return Buffer.concat(parts);
}

for (const transport of transports) {
  clientTest(`${transport}: 200 concurrent connections transfer their data`, async () => {
    const { localPort, stop, stderr } = await startForward(transport, echo.port);
    const sent = Array.from({ length: 200 }, () => randomBytes(40_000));
    const received = await Promise.all(sent.map((bytes) => exchange(localPort, bytes)));
    for (const [i, bytes] of received.entries()) assert.ok(bytes.equals(sent[i] as Buffer), `connection ${i}: ${bytes.length} bytes`);
    await stop();
    assert.doesNotMatch(stderr(), /error/i);
  });

  clientTest(`${transport}: a refused port is reported, and the connection stays usable`, async () => {
    const refused = await refusedPort();
    const args = ['pairs', '-transport', transport, '-url', server.preparePortForward('the-sandbox'), '-ports', `${refused},${echo.port},${refused}`];
    const { code, stdout, stderr } = await goClient(args);
    assert.equal(code, 0, stderr);
    const results = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      results.map(({ data }) => data),
      ['', 'ping', ''],
    );
    assert.match(results[0].error, new RegExp(`port ${refused} of sandbox the-sandbox: .*ECONNREFUSED`));
    assert.equal(results[1].error, '');
  });

  clientTest(`${transport}: a response that continues after the client's half-close arrives completely`, async () => {
    // Takes longer than the grace period in total, but is never silent for that long.
    const slow = await listenOnLoopback((socket) => {
      socket.on('data', () => {});
      socket.on('end', () => {
        let left = 8;
        const timer = setInterval(() => {
          left -= 1;
          socket.write(`${left}`);
          if (left > 0) return;
          clearInterval(timer);
          socket.end();
        }, 80);
      });
    });
    const { localPort, stop } = await startForward(transport, slow.port, hasty);
    assert.equal((await exchange(localPort, Buffer.from('go'))).toString(), '76543210');
    await stop();
    slow.server.close();
  });

  clientTest(`${transport}: a half-closed connection is closed after the grace period without data`, async () => {
    const mute = await listenOnLoopback((socket) => socket.on('data', () => {}));
    const { localPort, stop } = await startForward(transport, mute.port, hasty);
    assert.equal((await exchange(localPort, Buffer.from('anybody?'))).length, 0);
    await stop();
    mute.server.close();
  });

  clientTest(`${transport}: a connection reset by the container does not affect others`, async () => {
    const open: Socket[] = [];
    const harsh = await listenOnLoopback((socket) => {
      open.push(socket);
      socket.on('data', (chunk) => (String(chunk) === 'die' ? socket.resetAndDestroy() : socket.write(chunk)));
    });
    const { localPort, stop, stderr } = await startForward(transport, harsh.port);
    const survivor = connect(localPort, '127.0.0.1');
    let heard = '';
    survivor.on('data', (chunk) => {
      heard += chunk;
    });
    survivor.write('one');
    await until('the first echo', () => heard === 'one');
    await exchange(localPort, Buffer.from('die'));
    survivor.write('two');
    await until('the second echo', () => heard === 'onetwo');
    survivor.destroy();
    await stop();
    assert.doesNotMatch(stderr(), /lost connection/);
    for (const socket of open) socket.destroy();
    harsh.server.close();
  });

  clientTest(`${transport}: the container's connections are closed when the client disconnects`, async () => {
    let count = 0;
    const held = await listenOnLoopback((socket) => {
      count += 1;
      socket.on('data', () => {});
      socket.on('end', () => {
        count -= 1;
        socket.end();
      });
    });
    const child = startGoClient(['forward', '-transport', transport, '-url', server.preparePortForward('s'), '-port', String(held.port)]);
    const [line] = await once(child.stdout as NodeJS.ReadableStream, 'data');
    const sockets = Array.from({ length: 5 }, () => connect(Number(String(line)), '127.0.0.1').on('error', () => {}));
    for (const socket of sockets) socket.write('x');
    await until('five connections', () => count === 5);
    child.kill('SIGKILL');
    await until('all connections are closed', () => count === 0);
    held.server.close();
  });
}

test('an old WebSocket client gets the ports first, then data, and a refused connection on the error channel', async () => {
  const refused = await refusedPort();
  const url = `${server.preparePortForward('s').replace('http:', 'ws:')}?port=${echo.port}&port=${refused}`;
  const socket = new WebSocket(url, 'v4.channel.k8s.io');
  socket.binaryType = 'arraybuffer';
  const heard: Record<number, Buffer[]> = { 0: [], 1: [], 2: [], 3: [] };
  socket.addEventListener('message', ({ data }) => {
    const message = Buffer.from(data as ArrayBuffer);
    heard[message[0] ?? -1]?.push(message.subarray(1));
  });
  await once(socket, 'open');
  socket.send(Buffer.concat([Buffer.from([0]), Buffer.from('hello')]));
  await until('the echo', () => heard[0]?.length === 2 && heard[3]?.length === 2);
  assert.equal(heard[0]?.[0]?.readUInt16LE(), echo.port);
  assert.equal(heard[0]?.[1]?.toString(), 'hello');
  assert.equal(heard[2]?.[0]?.readUInt16LE(), refused);
  assert.match(heard[3]?.[1]?.toString() ?? '', /ECONNREFUSED/);
  socket.close();
  await once(socket, 'close');
});
