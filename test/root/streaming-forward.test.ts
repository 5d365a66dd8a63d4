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

/** Connects over plain WebSocket. @returns the socket, and the bytes received by channel. */
async function openChannels(url: string, protocol?: string): Promise<{ socket: WebSocket; heard: Record<number, Buffer> }> {
  const socket = new WebSocket(url.replace('http:', 'ws:'), protocol);
  socket.binaryType = 'arraybuffer';
  const heard: Record<number, Buffer> = {};
  socket.addEventListener('message', ({ data }) => {
    const isText = typeof data === 'string';
    const channel = isText ? data.charCodeAt(0) - 0x30 : (new Uint8Array(data as ArrayBuffer)[0] ?? -1);
    const bytes = isText ? Buffer.from(data.slice(1), 'base64') : Buffer.from(data as ArrayBuffer).subarray(1);
    heard[channel] = Buffer.concat([heard[channel] ?? Buffer.alloc(0), bytes]);
  });
  await new Promise((settle, reject) => {
    socket.addEventListener('open', settle);
    socket.addEventListener('error', () => reject(new Error(`${url}: no WebSocket`)));
  });
  return { socket, heard };
}

/** The ports of a client of the kubelet are in the request, and the kubelet connects without a query: k8s.io/kubelet 0.37, pkg/cri/streaming/portforward. */
for (const protocol of ['v4.channel.k8s.io', 'v4.base64.channel.k8s.io', undefined]) {
  for (const place of ['request', 'query'] as const) {
    test(`WebSocket ${protocol ?? 'without protocol'}: each port of the ${place} has two channels, which begin with the port`, async () => {
      const refused = await refusedPort();
      const ports = [echo.port, refused, echo.port];
      const query = ports.map((port) => `port=${port}`).join('&');
      const url = place === 'request' ? server.preparePortForward('s', ports) : `${server.preparePortForward('s')}?${query}`;
      const { socket, heard } = await openChannels(url, protocol);
      for (const [channel, text] of [
        [0, 'hello'],
        [4, 'world'],
      ] as const) {
        const bytes = Buffer.from(text);
        socket.send(protocol?.includes('base64') ? `${channel}${bytes.toString('base64')}` : Buffer.concat([Buffer.from([channel]), bytes]));
      }
      await until('both echoes and the error', () => heard[0]?.length === 7 && heard[4]?.length === 7 && (heard[3]?.length ?? 0) > 2);
      const beginnings = [0, 1, 2, 3, 4, 5].map((channel) => heard[channel]?.readUInt16LE());
      assert.deepEqual(beginnings, [echo.port, echo.port, refused, refused, echo.port, echo.port]);
      assert.deepEqual([heard[0]?.subarray(2).toString(), heard[4]?.subarray(2).toString()], ['hello', 'world']);
      assert.match(heard[3]?.subarray(2).toString() ?? '', /ECONNREFUSED/);
      socket.close();
      await once(socket, 'close');
    });
  }
}

test('port-forward over WebSocket without ports is refused, and so are invalid ports in the request', async () => {
  assert.throws(() => server.preparePortForward('s', [80, 65_536]), { code: 'INVALID_ARGUMENT', message: /invalid port 65536/ });
  assert.throws(() => server.preparePortForward('s', [0]), { code: 'INVALID_ARGUMENT' });
  assert.throws(() => server.preparePortForward('s', Array(101).fill(80)), { code: 'INVALID_ARGUMENT', message: /limit of 100/ });
  for (const query of ['', '?port=', '?port=80,http', '?port=0']) await assert.rejects(openChannels(`${server.preparePortForward('s')}${query}`));
});
