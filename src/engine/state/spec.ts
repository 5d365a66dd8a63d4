/**
 * What a sandbox and a container are asked to be, free of the protocol's shapes. Pure types, plus the merge with the image's config.
 *
 * 0, '' and [] never mean "unset" here: what may be absent is `undefined` or a union says so.
 */

/** `pod`: shared within the sandbox; `container`: its own; `node`: the host's; `target`: that of another container. */
export type PidMode = 'pod' | 'container' | 'node' | 'target';

/** Ids from 0 up to `length` - 1 inside are those from `hostId` on outside. */
export type IdRange = { readonly hostId: number; readonly length: number };

/** The ids of a user namespace: user_namespaces(7). */
export type IdMap = { readonly uids: IdRange; readonly gids: IdRange };

export type NamespaceModes = {
  readonly network: 'pod' | 'node';
  readonly ipc: 'pod' | 'node';
  readonly pid: PidMode;
  /** Id of the container whose pid namespace is joined; only with pid `target`. */
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
  /** Absolute path, or '' when the sandbox's containers keep no logs. */
  readonly logDirectory: string;
  /** `undefined`: copy the host's resolv.conf. */
  readonly dns?: DnsConfig;
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** As the kubelet sends it; '' puts the sandbox's containers under the configured default parent. */
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
  /** As the request named it. */
  readonly requested: string;
  /** Of a directory in it; '': all of it. */
  readonly subPath: string;
  /** The image as it was found on the node; layers topmost first. */
  readonly found?: { readonly id: string; readonly ref: string; readonly layerDirs: readonly string[]; readonly diffIds: readonly string[] };
};

export type Mount = {
  readonly containerPath: string;
  /** Instead of a path on the host, which is '' then. Always read-only. */
  readonly image?: ImageVolume;
  /** Ids that the volume is shown with: the pod's own. undefined: those that the files have. */
  readonly ids?: IdMap;
  /** Absolute path on the host; created as a directory when it does not exist. */
  readonly hostPath: string;
  readonly isReadonly: boolean;
  readonly isRecursiveReadonly: boolean;
  readonly propagation: Propagation;
  readonly wantsSelinuxRelabel: boolean;
  /** Extra attributes of the bind. */
  readonly options: readonly ('noexec' | 'nodev' | 'nosuid')[];
  /** Without what is mounted below the source. */
  readonly isShallow?: boolean;
  /** A missing source is an error, and not made. */
  readonly mustExist?: boolean;
};

export type Device = {
  readonly containerPath: string;
  readonly hostPath: string;
  /** A subset of `rwm`. */
  readonly permissions: string;
};

/** A device node that a vendor's file describes. What is undefined is that of the node at `hostPath`. */
export type EditedNode = {
  readonly path: string;
  readonly hostPath: string;
  readonly type?: 'char' | 'block' | 'fifo';
  readonly major?: number;
  readonly minor?: number;
  /** Permission bits. */
  readonly mode?: number;
  /** undefined: those of the container's user. */
  readonly uid?: number;
  readonly gid?: number;
  /** A subset of `rwm`; '': the container's cgroup is told nothing of it. */
  readonly permissions: string;
};

/** When a vendor's program runs, in the words of the OCI runtime specification. `startContainer` is none: it would be a program of the image. */
export type HookPoint = 'prestart' | 'createRuntime' | 'createContainer' | 'poststart' | 'poststop';

/** A program of the host's that a vendor's file names. */
export type Hook = {
  readonly point: HookPoint;
  /** Absolute, on the host. */
  readonly path: string;
  /** With the name it is called by first. Never empty. */
  readonly argv: readonly string[];
  /** `NAME=value`; nothing else is in its environment. */
  readonly env: readonly string[];
  readonly timeoutMs: number;
};

/** What the devices that a container asked for by name change about it, in the order in which it is to be done. */
export type DeviceEdits = {
  /** Of the devices, qualified. */
  readonly names: readonly string[];
  readonly env: readonly EnvVar[];
  readonly nodes: readonly EditedNode[];
  /** Later ones win over others in the same place, those of the request among them. */
  readonly mounts: readonly Mount[];
  readonly gids: readonly number[];
  readonly hooks: readonly Hook[];
};

