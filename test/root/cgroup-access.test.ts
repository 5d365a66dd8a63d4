/**
 * The cgroup namespace and the mode of /sys/fs/cgroup that a container requests, through the daemon: what it sees and may change, and what is refused.
 *
 * On cgroup v1 all requests but those for the defaults are refused.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { probeCgroups } from '../../src/sys/cgroup/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { detailsOf, exec, type Pod, pullSample, runContainer, runPod } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();
const facts = probeCgroups();
const hasDelegation = facts.version === 2 && facts.hasNsDelegate;
const onlyDelegated = skip || (!hasDelegation && 'cgroup v2 with nsdelegate only');

const range = [{ host_id: 200_000, container_id: 0, length: 65_536 }];
const ownIds = { userns_options: { mode: 'POD', uids: range, gids: range } };

let workspace: Workspace;
let daemon: Daemon;
let image: string;
let pods: Readonly<Record<'ordinary' | 'privileged' | 'mapped', Pod>>;
let count = 0;

before(async () => {
  if (skip) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
  const run = (name: string, security_context: Message) => runPod(daemon.client, name, workspace.directory, { linux: { security_context } });
  pods = {
    ordinary: await run('ordinary', {}),
    privileged: await run('privileged', { privileged: true }),
    mapped: await run('mapped', { namespace_options: ownIds }),
  };
});
after(async () => {
  if (skip) return;
  for (const pod of Object.values(pods)) await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

type Wanted = { readonly kind?: keyof typeof pods; readonly mode?: string; readonly mount?: string };

/** Starts a container. @returns its id. */
function start({ kind = 'ordinary', mode, mount }: Wanted): Promise<string> {
  const namespace_options = { ...(kind === 'mapped' ? ownIds : {}), ...(mode ? { cgroupns_options: { mode } } : {}) };
  const security_context = {
    privileged: kind === 'privileged',
    namespace_options,
    ...(mount ? { cgroup_mount_mode: `CGROUP_MOUNT_MODE_${mount}` } : {}),
  };
  return runContainer(daemon.client, pods[kind], image, `c${++count}`, 'exec sleep 1000', { linux: { security_context } });
}
const run = (id: string, script: string) => exec(daemon.client, id, 'sh', '-c', script);
const isWritable = 'mkdir /sys/fs/cgroup/made 2>/dev/null && rmdir /sys/fs/cgroup/made && echo yes || echo no';

test('forbidden pairs are refused on every node', { skip }, async () => {
  for (const wanted of [
    { mode: 'NODE', mount: 'READ_WRITE' },
    { kind: 'privileged', mount: 'READ_ONLY' },
    { mode: 'POD' },
    { mode: 'TARGET' },
  ] as const)
    await assert.rejects(start(wanted), /INVALID_ARGUMENT/, JSON.stringify(wanted));
  const sandbox = { linux: { security_context: { namespace_options: { cgroupns_options: { mode: 'CONTAINER' } } } } };
  await assert.rejects(runPod(daemon.client, 'refused', workspace.directory, sandbox), /INVALID_ARGUMENT.*only for containers/);
});

test('the features say what this node provides, and the rest is refused', { skip }, async () => {
  const { features, runtime_handlers } = await daemon.client.call<{ features: Message; runtime_handlers: readonly { features: Message }[] }>(
    'Status',
    {},
  );
  assert.equal(features['cgroup_mount_mode'] ?? false, hasDelegation);
  for (const handler of runtime_handlers) assert.equal(handler.features['cgroup_namespaces'] ?? false, facts.version === 2);
  if (!hasDelegation) await assert.rejects(start({ mount: 'READ_WRITE' }), /FAILED_PRECONDITION.*nsdelegate/);
  if (facts.version === 1) await assert.rejects(start({ mode: 'CONTAINER' }), /FAILED_PRECONDITION.*cgroup v2/);
  const id = await start({ mount: 'READ_ONLY' });
  assert.equal(await run(id, 'touch /sys/fs/cgroup/x 2>/dev/null || echo refused'), 'refused\n');
});

test('READ_WRITE lets a container create cgroups, but not lift its own limits, also in a user namespace', { skip: onlyDelegated }, async () => {
  for (const kind of ['ordinary', 'mapped'] as const) {
    const id = await start({ kind, mount: 'READ_WRITE' });
    assert.equal(await run(id, `cat /proc/self/cgroup; ${isWritable}`), '0::/\nyes\n', kind);
    await run(id, 'mkdir /sys/fs/cgroup/own && echo $$ > /sys/fs/cgroup/own/cgroup.procs');
    assert.match(await run(id, 'echo max > /sys/fs/cgroup/pids.max 2>&1 || echo refused'), /refused/);
    await daemon.client.call('RemoveContainer', { container_id: id });
  }
  assert.equal(await run(await start({}), isWritable), 'no\n');
});

test('the cgroup namespace is the chosen one', { skip: onlyDelegated }, async () => {
  for (const kind of ['ordinary', 'mapped', 'privileged'] as const) {
    const own = await start({ kind, mode: 'CONTAINER' });
    assert.equal(await run(own, 'cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.events'), '0::/\n/sys/fs/cgroup/cgroup.events\n', kind);
    const ofNode = await start({ kind, mode: 'NODE' });
    const { cgroupPath } = await detailsOf(daemon.client, ofNode);
    assert.ok((await run(ofNode, 'cat /proc/self/cgroup')).endsWith(`${cgroupPath}\n`), kind);
    // The root of the hierarchy has no cgroup.events.
    assert.equal(
      await run(ofNode, `ls -d /sys/fs/cgroup${cgroupPath}; ${isWritable}`),
      `/sys/fs/cgroup${cgroupPath}\n${kind === 'privileged' ? 'yes' : 'no'}\n`,
      kind,
    );
  }
});
