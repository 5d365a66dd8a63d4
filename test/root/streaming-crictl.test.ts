/** crictl exec, attach and port-forward over both transports, with a CRI server that only returns URLs. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { Server, ServerCredentials, type ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { builtCrictl } from '../critest/prepare.ts';
import { listenOnLoopback, raiseLoopback, run, startBed } from '../support/streaming-bed.ts';

const root = resolve(import.meta.dirname, '../..');
const crictl = builtCrictl() ?? '';
const skip = crictl === '' ? 'crictl is not built: npm run critest builds it' : false;

raiseLoopback();
const { server, backend } = await startBed();
const directory = mkdtempSync(join(tmpdir(), 'berth-crictl-'));
const socketPath = `unix://${join(directory, 'cri.sock')}`;
const cri = await startCri();
const echo = await listenOnLoopback((socket) => socket.pipe(socket));
after(async () => {
  cri.forceShutdown();
  echo.server.close();
  await server.close();
  rmSync(directory, { recursive: true });
});

type StreamRequest = { container_id: string; cmd: string[]; tty: boolean; stdin: boolean; stdout: boolean; stderr: boolean; pod_sandbox_id: string };
type Call = (call: { request: StreamRequest }, answer: (error: Error | null, response: object) => void) => void;

async function startCri(): Promise<Server> {
  const definition = loadSync(join(root, 'proto/runtime-v1.proto'), { keepCase: true, defaults: true });
  const answering =
    (respond: (request: StreamRequest) => object): Call =>
    ({ request }, answer) =>
      answer(null, respond(request));
  const cri = new Server();
  cri.addService(definition['runtime.v1.RuntimeService'] as ServiceDefinition, {
    Version: answering(() => ({ version: '0.1.0', runtime_name: 'fake', runtime_version: '1', runtime_api_version: 'v1' })),
    Exec: answering((request) => ({ url: server.prepareExec({ ...request, containerId: request.container_id, argv: request.cmd }) })),
    Attach: answering((request) => ({ url: server.prepareAttach({ ...request, containerId: request.container_id }) })),
    PortForward: answering((request) => ({ url: server.preparePortForward(request.pod_sandbox_id) })),
  });
  cri.addService(definition['runtime.v1.ImageService'] as ServiceDefinition, { ImageFsInfo: answering(() => ({})) });
  await new Promise<void>((resolve, reject) =>
    cri.bindAsync(socketPath, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
  );
  return cri;
}

const base = ['--runtime-endpoint', socketPath, '--image-endpoint', socketPath];

for (const transport of ['spdy', 'websocket']) {
  test(`crictl exec over ${transport} returns the output and the exit code`, { skip }, async () => {
    const exec = (...argv: string[]) => run(crictl, [...base, 'exec', '-r', transport, 'the-container', ...argv], '');
    const { code, stdout, stderr } = await exec('both');
    assert.equal(code, 0, stderr);
    assert.equal(stdout, 'to stdout');
    assert.match(stderr, /to stderr/);
    assert.match((await exec('exit', '42')).stderr, /exit code 42|exit status 42|code: 42/);
  });

  test(`crictl exec -i over ${transport} sends stdin and its end`, { skip }, async () => {
    const { code, stdout, stderr } = await run(crictl, [...base, 'exec', '-r', transport, '-i', 'the-container', 'cat'], 'through crictl');
    assert.equal(code, 0, stderr);
    assert.equal(stdout, 'through crictl');
    assert.equal(backend.events.at(-1), 'stdin end');
  });

  test(`crictl exec -it over ${transport} sends the terminal size`, { skip }, async () => {
    // script(1) provides a terminal for crictl; stty sets its size.
    const command = `stty rows 33 cols 111; ${crictl} ${base.join(' ')} exec -r ${transport} -it the-container sizes 1`;
    const { stdout } = await run('script', ['-qec', command, '/dev/null'], null);
    assert.match(stdout, /111x33/);
  });

  test(`crictl attach over ${transport} connects to the container and exits with it`, { skip }, async () => {
    const { code, stdout, stderr } = await run(crictl, [...base, 'attach', '-r', transport, '-i', 'the-container'], 'hi');
    assert.equal(code, 0, stderr);
    assert.equal(stdout, 'you said hi');
  });

  test(`crictl port-forward over ${transport} connects to the port`, { skip }, async () => {
    const child = spawn(crictl, [...base, 'port-forward', '-r', transport, 'the-sandbox', `0:${echo.port}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    const localPort = await new Promise<number>((resolve) => {
      child.stdout.on('data', (chunk) => {
        output += chunk;
        const [, port] = /127\.0\.0\.1:(\d+) ->/.exec(output) ?? [];
        if (port !== undefined) resolve(Number(port));
      });
    });
    const socket = connect(localPort, '127.0.0.1');
    socket.write('ping');
    const [answer] = await once(socket, 'data');
    assert.equal(String(answer), 'ping');
    socket.destroy();
    child.kill('SIGTERM');
    await once(child, 'close');
  });
}
