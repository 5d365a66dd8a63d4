/**
 * Creates the JSON documents of a checkpoint archive, in the format that CRI-O, containerd and checkpointctl read. Pure.
 *
 * `config.dump` identifies the container, `spec.dump` is its configuration in the format of the OCI runtime specification, `bind.mounts` contains the
 * file type of each volume's source. Sources: checkpointctl's lib/metadata.go, CRI-O's internal/lib/checkpoint.go.
 */
import { posix } from 'node:path';
import { capabilityNames } from '../plan/capabilities.ts';
import type { ProcessPlan } from '../plan/process-setup.ts';
import type { ContainerView, SandboxView } from '../state/records.ts';
import type { IdRange, Mount, Resources } from '../state/spec.ts';

export type Checkpointed = {
  readonly container: ContainerView;
  readonly sandbox: SandboxView;
  readonly process: Pick<ProcessPlan, 'argv' | 'env' | 'workingDir' | 'credentials' | 'oomScoreAdj' | 'appArmorProfile'>;
  /** The sources of volumes, by `hostPath`. A source that no longer exists is absent. */
  readonly sources: ReadonlyMap<string, { readonly isDirectory: boolean; readonly permissions: number }>;
  readonly atNs: string;
};

/** Returns the documents as JSON, by file name. */
export function checkpointDocuments(checkpointed: Checkpointed): Readonly<Record<string, string>> {
  const network = networkStatus(checkpointed.sandbox.status.network?.cniResult);
  const documents = {
    'config.dump': configDump(checkpointed),
    'spec.dump': specDump(checkpointed),
    'bind.mounts': bindMounts(checkpointed),
    ...(network ? { 'network.status': network } : {}),
  };
  return Object.fromEntries(Object.entries(documents).map(([name, value]) => [name, `${JSON.stringify(value, null, 2)}\n`]));
}

/** The zero value of Go's time.Time. */
const zeroTime = '0001-01-01T00:00:00Z';

function configDump({ container: { record }, sandbox, atNs }: Checkpointed): unknown {
  const { image, spec } = record;
  return {
    id: record.id,
    name: kubernetesName(record.spec.metadata, sandbox.record.spec.metadata),
    rootfsImage: spec.image.userSpecified || image.name,
    // Without the algorithm: readers look up an image by this id.
    rootfsImageRef: image.id.replace(/^sha256:/, ''),
    rootfsImageName: image.name,
    runtime: sandbox.record.spec.runtimeHandler || 'berth',
    createdTime: timeOf(record.createdAtNs),
    checkpointedTime: timeOf(atNs),
    restoredTime: zeroTime,
    restored: false,
  };
}

type Name = { readonly name: string };

const kubernetesName = (own: Name & { readonly attempt: number }, pod: Name & { readonly namespace: string; readonly uid: string }): string =>
  ['k8s', own.name, pod.name, pod.namespace, pod.uid, own.attempt].join('_');

/** RFC 3339 with nanoseconds. */
function timeOf(ns: string): string {
  const nanoseconds = BigInt(ns);
  const seconds = new Date(Number(nanoseconds / 1_000_000n)).toISOString().slice(0, 19);
  return `${seconds}.${String(nanoseconds % 1_000_000_000n).padStart(9, '0')}Z`;
}

/** Without the seccomp profile: the criu images contain the compiled filter, and the runtime that restores applies its own profile. */
function specDump(checkpointed: Checkpointed): unknown {
  const { container, sandbox, process } = checkpointed;
  const { record, status } = container;
  const { security } = record.spec;
  const { namespaces } = sandbox.record.spec;
  return {
    ociVersion: '1.2.0',
    process: processOf(record.spec.hasTerminal, process),
    root: { path: 'rootfs', readonly: security.hasReadonlyRootfs },
    ...(namespaces.network === 'node' ? {} : { hostname: sandbox.record.spec.hostname }),
    mounts: [...standardMounts, ...record.spec.mounts.map(mountOf)],
    annotations: annotationsOf(checkpointed),
    linux: {
      ...(namespaces.user ? { uidMappings: [mappingOf(namespaces.user.uids)], gidMappings: [mappingOf(namespaces.user.gids)] } : {}),
      resources: resourcesOf(status.resources),
      cgroupsPath: record.cgroupPath,
      namespaces: namespaceTypes(container, sandbox).map((type) => ({ type })),
      maskedPaths: security.isPrivileged ? [] : security.maskedPaths,
      readonlyPaths: security.isPrivileged ? [] : security.readonlyPaths,
    },
  };
}

function processOf(terminal: boolean, { argv, env, workingDir, credentials, oomScoreAdj, appArmorProfile }: Checkpointed['process']): unknown {
  const { capabilities } = credentials;
  const sets = Object.fromEntries(Object.entries(capabilities).map(([set, bits]) => [set, namesOf(bits)]));
  return {
    terminal,
    user: { uid: credentials.uid, gid: credentials.gid, additionalGids: credentials.groups },
    args: argv,
    env: env.map(String),
    cwd: workingDir,
    capabilities: sets,
    rlimits: credentials.rlimits.map(({ name, soft, hard }) => ({ type: `RLIMIT_${name}`, soft: Number(soft), hard: Number(hard) })),
    noNewPrivileges: credentials.noNewPrivs,
    ...(appArmorProfile === undefined ? {} : { apparmorProfile: appArmorProfile }),
    oomScoreAdj,
  };
}

const namesOf = (bits: bigint): string[] => capabilityNames.flatMap((name, number) => ((bits >> BigInt(number)) & 1n ? [`CAP_${name}`] : []));

const kernelMount = (destination: string, type: string) => ({ destination, type, source: type });
const sandboxMount = (destination: string) => ({ destination, type: 'bind', source: destination, options: ['bind'] });

