/**
 * The requested configuration of a sandbox and a container, independent of the CRI messages. Pure: types, and two small functions on them.
 *
 * 0, '' and [] never mean "unset" here: optional values are `undefined`, or a union type.
 */

/** `pod`: shared within the sandbox; `container`: its own; `node`: the host's; `target`: that of another container. */
export type PidMode = 'pod' | 'container' | 'node' | 'target';

/** Ids 0 to `length` - 1 inside map to ids from `hostId` on outside. */
export type IdRange = { readonly hostId: number; readonly length: number };

/** The id mappings of a user namespace: user_namespaces(7). */
export type IdMap = { readonly uids: IdRange; readonly gids: IdRange };

export type NamespaceModes = {
  readonly network: 'pod' | 'node';
  readonly ipc: 'pod' | 'node';
  readonly pid: PidMode;
  /** Id of the container whose pid namespace is joined. Only with pid `target`. */
  readonly targetId?: string;
  /** The pod's own user namespace; undefined: the host's. */
  readonly user?: IdMap;
};

/** Identity of a sandbox: a retry of RunPodSandbox carries the same four. */
export type SandboxMetadata = { readonly name: string; readonly namespace: string; readonly uid: string; readonly attempt: number };

export type DnsConfig = { readonly servers: readonly string[]; readonly searches: readonly string[]; readonly options: readonly string[] };

export type PortMapping = {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  /** 0: the port is not exposed on the host. */
  readonly hostPort: number;
  readonly hostIp: string;
};

export type SandboxSpec = {
  readonly metadata: SandboxMetadata;
  readonly hostname: string;
  /** Absolute path, or '' if the sandbox's containers have no logs. */
  readonly logDirectory: string;
  /** `undefined`: copy the host's resolv.conf. */
  readonly dns?: DnsConfig;
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** As the kubelet sends it; '' selects the configured default parent. */
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly namespaces: NamespaceModes;
  readonly isPrivileged: boolean;
  readonly runtimeHandler: string;
};

export type ContainerMetadata = { readonly name: string; readonly attempt: number };

export type Propagation = 'private' | 'host-to-container' | 'bidirectional';

/** An image mounted as a volume. */
export type ImageVolume = {
  /** The name in the request. */
  readonly requested: string;
  /** A directory of the image; '': the whole image. */
  readonly subPath: string;
  /** The image that was found on the node; `id` as returned by PullImage, layers topmost first. */
  readonly found?: { readonly id: string; readonly layerDirs: readonly string[]; readonly diffIds: readonly string[] };
};

export type Mount = {
  readonly containerPath: string;
  /** In place of `hostPath`, which is then ''. Always read-only. */
  readonly image?: ImageVolume;
  /** ID mapping of the mount, for pods with a user namespace. undefined: none. */
  readonly ids?: IdMap;
  /** Absolute path on the host; created as a directory if it does not exist. */
  readonly hostPath: string;
  readonly isReadonly: boolean;
  readonly isRecursiveReadonly: boolean;
  readonly propagation: Propagation;
  readonly wantsSelinuxRelabel: boolean;
  /** Additional attributes of the bind mount. */
  readonly options: readonly ('noexec' | 'nodev' | 'nosuid')[];
  /** Not recursive: excludes mounts below the source. */
  readonly isShallow?: boolean;
  /** A missing source is an error; it is not created. */
  readonly mustExist?: boolean;
};

export type Device = {
  readonly containerPath: string;
  readonly hostPath: string;
  /** A subset of `rwm`. */
  readonly permissions: string;
};

/** A device node from a CDI file. Undefined fields are taken from the node at `hostPath`. */
export type EditedNode = {
  readonly path: string;
  readonly hostPath: string;
  readonly type?: 'char' | 'block' | 'fifo';
  readonly major?: number;
  readonly minor?: number;
  /** Permission bits. */
  readonly mode?: number;
  /** undefined: the ids of the container's user. */
  readonly uid?: number;
  readonly gid?: number;
  /** A subset of `rwm`; '': no rule is added to the container's device cgroup. */
  readonly permissions: string;
};

/** When a hook runs, as named by the OCI runtime specification. `startContainer` is not supported: it would run a program of the image. */
export type HookPoint = 'prestart' | 'createRuntime' | 'createContainer' | 'poststart' | 'poststop';

/** A program on the host that a CDI file names. */
export type Hook = {
  readonly point: HookPoint;
  /** Absolute, on the host. */
  readonly path: string;
  /** Includes argv[0]. Never empty. */
  readonly argv: readonly string[];
  /** The whole environment, `NAME=value`. */
  readonly env: readonly string[];
  readonly timeoutMs: number;
};

/** The edits that a container's CDI devices make to it, in the order in which they are applied. */
export type DeviceEdits = {
  /** Qualified names of the devices. */
  readonly names: readonly string[];
  readonly env: readonly EnvVar[];
  readonly nodes: readonly EditedNode[];
  /** Override earlier mounts on the same path, including those of the request. */
  readonly mounts: readonly Mount[];
  readonly gids: readonly number[];
  readonly hooks: readonly Hook[];
};

/** `undefined` fields leave the current value unchanged. Names follow LinuxContainerResources of the CRI. */
export type Resources = {
  readonly cpuPeriodUs?: number;
  /** -1: unlimited. */
  readonly cpuQuotaUs?: number;
  readonly cpuShares?: number;
  /** -1: unlimited. */
  readonly memoryLimitBytes?: number;
  /** Memory plus swap, as in the OCI runtime specification. -1: unlimited. */
  readonly memorySwapLimitBytes?: number;
  readonly oomScoreAdj?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  /** Page size as in the kernel's file names (`2MB`, `1GB`). */
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limitBytes: number }[];
  /** cgroup v2: file name -> value. */
  readonly unified?: Readonly<Record<string, string>>;
};

