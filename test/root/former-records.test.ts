/**
 * Compatibility of records: the daemon reads records of an older version (test/data/former-records.json, 0.1.0) and of a newer one with unknown fields
 * without losing anything.
 *
 * Fields that are added later are missing in the old records: this test fails if the code requires them. A change that cannot read old records needs a new
 * recordVersion and a reader for the old one.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, findLeftovers, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { exec, logLines, pullSample, runPod, statusOf } from './support/pods.ts';

const options = { skip: !isBuilt && 'berth is not built', timeout: 120_000 };
if (isBuilt) enterIsolation();

/** Records of another version, which do not match the types. */
type Fields = Readonly<Record<string, unknown>>;
type Kept = { readonly record: Fields & { readonly spec: Fields; readonly image?: Fields }; readonly status: Fields };

const former: { readonly sandbox: Kept; readonly container: Kept } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../data/former-records.json'), 'utf8'),
);
const later = { ofALaterBerth: { some: ['thing'] } };

let workspace: Workspace;
let daemon: Daemon;
let image: string;

before(async () => {
  if (!isBuilt) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
  const { id: pod_sandbox_id } = await runPod(daemon.client, 'first', workspace.directory);
  for (const rpc of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(rpc, { pod_sandbox_id });
});
after(async () => {
  if (!isBuilt) return;
  await daemon.end('SIGTERM');
  await workspace.remove();
});

/** Replaces the files of an existing object. */
function replace(kind: string, id: string, change: (now: Kept) => Kept): void {
  const path = (name: string) => join(workspace.state, kind, id, `${name}.json`);
  const read = (name: string) => JSON.parse(readFileSync(path(name), 'utf8'));
  const changed = change({ record: read('record'), status: read('status') });
  for (const name of ['record', 'status'] as const) writeFileSync(path(name), JSON.stringify(changed[name]));
}

const formerSandbox = ({ record, status }: Kept): Kept => {
  const { id, netnsPath, createdAtNs, spec } = record;
  const own = { id, netnsPath, createdAtNs, spec: { ...former.sandbox.record.spec, logDirectory: spec.logDirectory } };
  return { record: { ...former.sandbox.record, ...own }, status: { ...former.sandbox.status, network: status.network, reaper: status.reaper } };
};

const formerContainer = ({ record, status }: Kept): Kept => {
  const { id, sandboxId, cgroupPath, createdAtNs, image: own, spec } = record;
  const formerSpec = { ...former.container.record.spec, logPath: spec.logPath };
  const changed = { ...former.container.record, id, sandboxId, cgroupPath, createdAtNs, spec: formerSpec };
  const layers = { id: own?.['id'], layerDirs: own?.['layerDirs'], diffIds: own?.['diffIds'] };
  return {
    record: { ...changed, image: { ...former.container.record.image, ...layers } },
    status: { ...former.container.status, readyAtNs: status.readyAtNs },
  };
};

const laterObject = ({ record, status }: Kept): Kept => ({
  record: { ...record, ...later, spec: { ...record.spec, ...later } },
  status: { ...status, ...later },
});

const kinds = [
  ['older', 'former', formerSandbox, formerContainer],
  ['later', 'newest', laterObject, laterObject],
] as const;

for (const [age, name, ofSandbox, ofContainer] of kinds) {
  test(`a pod with records of a berth that is ${age} is listed, its container starts, and everything can be removed`, options, async () => {
    const leftoversBefore = await findLeftovers(workspace, daemon);
    const linux = { security_context: { namespace_options: { pid: 'POD' } } };
    const pod = await runPod(daemon.client, name, workspace.directory, { linux });
    const metadata = { name: 'main', attempt: 1 };
    const config = { metadata, image: { image }, command: ['sh', '-c', 'echo hello; exec sleep 1000'], log_path: 'main/1.log', linux };
    const creation = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
    const { container_id } = await daemon.client.call<{ container_id: string }>('CreateContainer', creation);
    await daemon.end('SIGKILL');
    replace('sandboxes', pod.id, ofSandbox);
    replace('containers', container_id, ofContainer);

    daemon = await startDaemon(workspace);
    const { client } = daemon;
    assert.equal((await statusOf(client, container_id)).state, 'CONTAINER_CREATED');
    await client.call('StartContainer', { container_id });
    assert.equal(await exec(client, container_id, 'hostname'), `${name}\n`);
    assert.deepEqual(logLines(join(pod.logDirectory, 'main/1.log')), ['hello']);
    await client.call('UpdateContainerResources', { container_id, linux: { cpu_shares: '99' } });
    for (const rpc of ['ContainerStats', 'ContainerStatus']) await client.call(rpc, { container_id, verbose: true });
    const status = await client.call<{ status: { state: string; network: { ip: string } } }>('PodSandboxStatus', {
      pod_sandbox_id: pod.id,
      verbose: true,
    });
    assert.equal(status.status.state, 'SANDBOX_READY');
    assert.match(status.status.network.ip, /^10\.77\./);
    for (const rpc of ['ListPodSandboxMetrics', 'ListPodSandboxStats']) await client.call(rpc, {});
    await daemon.end('SIGKILL');
    daemon = await startDaemon(workspace);
    assert.equal((await statusOf(daemon.client, container_id)).state, 'CONTAINER_RUNNING');
    for (const rpc of ['StopPodSandbox', 'RemovePodSandbox']) await daemon.client.call(rpc, { pod_sandbox_id: pod.id });
    assert.deepEqual(await findLeftovers(workspace, daemon), leftoversBefore);
  });
}
