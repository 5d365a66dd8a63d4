/**
 * The lifecycle of a pod as a list of steps, and the engine that runs them. Each step can be repeated after an interruption, as a kubelet does.
 */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createNetwork } from '../../../src/cni/network.ts';
import { type ContainerView, containerState, sandboxState } from '../../../src/engine/state/records.ts';
import type { NamespaceModes } from '../../../src/engine/state/spec.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from '../../root/support/engine.ts';

export type Node = TestEngine & { readonly cgroupParent: string };

/** Opens an engine with the state in the directory. @param cgroupParent must be the same for all engines of a directory. */
export async function openNode(directory: string, cgroupParent: string): Promise<Node> {
  const [confDir, binDir, leases] = [join(directory, 'net.d'), join(directory, 'bin'), join(directory, 'leases')];
  for (const path of [confDir, binDir, leases]) mkdirSync(path, { recursive: true });
  writeFileSync(join(confDir, '10-net.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'lease' }] }));
  writeFileSync(join(binDir, 'lease'), leasePlugin(leases));
  chmodSync(join(binDir, 'lease'), 0o755);
  const network = await createNetwork({
    confDir,
    binDirs: [binDir],
    cacheDir: join(directory, 'root/cni'),
    addTimeoutMs: 20_000,
    delTimeoutMs: 20_000,
  });
  return { ...(await startEngine(network, directory)), cgroupParent };
}

/** A CNI plugin that creates a directory for each address. It rejects a repeated ADD, which the specification allows. */
const leasePlugin = (leases: string): string => `#!/bin/sh
lease=${leases}/$CNI_CONTAINERID
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}';;
  ADD) mkdir "$lease" || { echo '{"cniVersion":"1.0.0","code":100,"msg":"added twice"}'; exit 1; }
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"10.1.0.2/16","interface":0}]}';;
  DEL) rmdir "$lease" 2>/dev/null; exit 0;;
esac
`;

/** `shared`: the pod has a pid namespace and a user namespace; `plain`: it has neither. */
export type Kind = 'shared' | 'plain';

export type Step = { readonly name: string; readonly run: (node: Node, kind: Kind) => Promise<void> };

function namespacesOf({ deps }: Node, kind: Kind): NamespaceModes {
  const ids = { hostId: 1_000_000, containerId: 0, length: 65_536 };
  const isMapped = kind === 'shared' && deps.userNamespaceFailure === null;
  return { network: 'pod', ipc: 'pod', pid: kind === 'shared' ? 'pod' : 'container', ...(isMapped ? { user: { uids: ids, gids: ids } } : {}) };
}

/** Each step works as well if an earlier daemon has already completed part or all of it. */
export const steps: readonly Step[] = [
  {
    name: 'RunPodSandbox',
    run: async (node, kind) => {
      const metadata = { name: kind, namespace: 'fault', uid: kind, attempt: 0 };
      await node.engine.runSandbox(sandboxSpec({ metadata, cgroupParent: node.cgroupParent, namespaces: namespacesOf(node, kind) }));
    },
  },
  { name: 'CreateContainer', run: (node, kind) => create(node, kind, 0) },
  { name: 'StartContainer', run: start },
  {
    name: 'UpdateContainerResources',
    run: async ({ engine }) => {
      for (const { record } of running(engine.containers())) await engine.updateResources(record.id, { cpuShares: 512 });
    },
  },
  { name: 'StopContainer', run: ({ engine }) => each(engine.containers(), (id) => engine.stopContainer(id, 50)) },
  { name: 'RemoveContainer', run: ({ engine }) => each(engine.containers(), engine.removeContainer) },
  { name: 'StopPodSandbox', run: ({ engine }) => each(engine.sandboxes(), engine.stopSandbox) },
  { name: 'RemovePodSandbox', run: ({ engine }) => each(engine.sandboxes(), engine.removeSandbox) },
];

const running = (views: readonly ContainerView[]) => views.filter(({ status }) => containerState(status) === 'running');

async function each(views: readonly { readonly record: { readonly id: string } }[], action: (id: string) => Promise<void>): Promise<void> {
  for (const { record } of views) await action(record.id);
}

async function create(node: Node, kind: Kind, attempt: number): Promise<void> {
  const sandbox = node.engine.sandboxes().find(({ status }) => sandboxState(status) === 'ready');
  const spec = containerSpec(['sleep', '1000'], {
    metadata: { name: 'main', attempt },
    security: { ...security, seccomp: { kind: 'runtime-default' }, namespaces: namespacesOf(node, kind) },
    resources: { memoryLimitBytes: 64 << 20, cpuShares: 256 },
  });
  await node.engine.createContainer(sandbox?.record.id ?? 'none', spec, node.image);
}

/** After an interrupted start the container is EXITED: creates the next attempt, as a kubelet does. */
async function start(node: Node, kind: Kind): Promise<void> {
  const latest = () =>
    node.engine.containers().reduce((last, view) => (view.record.spec.metadata.attempt > last.record.spec.metadata.attempt ? view : last));
  const state = containerState(latest().status);
  if (state === 'running') return;
  if (state === 'exited') await create(node, kind, latest().record.spec.metadata.attempt + 1);
  await node.engine.startContainer(latest().record.id);
}
