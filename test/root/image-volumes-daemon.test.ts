/** Image volumes through the daemon: what ContainerStatus says of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildImage, buildLayer } from '../../scripts/image-builder.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, startDaemon } from './support/daemon.ts';
import { exec, pullImage, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

type Mounted = {
  readonly container_path: string;
  readonly image: { readonly image: string; readonly image_ref: string };
  readonly image_sub_path: string;
};

test('the reference of an image volume is the one that PullImage returned, whatever name the request used', { skip }, async () => {
  const workspace = createWorkspace();
  const daemon = await startDaemon(workspace);
  try {
    const { client } = daemon;
    const layer = await buildLayer([{ kind: 'file', path: 'deep/word', data: 'of the volume\n' }]);
    const volume = await pullImage(client, 'berth/volume:1', buildImage([layer], {}, undefined, process.arch === 'x64' ? 'amd64' : process.arch));
    const { image } = await client.call<{ image: { id: string; repo_digests: readonly string[] } }>('ImageStatus', { image: { image: volume } });
    const pod = await runPod(client, 'volumes', workspace.directory);
    const names = [volume, image.id, image.repo_digests[0] ?? ''];
    const mounts = names.map((name, i) => ({ container_path: `/v${i}`, image: { image: name }, image_sub_path: 'deep', readonly: true }));
    const id = await runContainer(client, pod, await pullSample(client), 'mounts', 'exec sleep 1000', { mounts });
    assert.equal(await exec(client, id, 'sh', '-c', 'cat /v?/word'), 'of the volume\n'.repeat(3));
    const { status } = await client.call<{ status: { mounts: readonly Mounted[] } }>('ContainerStatus', { container_id: id });
    assert.deepEqual(
      status.mounts.map(({ container_path, image: { image: name, image_ref }, image_sub_path }) => [container_path, name, image_ref, image_sub_path]),
      names.map((name, i) => [`/v${i}`, name, image.id, 'deep']),
    );
    await client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  } finally {
    await daemon.end('SIGTERM');
    await workspace.remove();
  }
});
