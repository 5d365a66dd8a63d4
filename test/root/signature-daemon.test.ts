/**
 * The daemon with a signature policy: errors for pulls and containers that the policy rejects.
 */
import assert from 'node:assert/strict';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { status } from '@grpc/grpc-js';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, isBuilt, runBerth, serveArguments, startDaemon } from './support/daemon.ts';
import { pullSample, runContainer, runPod } from './support/pods.ts';

if (isBuilt) enterIsolation();

test('a policy applies to pulls and containers as soon as it is written', { skip: !isBuilt && 'berth is not built' }, async () => {
  const workspace = createWorkspace();
  const file = join(workspace.directory, 'policy.json');
  const say = (type: string) => writeFileSync(file, JSON.stringify({ default: [{ type }] }));
  appendFileSync(join(workspace.directory, 'config.toml'), `signature_policy = "${file}"\n`);
  try {
    writeFileSync(file, '{}');
    assert.match((await runBerth(serveArguments(workspace))).output, /policy\.json: signature policy default: must be a list/);
    say('reject');
    const daemon = await startDaemon(workspace);
    // The kubelet checks the prefix of the message.
    const refused = { code: status.UNKNOWN, details: /^SignatureValidationFailed: image .*: rejected \(signature policy, scope "default"\)$/ };
    await assert.rejects(pullSample(daemon.client), refused);
    say('insecureAcceptAnything');
    const image = await pullSample(daemon.client);
    const pod = await runPod(daemon.client, 'policed', workspace.directory);
    await runContainer(daemon.client, pod, image, 'accepted', 'sleep 1000');
    say('reject');
    await assert.rejects(runContainer(daemon.client, pod, image, 'rejected', 'sleep 1000'), refused);
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(method, { pod_sandbox_id: pod.id });
    assert.equal(await daemon.end('SIGTERM'), 0);
  } finally {
    await workspace.remove();
  }
});
