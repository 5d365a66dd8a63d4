/**
 * Runs the daemon on a file system that does not support overlayfs: it logs this and copies layers.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, runBerth, serveArguments, startDaemon } from './support/daemon.ts';
import { exec, pullSample, runContainer, runPod } from './support/pods.ts';

if (isBuilt) enterIsolation();

test('a daemon without overlayfs runs pods on copied layers and verifies its images', { skip: !isBuilt && 'berth is not built' }, async () => {
  const workspace = createWorkspace();
  const [lower, upper, work] = ['lower', 'upper', 'work'].map((name) => join(workspace.directory, name)) as [string, string, string];
  for (const path of [lower, upper, work]) mkdirSync(path);
  execFileSync('mount', ['-t', 'overlay', '-o', `lowerdir=${lower},upperdir=${upper},workdir=${work}`, 'overlay', workspace.root]);
  try {
    assert.match((await runBerth([...serveArguments(workspace), '--snapshotter', 'overlay'])).output, /overlay mounts do not work/);
    const daemon = await startDaemon(workspace);
    assert.match(readFileSync(workspace.logFile, 'utf8'), /falling back to copying layers/);
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'copied', workspace.directory);
    const id = await runContainer(daemon.client, pod, image, 'c', 'sleep 1000');
    assert.match(await exec(daemon.client, id, 'sh', '-c', 'echo new > /file; cat /file; ls /'), /^new\n[\s\S]*bin/);

    const flags = serveArguments(workspace).slice(1);
    assert.match((await runBerth(['image', 'ls', ...flags])).output, new RegExp(image.replace(/:1$/, '')));
    const verified = await runBerth(['image', 'verify', ...flags]);
    assert.match(verified.output, /1 image, .*: ok/);
    assert.equal(verified.code, 0);
    assert.equal((await runBerth(['image', 'rm', 'no/such', ...flags])).code, 1);

    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
    assert.equal((await runBerth(['image', 'rm', image, ...flags])).code, 0);
    assert.match((await runBerth(['image', 'verify', ...flags])).output, /0 images, 0 layers/);
    assert.equal(await daemon.end('SIGTERM'), 0);
  } finally {
    execFileSync('umount', [workspace.root]);
    await workspace.remove();
  }
});