const standardMounts = [
  kernelMount('/proc', 'proc'),
  kernelMount('/dev', 'tmpfs'),
  kernelMount('/dev/pts', 'devpts'),
  kernelMount('/dev/mqueue', 'mqueue'),
  kernelMount('/sys', 'sysfs'),
  kernelMount('/sys/fs/cgroup', 'cgroup'),
  ...['/dev/shm', '/etc/hostname', '/etc/resolv.conf'].map(sandboxMount),
];

const propagations = { private: 'rprivate', 'host-to-container': 'rslave', bidirectional: 'rshared' } as const;

function mountOf({ containerPath, hostPath, image, isReadonly, propagation, options }: Mount): unknown {
  const flags = ['rbind', propagations[propagation], isReadonly || image ? 'ro' : 'rw', ...options];
  return { destination: containerPath, type: 'bind', source: image?.requested ?? hostPath, options: flags };
}

const mappingOf = ({ hostId, length }: IdRange) => ({ containerID: 0, hostID: hostId, size: length });

function namespaceTypes({ record }: ContainerView, { record: { spec } }: SandboxView): string[] {
  const { pid } = record.spec.security.namespaces;
  return [
    'mount',
    'cgroup',
    ...(pid === 'node' ? [] : ['pid']),
    ...(spec.namespaces.network === 'node' ? [] : ['network', 'uts']),
    ...(spec.namespaces.ipc === 'node' ? [] : ['ipc']),
    ...(spec.namespaces.user ? ['user'] : []),
  ];
}

function resourcesOf(resources: Resources): unknown {
  return {
    memory: { limit: resources.memoryLimitBytes, swap: resources.memorySwapLimitBytes },
    cpu: {
      shares: resources.cpuShares,
      quota: resources.cpuQuotaUs,
      period: resources.cpuPeriodUs,
      cpus: resources.cpusetCpus || undefined,
      mems: resources.cpusetMems || undefined,
    },
    hugepageLimits: resources.hugepageLimits?.map(({ pageSize, limitBytes }) => ({ pageSize, limit: limitBytes })),
    unified: resources.unified,
  };
}

/**
 * Returns the annotations of both CRI-O and containerd. `io.container.manager` is `cri-o`, whose set is larger: it has the pod's addresses, and what
 * CRI-O requires for a restore.
 */
function annotationsOf({ container: { record }, sandbox }: Checkpointed): Readonly<Record<string, string>> {
  const { spec, image } = record;
  const pod = sandbox.record.spec.metadata;
  const ips = sandbox.status.network?.ips ?? [];
  const crio: Readonly<Record<string, string>> = {
    Annotations: JSON.stringify(spec.annotations),
    ContainerID: record.id,
    ContainerType: 'container',
    Created: timeOf(record.createdAtNs),
    Image: image.name,
    ImageName: image.name,
    ImageRef: image.ref,
    Labels: JSON.stringify(spec.labels),
    LogPath: spec.logPath ?? '',
    Metadata: JSON.stringify(spec.metadata),
    Name: kubernetesName(spec.metadata, pod),
    SandboxID: record.sandboxId,
    SandboxName: pod.name,
    Stdin: String(spec.hasStdin),
    StdinOnce: String(spec.closesStdinAfterFirstAttach),
    TTY: String(spec.hasTerminal),
    ...Object.fromEntries(ips.map((ip, i) => [`IP.${i}`, ip])),
  };
  const containerd: Readonly<Record<string, string>> = {
    'container-name': spec.metadata.name,
    'container-type': 'container',
    'image-name': image.name,
    'sandbox-id': record.sandboxId,
    'sandbox-name': pod.name,
    'sandbox-namespace': pod.namespace,
    'sandbox-uid': pod.uid,
  };
  return {
    ...spec.annotations,
    'io.container.manager': 'cri-o',
    'io.kubernetes.container.name': spec.metadata.name,
    'io.kubernetes.pod.name': pod.name,
    'io.kubernetes.pod.namespace': pod.namespace,
    'io.kubernetes.pod.uid': pod.uid,
    ...prefixed('io.kubernetes.cri-o', crio),
    ...prefixed('io.kubernetes.cri', containerd),
  };
}

const prefixed = (prefix: string, values: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}.${name}`, value]));

/** A restore recreates missing sources, so it needs their types. */
function bindMounts({ container: { record }, sources }: Checkpointed): unknown {
  return record.spec.mounts.flatMap(({ hostPath, containerPath }) => {
    const source = sources.get(hostPath);
    if (source === undefined) return [];
    const { isDirectory, permissions } = source;
    return [{ source: hostPath, destination: posix.normalize(containerPath), file_type: isDirectory ? 'directory' : 'file', permissions }];
  });
}

/** Returns the pod's interfaces in a CNI result, in Podman's format; undefined if there are none. */
function networkStatus(cniResult: unknown): unknown {
  const { interfaces = [], ips = [] } = (cniResult ?? {}) as {
    readonly interfaces?: readonly { readonly name?: string; readonly mac?: string; readonly sandbox?: string }[];
    readonly ips?: readonly { readonly address?: string; readonly gateway?: string; readonly interface?: number }[];
  };
  const own = interfaces.flatMap(({ name, mac, sandbox }, i) => {
    if (!name || !sandbox) return [];
    const subnets = ips.filter((ip) => (ip.interface ?? i) === i).map(({ address = '', gateway = '' }) => ({ ipnet: address, gateway }));
    return [[name, { subnets, mac_address: mac ?? '' }] as const];
  });
  return own.length === 0 ? undefined : { pod: { interfaces: Object.fromEntries(own) } };
}
