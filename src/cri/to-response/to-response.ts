/**
 * Converts records and statuses to CRI messages. Pure.
 *
 * Labels and annotations are returned unchanged. Enums are names and 64-bit integers decimal strings, as the encoder requires.
 */

import { signalName } from '../../engine/plan/signals.ts';
import {
  type ContainerState,
  type ContainerView,
  containerState,
  type SandboxState,
  type SandboxView,
  sandboxState,
} from '../../engine/state/records.ts';
import type { ContainerSpec, IdRange, ImageVolume, Mount, NamespaceModes, PidMode, Propagation, Resources } from '../../engine/state/spec.ts';
import type { ImageView } from '../deps.ts';
import type * as cri from '../wire/messages.ts';

export function podSandbox({ record, status }: SandboxView): cri.PodSandbox {
  const { spec } = record;
  return {
    id: record.id,
    metadata: spec.metadata,
    state: toSandboxState(sandboxState(status)),
    created_at: record.createdAtNs,
    labels: spec.labels,
    annotations: spec.annotations,
    runtime_handler: spec.runtimeHandler,
  };
}

/**
 * With host networking there is no address: the kubelet knows the node's. The namespace modes are required: without them the kubelet recreates
 * a sandbox with host networking.
 */
export function podSandboxStatus(view: SandboxView): cri.PodSandboxStatus {
  const [ip = '', ...others] = view.status.network?.ips ?? [];
  return {
    ...podSandbox(view),
    network: { ip, additional_ips: others.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: namespaceOptions(view.record.spec.namespaces) } },
  };
}

export function container({ record, status }: ContainerView): cri.Container {
  const { spec } = record;
  return {
    id: record.id,
    pod_sandbox_id: record.sandboxId,
    metadata: spec.metadata,
    image: imageSpec(spec, record.image.name),
    image_ref: record.image.ref,
    image_id: record.image.id,
    state: toContainerState(containerState(status)),
    created_at: record.createdAtNs,
    labels: spec.labels,
    annotations: spec.annotations,
  };
}

export function containerStatus({ record, status }: ContainerView): cri.ContainerStatus {
  const { spec, identity } = record;
  return {
    id: record.id,
    metadata: spec.metadata,
    state: toContainerState(containerState(status)),
    created_at: record.createdAtNs,
    started_at: status.startedAtNs,
    finished_at: status.finishedAtNs,
    exit_code: status.exitCode,
    image: imageSpec(spec, record.image.name),
    image_ref: record.image.ref,
    image_id: record.image.id,
    reason: status.reason,
    message: status.message,
    labels: spec.labels,
    annotations: spec.annotations,
    mounts: spec.mounts.map(mount),
    log_path: spec.logPath,
    resources: { linux: linuxResources(status.resources) },
    user: { linux: { uid: String(identity.uid), gid: String(identity.gid), supplemental_groups: identity.additionalGids.map(String) } },
    stop_signal: stopSignal(record.stopSignal),
  };
}

export function image(view: ImageView): cri.Image {
  return {
    id: view.id,
    repo_tags: view.repoTags,
    repo_digests: view.repoDigests,
    size: String(view.sizeBytes),
    ...imageUser(view.user),
    pinned: view.isPinned,
  };
}

/** Undefined values are omitted from the message. */
function linuxResources(resources: Resources): cri.LinuxContainerResources {
  return {
    cpu_period: decimal(resources.cpuPeriodUs),
    cpu_quota: decimal(resources.cpuQuotaUs),
    cpu_shares: decimal(resources.cpuShares),
    memory_limit_in_bytes: decimal(resources.memoryLimitBytes),
    memory_swap_limit_in_bytes: decimal(resources.memorySwapLimitBytes),
    oom_score_adj: decimal(resources.oomScoreAdj),
    cpuset_cpus: resources.cpusetCpus,
    cpuset_mems: resources.cpusetMems,
    hugepage_limits: resources.hugepageLimits?.map(({ pageSize, limitBytes }) => ({ page_size: pageSize, limit: String(limitBytes) })),
    unified: resources.unified,
  };
}