export type SeccompProfile =
  | { readonly kind: 'unconfined' }
  | { readonly kind: 'runtime-default' }
  | { readonly kind: 'localhost'; readonly path: string };

/** The requested user. A name and a number are never both set. */
export type UserSpec = {
  readonly uid?: number;
  readonly gid?: number;
  readonly username?: string;
  readonly supplementalGroups: readonly number[];
  readonly groupsPolicy: 'merge' | 'strict';
};

/** What a container sees and may change of its cgroups. Absent fields: the defaults of cgroupViewOf(). */
export type CgroupAccess = {
  readonly namespace?: 'container' | 'node';
  /** Whether /sys/fs/cgroup is writable. */
  readonly isWritable?: boolean;
};

export type SecuritySpec = {
  readonly isPrivileged: boolean;
  /** Capability names without `CAP_`, upper case, or `ALL`. */
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities: readonly string[];
  readonly hasReadonlyRootfs: boolean;
  readonly noNewPrivs: boolean;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly seccomp: SeccompProfile;
  /** Name of a profile; undefined: none, as on nodes without AppArmor. */
  readonly appArmorProfile?: string;
  /** Whether the request has an SELinux label that asks for confinement, on a node without SELinux. */
  readonly isSelinuxLabelIgnored?: true;
  readonly user: UserSpec;
  readonly namespaces: NamespaceModes;
  /** undefined: the defaults. */
  readonly cgroups?: CgroupAccess;
};

/** The value is a byte string, not necessarily UTF-8 (CRI env values are bytes). */
export type EnvVar = { readonly name: string; readonly value: Buffer };

export type ContainerSpec = {
  readonly metadata: ContainerMetadata;
  /** As in the request; returned in the status. */
  readonly image: {
    readonly requested: string;
    readonly userSpecified: string;
    readonly annotations: Readonly<Record<string, string>>;
    readonly runtimeHandler: string;
  };
  /** Replaces the image's ENTRYPOINT if not empty. */
  readonly command: readonly string[];
  /** Replaces the image's CMD if not empty. */
  readonly args: readonly string[];
  /** '': the image's, else `/`. */
  readonly workingDir: string;
  readonly env: readonly EnvVar[];
  readonly mounts: readonly Mount[];
  readonly devices: readonly Device[];
  /** Edits by CDI devices; separate, because the status shows only what was requested. */
  readonly edits?: DeviceEdits;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Absolute path; undefined: output is discarded. */
  readonly logPath?: string;
  readonly hasStdin: boolean;
  readonly closesStdinAfterFirstAttach: boolean;
  readonly hasTerminal: boolean;
  readonly resources: Resources;
  readonly security: SecuritySpec;
  /** Name as in signal(7), such as `SIGTERM` or `SIGRTMIN+3`; undefined: the image's, else SIGTERM. */
  readonly stopSignal?: string;
};

/**
 * Returns a container's mounts and then those of its CDI devices, which override others on the same path.
 *
 * @param ids of the pod's user namespace, applied to the devices' mounts: the kubelet only sets them on its own.
 */
export function allMounts({ mounts, edits }: ContainerSpec, ids?: IdMap): readonly Mount[] {
  return [...mounts, ...(edits?.mounts ?? []).map((mount) => (ids === undefined ? mount : { ...mount, ids }))];
}

/** Returns whether any hook runs before the container's program. */
export function hasStartHooks({ edits }: ContainerSpec): boolean {
  return edits?.hooks.some(({ point }) => point !== 'poststart' && point !== 'poststop') ?? false;
}

/** What the engine needs from an image; created by src/images, passed by src/cri. */
export type ImageConfig = {
  readonly id: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value` strings. */
  readonly env: readonly string[];
  readonly workingDir: string;
  /** `uid`, `uid:gid`, `name`, `name:group` or ''. */
  readonly user: string;
  readonly stopSignal: string;
  /** Absolute paths of declared volumes. */
  readonly volumes: readonly string[];
};

/** A container's rootfs: unpacked layer directories, topmost first, as absolute host paths. */
export type ImageRoot = { readonly config: ImageConfig; readonly layerDirs: readonly string[] };

/** The network as the engine uses it. Implemented by src/cni, passed in by src/serve.ts. */
export type Network = {
  /** Null if ready, else the reason, for the NetworkReady condition. */
  readonly notReadyReason: () => string | null;
  /**
   * Attaches the namespace to the networks (CNI ADD). A failed ADD is undone with DEL before this rejects.
   * The attachment is stored before the first plugin runs, so that remove() works after a crash at any point.
   */
  readonly add: (attachment: NetworkAttachment, signal: AbortSignal) => Promise<NetworkResult>;
  /** Detaches (CNI DEL), even if the namespace no longer exists. Succeeds if there is nothing to detach. */
  readonly remove: (sandboxId: string, signal: AbortSignal) => Promise<void>;
  /** Ids of sandboxes with a stored attachment. */
  readonly attachedSandboxIds: () => Promise<readonly string[]>;
};

export type NetworkAttachment = {
  readonly sandboxId: string;
  readonly metadata: SandboxMetadata;
  readonly netnsPath: string;
  readonly portMappings: readonly PortMapping[];
  readonly dns?: DnsConfig;
  readonly annotations: Readonly<Record<string, string>>;
  readonly cgroupParent: string;
};

export type NetworkResult = {
  /** Primary address first. Never empty. */
  readonly ips: readonly string[];
  /** The CNI result as JSON, for verbose status. */
  readonly cniResult: unknown;
};
