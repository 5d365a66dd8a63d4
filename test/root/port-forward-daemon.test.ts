/** Port-forward through the daemon as the kubelet proxies it: the ports are in the request, and the client uses WebSocket channels. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, startDaemon } from './support/daemon.ts';
import { eventually, exec, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

test('the ports of PortForwardRequest are forwarded over WebSocket channels to a URL without query', { skip }, async () => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace);
  try {
    const { client } = daemon;
    const pod = await runPod(client, 'forward', workspace.directory);
    const server = (port: number) => `(mkdir /w${port}; echo port ${port} > /w${port}/index.html; httpd -p ${port} -h /w${port})`;
    const id = await runContainer(client, pod, await pullSample(client), 'server', `${server(8080)}; ${server(8081)}; exec sleep 1000`);
    await eventually('the servers listen', async () => (await exec(client, id, 'netstat', '-ltn')).match(/:808[01] /g)?.length === 2);
    const { url } = await client.call<{ url: string }>('PortForward', { pod_sandbox_id: pod.id, port: [8080, 8081] });
    assert.equal(new URL(url).search, '');
    const socket = new WebSocket(url.replace('http:', 'ws:'), 'v4.channel.k8s.io');
    socket.binaryType = 'arraybuffer';
    const heard = new Map<number, string>();
    socket.addEventListener('message', ({ data }) => {
      const [channel = -1, ...bytes] = new Uint8Array(data as ArrayBuffer);
      heard.set(channel, `${heard.get(channel) ?? ''}${Buffer.from(bytes).toString('latin1')}`);
    });
    await once(socket, 'open');
    for (const channel of [0, 2]) socket.send(Buffer.from(`${String.fromCharCode(channel)}GET / HTTP/1.0\r\n\r\n`));
    await once(socket, 'close');
    for (const [channel, port] of [
      [0, 8080],
      [2, 8081],
    ] as const) {
      const bytes = Buffer.from(heard.get(channel) ?? '', 'latin1');
      assert.equal(bytes.readUInt16LE(), port);
      assert.match(bytes.subarray(2).toString(), /^HTTP/);
      assert.match(bytes.toString(), new RegExp(`\nport ${port}\n$`));
    }
    await assert.rejects(client.call('PortForward', { pod_sandbox_id: pod.id, port: [65_536] }), /INVALID_ARGUMENT.*port/);
    await client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});
