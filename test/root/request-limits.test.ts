/**
 * Requests and answers of an unusual size: each is refused with the name of the field, and the daemon stays small and can still be listed by a kubelet.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Message } from '../../scripts/cri-client.ts';
import { enterIsolation } from '../support/isolation.ts';
import { makeTar } from '../support/tar-maker.ts';
import { createWorkspace, isBuilt, runBerth, startDaemon } from './support/daemon.ts';
import { pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

/** The most memory that the daemon may ever have used: some 110 MiB without load, and a few copies of the largest message. */
const peakBytesMax = 450 << 20;

const peakBytesOf = (pid: number): number => Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) << 10;

const mebibyte = 'x'.repeat(1 << 20);
const many = <T>(count: number, item: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => item(i));

test('no request makes the daemon large, fills its lists, or is refused without the name of the field', { skip }, async (t) => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace);
  const { client } = daemon;
  try {
    const image = await pullSample(client);
    const pod = await runPod(client, 'limits', workspace.directory);
    const attempt = (method: string, request: Message): Promise<string> =>
      client.call(method, request).then(
        () => 'accepted',
        (error: Error) => error.message.slice(0, 300),
      );
    const runWith = (changes: Message) =>
      attempt('RunPodSandbox', {
        config: { metadata: { name: 'n', namespace: 'n', uid: 'n', attempt: 0 }, log_directory: '/x', linux: {}, ...changes },
      });
    const createWith = (changes: Message) => {
      const config = { metadata: { name: 'n', attempt: 0 }, image: { image }, command: ['true'], log_path: 'n.log', linux: {}, ...changes };
      return attempt('CreateContainer', { pod_sandbox_id: pod.id, config, sandbox_config: pod.config });
    };
    const cases: readonly (readonly [RegExp, () => Promise<string>])[] = [
      [/RESOURCE_EXHAUSTED: Received message larger than max/, () => runWith({ labels: { a: mebibyte.repeat(17) } })],
      [/metadata\.name: \d+ bytes exceed/, () => runWith({ metadata: { name: mebibyte, namespace: 'n', uid: 'n' } })],
      [/INVALID_ARGUMENT: labels: \d+ bytes exceed/, () => runWith({ labels: { a: mebibyte.repeat(10) } })],
      [
        /INVALID_ARGUMENT: annotations: \d+ bytes exceed/,
        () => runWith({ annotations: Object.fromEntries(many(300_000, (i) => [`key-${i}`, 'v'])) }),
      ],
      [/port_mappings: \d+ items exceed/, () => runWith({ port_mappings: many(100_000, () => ({ container_port: 80 })) })],
      [/dns_config\.servers: \d+ items exceed/, () => runWith({ dns_config: { servers: many(100_000, () => '10.0.0.1') } })],
      [/dns_config\.searches: \d+ bytes exceed/, () => runWith({ dns_config: { searches: [mebibyte] } })],
      [/linux\.sysctls: \d+ bytes exceed/, () => runWith({ linux: { sysctls: { [mebibyte]: '1' } } })],
      [/log_directory: \d+ bytes exceed/, () => runWith({ log_directory: `/${mebibyte}` })],
      [/INVALID_ARGUMENT: labels: \d+ bytes exceed/, () => createWith({ labels: { a: mebibyte.repeat(10) } })],
      [/INVALID_ARGUMENT: annotations: \d+ bytes exceed/, () => createWith({ annotations: { a: mebibyte.repeat(10) } })],
      [/image\.user_specified_image: \d+ bytes/, () => createWith({ image: { image, user_specified_image: mebibyte } })],
      [/mounts: \d+ items exceed/, () => createWith({ mounts: many(100_000, () => ({ container_path: '/m', host_path: '/' })) })],
      [/devices: \d+ items exceed/, () => createWith({ devices: many(100_000, () => ({ container_path: '/d', host_path: '/dev/null' })) })],
      [/CDI_devices: \d+ items exceed/, () => createWith({ CDI_devices: many(100_000, () => ({ name: 'v.com/d=0' })) })],
      [/log_path: \d+ bytes exceed/, () => createWith({ log_path: mebibyte })],
      [/working_dir: \d+ bytes exceed/, () => createWith({ working_dir: `/${mebibyte}` })],
      [/encode plan: \d+ bytes .* exceed/, () => createWith({ envs: many(12, (i) => ({ key: `K${i}`, value: Buffer.from(mebibyte) })) })],
      [/encode plan: \d+ bytes .* exceed/, () => createWith({ args: many(12, () => mebibyte) })],
    ];
    for (const [expected, call] of cases) {
      const answer = await call();
      assert.match(answer, expected);
      assert.ok(answer.length < 400, answer);
    }
    const id = await runContainer(client, pod, image, 'c', 'exec sleep 1000');
    assert.match(
      await attempt('ExecSync', { container_id: id, cmd: ['true', mebibyte.repeat(12)], timeout: '5' }),
      /encode plan: \d+ bytes .* exceed/,
    );
    // Bytes one by one: each read gives another small buffer.
    const noisy = 'dd if=/dev/zero bs=1 count=5000 2>/dev/null; dd if=/dev/zero bs=1M count=20 2>/dev/null';
    const outputs = await Promise.all(
      many(2, () => client.call<{ stdout: Buffer; stderr: Buffer }>('ExecSync', { container_id: id, cmd: ['sh', '-c', noisy], timeout: '50' })),
    );
    for (const { stdout, stderr } of outputs) assert.ok(stdout.length + stderr.length < 16 << 20 && stdout.length > 7 << 20);
    const listed = await client.call<{ items: unknown[] }>('ListPodSandbox', {});
    assert.equal(listed.items.length, 1, 'only the pod of this test');
    const peakBytes = peakBytesOf(daemon.pid);
    t.diagnostic(`peak memory of the daemon: ${peakBytes >> 20} MiB`);
    assert.ok(peakBytes < peakBytesMax, `the daemon used ${peakBytes >> 20} MiB`);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

test('the log path of a container stays below the log directory, and no link in its place is followed', { skip }, async () => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace);
  const { client } = daemon;
  try {
    const image = await pullSample(client);
    const pod = await runPod(client, 'logs', workspace.directory);
    for (const path of ['../escaped', '/escaped', 'a/../../escaped', 'a\0b', '.', 'a/', '']) {
      const failure = await runContainer(client, pod, image, 'bad', 'true', { log_path: path }).then(
        () => '',
        (error: Error) => error.message,
      );
      // Without a path there is no log.
      if (path === '') assert.equal(failure, '');
      else assert.match(failure, /INVALID_ARGUMENT: log_path: /, path);
    }
    assert.deepEqual(
      ['escaped', '../escaped'].filter((name) => readable(join(pod.logDirectory, name))),
      [],
    );
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(method, { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

test('CVE-2023-25153: documents of 64 MiB in an imported archive do not make the daemon large', { skip }, async (t) => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace);
  try {
    const before = peakBytesOf(daemon.pid);
    const file = join(workspace.directory, 'archive.tar.gz');
    const huge = Buffer.alloc(64 << 20, ' ');
    const config = { Config: 'config.json', RepoTags: ['x.example/huge:1'], Layers: [] };
    for (const members of [
      [{ path: 'index.json', content: huge }],
      [{ path: 'manifest.json', content: huge }],
      [
        { path: 'manifest.json', content: JSON.stringify([config]) },
        { path: 'config.json', content: huge },
      ],
    ]) {
      writeFileSync(file, gzipSync(makeTar(members), { level: 1 }));
      const { code, output } = await runBerth(['image', 'import', file, '--socket', workspace.socket]);
      assert.deepEqual([code, /size of 67108864 bytes exceeds the limit of \d+/.test(output)], [1, true], output);
    }
    const grownBytes = peakBytesOf(daemon.pid) - before;
    t.diagnostic(`peak memory grew by ${grownBytes >> 20} MiB`);
    assert.ok(grownBytes < 60 << 20, `peak memory grew by ${grownBytes >> 20} MiB`);
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});

function readable(path: string): boolean {
  try {
    readFileSync(path);
    return true;
  } catch {
    return false;
  }
}
