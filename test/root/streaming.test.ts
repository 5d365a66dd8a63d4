/** Exec and attach through the streaming server with client-go over all transports and protocol versions, and with raw requests. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import {
  clientTest,
  goClient,
  raiseLoopback,
  rawRequest,
  type StreamingBed,
  spdyUpgrade,
  startBed,
  startGoClient,
  until,
} from '../support/streaming-bed.ts';

raiseLoopback();
const { server, backend } = await startBed();
after(() => server.close());

const spoken = [
  ['spdy', 'channel.k8s.io'],
  ['spdy', 'v2.channel.k8s.io'],
  ['spdy', 'v3.channel.k8s.io'],
  ['spdy', 'v4.channel.k8s.io'],
  ['websocket', 'channel.k8s.io'],
  ['websocket', 'v4.channel.k8s.io'],
  ['websocket', 'v5.channel.k8s.io'],
] as const;

const all = { containerId: 'c', tty: false, stdin: true, stdout: true, stderr: true };

const urlOf = ({ server }: StreamingBed, argv: readonly string[], flags: Partial<typeof all> = {}) => server.prepareExec({ ...all, ...flags, argv });
const bed = { server, backend };

const argsOf = (transport: string, protocol: string, url: string, ...streams: string[]) => [
  'exec',
  '-transport',
  transport,
  '-protocol',
  protocol,
  '-url',
  url,
  ...streams,
];

for (const [transport, protocol] of spoken) {
  const name = `${transport} ${protocol}`;
  const exec = (argv: readonly string[], streams: readonly ('stdin' | 'stdout' | 'stderr')[], input: string | null) => {
    const flags = { stdin: streams.includes('stdin'), stdout: streams.includes('stdout'), stderr: streams.includes('stderr') };
    return goClient(argsOf(transport, protocol, urlOf(bed, argv, flags), ...streams.map((stream) => `-${stream}`)), input);
  };

  clientTest(`${name}: stdout and stderr are separate`, async () => {
    const { code, stdout, stderr } = await exec(['both'], ['stdout', 'stderr'], '');
    assert.deepEqual([code, stdout, stderr], [0, 'to stdout', 'to stderr']);
  });

  clientTest(`${name}: the process is killed when the client disconnects`, async () => {
    const child = startGoClient(argsOf(transport, protocol, urlOf(bed, ['sleep', name]), '-stdin', '-stdout', '-stderr'));
    await until('the exec', () => backend.events.includes(`exec sleep ${name}`));
    const before = backend.events.length;
    child.kill('SIGKILL');
    await until('the end', () => backend.events.slice(before).includes('abandon'));
    // A disconnect is not the end of stdin.
    await until('stdin is closed', () => backend.events.slice(before).includes('stdin closed'));
    assert.ok(!backend.events.slice(before).includes('stdin end'));
  });

  // With protocol version 1, client-go neither waits for the status nor closes stdin.
  if (protocol === 'channel.k8s.io') continue;

  clientTest(`${name}: a failure is reported`, async () => {
    const { code, stderr } = await exec(['exit', '42'], ['stdout', 'stderr'], '');
    if (/v[45]/.test(protocol)) assert.equal(code, 42);
    else assert.match(stderr, /exit status 42/);
    assert.match((await exec(['missing'], ['stdout', 'stderr'], '')).stderr, /no such file/);
  });

  // Before version 5, WebSocket has no half-close.
  const canHalfClose = transport === 'spdy' || protocol === 'v5.channel.k8s.io';
  const stdinTest = canHalfClose ? clientTest : () => {};
  stdinTest(`${name}: stdin and its end reach the process`, async () => {
    const { code, stdout } = await exec(['cat'], ['stdin', 'stdout'], 'hello, container');
    assert.deepEqual([code, stdout], [0, 'hello, container']);
    assert.equal(backend.events.at(-1), 'stdin end');
  });

  const resizeTest = protocol === 'v2.channel.k8s.io' ? () => {} : clientTest;
  resizeTest(`${name}: terminal sizes reach the process`, async () => {
    const url = urlOf(bed, ['sizes', '3'], { tty: true, stderr: false });
    const args = argsOf(transport, protocol, url, '-stdin', '-stdout', '-tty', '-sizes', '80x24,100x40,132x50');
    assert.equal((await goClient(args)).stdout, '80x24 100x40 132x50');
  });
}

for (const [transport, protocol] of spoken.slice(-4, -3).concat(spoken.slice(-1))) {
  clientTest(`${transport}: attach connects input and output, and exits with 0 when the container exits`, async () => {
    const url = server.prepareAttach({ ...all, stderr: false });
    const { code, stdout } = await goClient(argsOf(transport, protocol, url, '-stdin', '-stdout'), 'hi');
    assert.deepEqual([code, stdout], [0, 'you said hi']);
  });

  clientTest(`${transport}: a client that does not read blocks the output`, async () => {
    const child = startGoClient(argsOf(transport, protocol, urlOf(bed, ['endless'], { stderr: false }), '-stdin', '-stdout'));
    const before = backend.producedBytes();
    await until('some output', () => backend.producedBytes() > before);
    let last = -1;
    let stillFor = 0;
    await until('standstill', () => {
      const now = backend.producedBytes();
      stillFor = now === last ? stillFor + 1 : 0;
      last = now;
      return stillFor > 20;
    });
    // The buffers of sockets and pipes, up to 6 MB of them in the kernel.
    assert.ok(last - before < 32_000_000, `${last - before}`);
    child.kill('SIGKILL');
    await until('the end', () => backend.events.at(-1) === 'abandon');
  });

  clientTest(`${transport}: a process that does not read blocks the client, whose disconnect is still detected`, async () => {
    const child = startGoClient(argsOf(transport, protocol, urlOf(bed, ['sleep'], { stderr: false }), '-stdin', '-stdout'));
    let sentBytes = 0;
    const send = () => {
      while (child.stdin?.write(Buffer.alloc(65_536))) sentBytes += 65_536;
    };
    child.stdin?.on('drain', send);
    child.stdin?.on('error', () => {});
    send();
    let last = -1;
    let stillFor = 0;
    await until('standstill', () => {
      stillFor = sentBytes === last ? stillFor + 1 : 0;
      last = sentBytes;
      return stillFor > 20;
    });
    assert.ok(sentBytes < 32_000_000, `${sentBytes}`);
    const before = backend.events.length;
    child.kill('SIGKILL');
    await until('the end', () => backend.events.slice(before).includes('abandon'));
  });

  clientTest(`${transport}: a process that closes its stdin does not delay the exit`, async () => {
    const { code } = await goClient(
      argsOf(transport, protocol, urlOf(bed, ['closeStdin'], { stderr: false }), '-stdin', '-stdout'),
      'x'.repeat(1_000_000),
    );
    assert.equal(code, 0);
  });
}

clientTest('an output that a background process keeps open is closed soon after the exit', async () => {
  const patient = await startBed({ outputGraceMs: 200 });
  const { code, stdout } = await goClient(argsOf('spdy', 'v4.channel.k8s.io', urlOf(patient, ['leaveOpen'], { stderr: false }), '-stdin', '-stdout'));
  assert.deepEqual([code, stdout], [7, 'the last words']);
  await patient.server.close();
});

test('a URL can be used once and only for its kind of session', async () => {
  const url = urlOf(bed, ['exit', '0']);
  assert.match(await rawRequest(url.replace('/exec/', '/attach/'), spdyUpgrade), /^HTTP\/1.1 404 /);
  assert.match(await rawRequest(url, spdyUpgrade), /^HTTP\/1.1 404 /);
  assert.match(await rawRequest(urlOf(bed, ['exit', '0']), { Connection: 'close' }), /^HTTP\/1.1 400 /);
  assert.match(await rawRequest(`${server.baseUrl}/exec/unknown`, spdyUpgrade, 'POST'), /^HTTP\/1.1 404 /);
  assert.match(await rawRequest(`${server.baseUrl}/`, { Connection: 'close' }), /^HTTP\/1.1 404 /);
});

test('a client that offers no protocol is rejected, and one with unknown protocols gets the supported ones', async () => {
  assert.match(await rawRequest(urlOf(bed, ['exit', '0']), spdyUpgrade), /^HTTP\/1.1 400 /);
  const refused = await rawRequest(urlOf(bed, ['exit', '0']), { ...spdyUpgrade, 'X-Stream-Protocol-Version': 'v9.channel.k8s.io' });
  assert.match(refused, /^HTTP\/1.1 403 /);
  assert.match(refused, /X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io, /);
  const webSocket = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13' };
  assert.match(await rawRequest(urlOf(bed, ['exit', '0']), { ...webSocket, 'Sec-WebSocket-Protocol': 'v9.channel.k8s.io' }), /^HTTP\/1.1 403 /);
});

test('a client that opens no streams is disconnected, and nothing is started', async () => {
  const hasty = await startBed({ creationTimeoutMs: 200 });
  const answer = await rawRequest(urlOf(hasty, ['exit', '0']), { ...spdyUpgrade, 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' });
  assert.match(answer, /^HTTP\/1.1 101 [\s\S]*X-Stream-Protocol-Version: v4.channel.k8s.io/);
  assert.deepEqual(hasty.backend.events, []);
  await hasty.server.close();
});

test('an idle connection is closed', async () => {
  const hasty = await startBed({ idleTimeoutMs: 200 });
  const url = hasty.server.preparePortForward('s');
  assert.match(await rawRequest(url, { ...spdyUpgrade, 'X-Stream-Protocol-Version': 'portforward.k8s.io' }), /^HTTP\/1.1 101 /);
  await hasty.server.close();
});

test('invalid flags are rejected', () => {
  assert.throws(() => urlOf(bed, ['sh'], { tty: true }), { code: 'INVALID_ARGUMENT' });
  assert.throws(() => server.prepareAttach({ containerId: 'c', tty: true, stdin: false, stdout: false, stderr: false }), {
    code: 'INVALID_ARGUMENT',
  });
});

test('base64 WebSocket clients receive and send text', async () => {
  const socket = new WebSocket(urlOf(bed, ['cat'], { stderr: false }).replace('http:', 'ws:'), 'v4.base64.channel.k8s.io');
  const messages: string[] = [];
  socket.addEventListener('message', ({ data }) => {
    messages.push(String(data));
  });
  await once(socket, 'open');
  socket.send(`0${Buffer.from('hello').toString('base64')}`);
  await until('a response', () => messages.includes(`1${Buffer.from('hello').toString('base64')}`));
  assert.equal(messages[0], '1');
  socket.close();
  await once(socket, 'close');
});

clientTest('with TLS, a renewed certificate is served without a restart', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-tls-'));
  const files = { certFile: join(directory, 'tls.crt'), keyFile: join(directory, 'tls.key') };
  const renew = (name: string) => {
    const subject = ['-subj', `/CN=${name}`, '-keyout', files.keyFile, '-out', files.certFile];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1', ...subject], {
      stdio: 'ignore',
    });
  };
  renew('first');
  const secure = await startBed({}, files);
  const servedName = async () => {
    const socket = connectTls({ port: Number(new URL(secure.server.baseUrl).port), host: '127.0.0.1', rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const name = socket.getPeerCertificate().subject.CN;
    socket.destroy();
    return name;
  };
  assert.equal(await servedName(), 'first');
  const { stdout } = await goClient(argsOf('spdy', 'v4.channel.k8s.io', urlOf(secure, ['echo', 'hi'], { stdin: false, stderr: false }), '-stdout'));
  assert.equal(stdout, 'hi');
  renew('second');
  assert.match(readFileSync(files.certFile, 'utf8'), /BEGIN CERTIFICATE/);
  while ((await servedName()) !== 'second') await new Promise((resolve) => setTimeout(resolve, 200));
  await secure.server.close();
  rmSync(directory, { recursive: true });
});
