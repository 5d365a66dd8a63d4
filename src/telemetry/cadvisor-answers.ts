/**
 * What the kubelet's cAdvisor asks CRI-O over HTTP, answered from berth's records, so that its figures get the labels of pods. Pure.
 *
 * The calls and the members: container/crio/client.go and handler.go of cAdvisor. It looks at cgroups itself and asks about those called
 * `crio-ID`. Only what it has the label `io.kubernetes.container.name=POD` of does it show a network for: of the process that is named there.
 */
import { type ContainerView, containerState, type SandboxView, sandboxState } from '../engine/state/records.ts';

export type CadvisorSources = {
  readonly sandbox: (id: string) => SandboxView | undefined;
  readonly container: (id: string) => ContainerView | undefined;
  readonly containers: () => readonly ContainerView[];
  readonly rootDir: string;
};

/** The answer to a GET; null: there is none. */
export function answerCadvisor(sources: CadvisorSources, path: string): object | null {
  // With a driver that it does not know it does not walk the writable layers, which ListContainerStats has measured.
  if (path === '/info') return { storage_driver: 'berth', storage_root: sources.rootDir };
  const id = /^\/containers\/([0-9a-f]{64})$/.exec(path)?.[1];
  if (id === undefined) return null;
  const container = sources.container(id);
  if (container !== undefined) return describeContainer(container);
  const sandbox = sources.sandbox(id);
  return sandbox === undefined ? null : describeSandbox(sandbox, sources.containers());
}

function describeContainer({ record, status }: ContainerView): object {
  const { id, sandboxId, spec, image, createdAtNs } = record;
  return {
    name: id,
    // 0: not yet, ask again.
    pid: containerState(status) === 'running' ? (status.process?.pid ?? 0) : 0,
    image: image.name,
    created_time: Number(createdAtNs),
    labels: spec.labels,
    annotations: spec.annotations,
    sandbox: sandboxId,
    ...unmeasured,
  };
}

function describeSandbox({ record, status }: SandboxView, containers: readonly ContainerView[]): object {
  const { id, spec, createdAtNs } = record;
  const member = containers.find((each) => each.record.sandboxId === id && containerState(each.status) === 'running');
  const pid = status.reaper?.pid ?? member?.status.process?.pid ?? 0;
  return {
    name: id,
    // There is no pause process: any of the pod's has its network. With the node's network there is none to show.
    pid: spec.namespaces.network === 'pod' && sandboxState(status) === 'ready' ? pid : 0,
    image: '',
    created_time: Number(createdAtNs),
    labels: { ...spec.labels, 'io.kubernetes.container.name': 'POD' },
    annotations: spec.annotations,
    sandbox: id,
    ...unmeasured,
    ip_addresses: status.network?.ips ?? [],
  };
}

/** Paths whose size it would add up every minute. */
const unmeasured = { root: '', log_path: '' } as const;
