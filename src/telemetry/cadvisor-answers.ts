/**
 * Answers the requests that the kubelet's cAdvisor sends to CRI-O over HTTP, from berth's records, so that its metrics get pod labels. Pure.
 *
 * Source of requests and fields: container/crio/client.go and handler.go of cAdvisor. It finds cgroups itself, and asks about those named `crio-ID`. It
 * reports network metrics only for containers with the label `io.kubernetes.container.name=POD`, from the network namespace of their pid.
 */
import { type ContainerView, containerState, type SandboxView, sandboxState } from '../engine/state/records.ts';

export type CadvisorSources = {
  readonly sandbox: (id: string) => SandboxView | undefined;
  readonly container: (id: string) => ContainerView | undefined;
  readonly containers: () => readonly ContainerView[];
  readonly rootDir: string;
};

/** Returns the response to a GET request, or null if the path is unknown. */
export function answerCadvisor(sources: CadvisorSources, path: string): object | null {
  // With an unknown storage driver, cAdvisor does not walk the writable layers. ListContainerStats already measures them.
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
    // With pid 0, cAdvisor retries.
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
    // There is no pause process: any process of the pod has its network namespace. With host network there are no network metrics.
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

/** Paths whose size cAdvisor would compute every minute. */
const unmeasured = { root: '', log_path: '' } as const;