/** Each field `undefined`: leave the kernel's or the present value as it is. Names follow the CRI's LinuxContainerResources. */
export type Resources = {
  readonly cpuPeriodUs?: number;
  /** -1: unlimited. */
  readonly cpuQuotaUs?: number;
  readonly cpuShares?: number;
  /** -1: unlimited. */
  readonly memoryLimitBytes?: number;
  /** Memory plus swap, as the OCI has it. -1: unlimited. */
  readonly memorySwapLimitBytes?: number;
  readonly oomScoreAdj?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  /** Page size as the kernel names it in files (`2MB`, `1GB`). */
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limitBytes: number }[];
  /** cgroup v2: file name -> value. */
  readonly unified?: Readonly<Record<string, string>>;
};

export type SeccompProfile =
  | { readonly kind: 'unconfined' }
  | { readonly kind: 'runtime-default' }
  | { readonly kind: 'localhost'; readonly path: string };

/** Who the process is. A name and a number are never both given. */
export type UserSpec = {
  readonly uid?: number;
  readonly gid?: number;
  readonly username?: string;
  readonly supplementalGroups: readonly number[];
  readonly groupsPolicy: 'merge' | 'strict';
};

export type SecuritySpec = {
  readonly isPrivileged: boolean;
  /** Capability names without `CAP_`, upper case; `ALL` possible. */
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities: readonly string[];
  readonly hasReadonlyRootfs: boolean;
  readonly noNewPrivs: boolean;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly seccomp: SeccompProfile;
  /** Name of a profile; undefined: none, as on every node without AppArmor. */
  readonly appArmorProfile?: string;
  readonly user: UserSpec;
  readonly namespaces: NamespaceModes;
};

/** A string of bytes that need not be UTF-8 (CRI env values are bytes). */
export type EnvVar = { readonly name: string; readonly value: Buffer };

export type ContainerSpec = {
  readonly metadata: ContainerMetadata;
  /** As the request named it; shown back in the status. */
  readonly image: {
    readonly requested: string;
    readonly userSpecified: string;
    readonly annotations: Readonly<Record<string, string>>;
    readonly runtimeHandler: string;
  };
  /** Replaces the image's ENTRYPOINT when not empty. */
  readonly command: readonly string[];
  /** Replaces the image's CMD when not empty. */
  readonly args: readonly string[];
  /** '' : the image's, else `/`. */
  readonly workingDir: string;
  readonly env: readonly EnvVar[];
  readonly mounts: readonly Mount[];
  readonly devices: readonly Device[];
  /** Of devices asked for by name; beside the rest, for the status shows what was requested. */
  readonly edits?: DeviceEdits;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Absolute path, or undefined when output is discarded. */
  readonly logPath?: string;
  readonly hasStdin: boolean;
  readonly closesStdinAfterFirstAttach: boolean;
  readonly hasTerminal: boolean;
  readonly resources: Resources;
  readonly security: SecuritySpec;
  /** Name as in signal(7), e.g. `SIGTERM`, `SIGRTMIN+3`; undefined: the image's, else SIGTERM. */
  readonly stopSignal?: string;
};

/**
 * A container's mounts with those of its devices, which win over others in the same place.
 *
 * @param ids of the pod's user namespace: the kubelet gives them to its own mounts only.
 */
export function allMounts({ mounts, edits }: ContainerSpec, ids?: IdMap): readonly Mount[] {
  return [...mounts, ...(edits?.mounts ?? []).map((mount) => (ids === undefined ? mount : { ...mount, ids }))];
}

/** Whether hooks run before the container's program does. */
export function hasStartHooks({ edits }: ContainerSpec): boolean {
  return edits?.hooks.some(({ point }) => point !== 'poststart' && point !== 'poststop') ?? false;
}

/** What the engine needs to know of an image; made by src/images, passed by src/cri. */
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

/** A container's root: unpacked layer directories, topmost first, absolute host paths. */
export type ImageRoot = { readonly config: ImageConfig; readonly layerDirs: readonly string[] };

/** How the engine asks for a sandbox's network; src/cni makes one, src/main.ts passes it in. */
export type Network = {
  /** Null when ready; else why not, for the NetworkReady condition. */
  readonly notReadyReason: () => string | null;
  /**
   * Attaches the namespace to the networks (CNI ADD); a failed ADD has been undone with DEL when this rejects.
   * The attachment is on disk before the first plugin runs, so that remove() works after a crash at any point.
   */
  readonly add: (attachment: NetworkAttachment, signal: AbortSignal) => Promise<NetworkResult>;
  /** Detaches (CNI DEL), also when the namespace is gone; succeeds when there is nothing to detach. */
  readonly remove: (sandboxId: string, signal: AbortSignal) => Promise<void>;
  /** Ids of sandboxes that still have an attachment on disk. */
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
  /** The CNI result as JSON, for people. */
  readonly cniResult: unknown;
};