function toSandboxState(state: SandboxState): cri.PodSandboxState {
  return state === 'ready' ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY';
}

const containerStates: Readonly<Record<ContainerState, cri.ContainerState>> = {
  creating: 'CONTAINER_UNKNOWN',
  created: 'CONTAINER_CREATED',
  running: 'CONTAINER_RUNNING',
  exited: 'CONTAINER_EXITED',
  unknown: 'CONTAINER_UNKNOWN',
};

const toContainerState = (state: ContainerState): cri.ContainerState => containerStates[state];

const pidModes: Readonly<Record<PidMode, cri.NamespaceMode>> = { pod: 'POD', container: 'CONTAINER', node: 'NODE', target: 'TARGET' };

function namespaceOptions({ network, ipc, pid, user }: NamespaceModes): cri.NamespaceOption {
  const options = { network: pidModes[network], ipc: pidModes[ipc], pid: pidModes[pid] };
  return user === undefined ? options : { ...options, userns_options: { mode: 'POD', uids: [idMapping(user.uids)], gids: [idMapping(user.gids)] } };
}

function idMapping({ hostId, length }: IdRange): cri.IDMapping {
  return { container_id: 0, host_id: hostId, length };
}

/** Returns the image's name, not the id that the kubelet requested. */
function imageSpec({ image: spec }: ContainerSpec, name: string): cri.ImageSpec {
  return { image: name, annotations: spec.annotations, user_specified_image: spec.userSpecified, runtime_handler: spec.runtimeHandler };
}

const propagations: Readonly<Record<Propagation, cri.MountPropagation>> = {
  private: 'PROPAGATION_PRIVATE',
  'host-to-container': 'PROPAGATION_HOST_TO_CONTAINER',
  bidirectional: 'PROPAGATION_BIDIRECTIONAL',
};

function mount(spec: Mount): cri.Mount {
  return {
    container_path: spec.containerPath,
    host_path: spec.hostPath,
    readonly: spec.isReadonly,
    recursive_read_only: spec.isRecursiveReadonly,
    propagation: propagations[spec.propagation],
    selinux_relabel: spec.wantsSelinuxRelabel,
    mount_options: spec.options,
    ...(spec.ids === undefined ? {} : { uidMappings: [idMapping(spec.ids.uids)], gidMappings: [idMapping(spec.ids.gids)] }),
    ...(spec.image === undefined ? {} : imageMount(spec.image)),
  };
}

/** The reference is the one of PullImage: critest 1.37 compares them. */
function imageMount({ requested, subPath, found }: ImageVolume): Pick<cri.Mount, 'image' | 'image_sub_path'> {
  return { image: { image: requested, image_ref: found?.id }, image_sub_path: subPath };
}

/** Converts `SIGRTMIN+3` to `SIGNAL_SIGRTMINPLUS3`. */
function stopSignal(number: number): cri.Signal {
  return `SIGNAL_${signalName(number).replace('+', 'PLUS').replace('-', 'MINUS')}` as cri.Signal;
}

/** 2^32 - 1 means "no change" in setresuid(2). */
const idMax = 0xfffffffe;

/**
 * Returns the first part of the config's User, as uid if it is an id, else as name. The kubelet uses it for runAsNonRoot, and refuses names. A larger number
 * would wrap in the field's 64 bits, and be another user.
 */
function imageUser(user: string): Pick<cri.Image, 'uid' | 'username'> {
  const name = user.split(':')[0] ?? '';
  if (/^\d+$/.test(name) && Number(name) <= idMax) return { uid: { value: name } };
  return name === '' ? {} : { username: name };
}

const decimal = (number: number | undefined): string | undefined => (number === undefined ? undefined : String(number));

/** Encodes the additional information of a verbose status as JSON, by topic. */
export function verboseInfo(topics: Readonly<Record<string, unknown>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(topics).map(([topic, value]) => [topic, JSON.stringify(value)]));
}
