/**
 * What the RPC handlers need from the rest of berth: the interfaces that main.ts fills. Types only.
 */
import type { ContainerView, SandboxView } from '../engine/records.ts';
import type { ContainerSpec, ImageRoot, Network, Resources, SandboxSpec } from '../engine/spec.ts';
import type { Log } from '../lib/log.ts';
import type { Container, Image, PodSandbox } from './messages.ts';

/** An image's root and the names under which a container made from it is shown. */
export type ContainerImage = ImageRoot & {
  /** `sha256:…`, as PullImage gave it. */
  readonly id: string;
  /** A repository digest when there is one, else the id. */
  readonly ref: string;
  /** The first tag when there is one, else what was requested. */
  readonly name: string;
  /** Topmost first, one for each of `layerDirs`. */
  readonly diffIds: readonly string[];
};

/** At most so much is kept of each stream; the rest is read and dropped. */
export type ExecResult = { readonly stdout: Buffer; readonly stderr: Buffer; readonly exitCode: number };

/**
 * Sandboxes and containers. Ids may be unambiguous prefixes wherever one is taken.
 *
 * Errors are BerthErrors: NOT_FOUND for an unknown id (never from stop and remove, which then succeed), FAILED_PRECONDITION for a wrong state.
 */
export type Engine = {
  /** The new id; that of the same sandbox when an abandoned call made it. */
  readonly runSandbox: (spec: SandboxSpec, signal: AbortSignal) => Promise<string>;
  readonly stopSandbox: (id: string) => Promise<void>;
  readonly removeSandbox: (id: string) => Promise<void>;
  /** From memory; the same objects until something changes, so that what was made of them can be kept. */
  readonly sandboxes: () => readonly SandboxView[];
  readonly sandbox: (idOrPrefix: string) => SandboxView;
  readonly createContainer: (sandboxId: string, spec: ContainerSpec, image: ContainerImage, signal: AbortSignal) => Promise<string>;
  readonly startContainer: (id: string) => Promise<void>;
  /** @param timeoutMs between the stop signal and the kill; 0: kill at once. */
  readonly stopContainer: (id: string, timeoutMs: number) => Promise<void>;
  readonly removeContainer: (id: string) => Promise<void>;
  readonly containers: () => readonly ContainerView[];
  readonly container: (idOrPrefix: string) => ContainerView;
  /** @param timeoutMs 0: none. @throws {BerthError} DEADLINE_EXCEEDED when it has passed; the processes are dead then. */
  readonly execSync: (id: string, argv: readonly string[], timeoutMs: number, signal: AbortSignal) => Promise<ExecResult>;
  readonly reopenLog: (id: string) => Promise<void>;
  /** Fields that are undefined stay as they are. */
  readonly updateResources: (id: string, resources: Resources) => Promise<void>;
  readonly facts: () => EngineFacts;
  /** What people may want to know of a sandbox or a container; becomes JSON. No secrets, no environment values. */
  readonly explain: (id: string) => unknown;
};

export type EngineFacts = {
  /** Null when sandboxes can run, else what is missing and what to do. */
  readonly notReadyReason: string | null;
  readonly canMountRecursivelyReadonly: boolean;
  readonly hasAppArmor: boolean;
  readonly hasSelinux: boolean;
};

/** An image on this node. */
export type ImageView = {
  /** `sha256:…`: digest of the config. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly sizeBytes: number;
  /** The config's User as it stands there. */
  readonly user: string;
  readonly isPinned: boolean;
};

/** Credentials as the CRI hands them over; '' for what is not given. Never logged. */
export type PullAuth = {
  readonly username: string;
  readonly password: string;
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
};

export type FilesystemUsage = { readonly mountpoint: string; readonly usedBytes: number; readonly inodesUsed: number };

/** Images. References may be names, digests, ids or unambiguous prefixes of ids. */
export type Images = {
  readonly pull: (request: {
    readonly reference: string;
    readonly auth?: PullAuth;
    readonly signal: AbortSignal;
  }) => Promise<{ readonly id: string }>;
  /** @throws {BerthError} INVALID_ARGUMENT for a reference that cannot be read. */
  readonly find: (reference: string) => ImageView | undefined;
  readonly list: () => readonly ImageView[];
  /** All names of the image go; containers that stand on its layers keep them. Idempotent. */
  readonly remove: (reference: string) => Promise<void>;
  readonly fsInfo: () => Promise<FilesystemUsage>;
  readonly rootOf: (image: ImageView) => Promise<ImageRoot & { readonly diffIds: readonly string[] }>;
  /** The config and what else people may want to know; becomes JSON. */
  readonly explain: (image: ImageView) => Promise<unknown>;
};

/** Items of the lists that the kubelet asks for all the time, as bytes kept from one call to the next. */
export type ItemBytes = {
  readonly sandboxes: (view: SandboxView) => Buffer;
  readonly containers: (view: ContainerView) => Buffer;
  readonly images: (view: ImageView) => Buffer;
};

/** Encodes a list message that holds one item. */
export type ItemEncoders = {
  readonly sandbox: (item: PodSandbox) => Buffer;
  readonly container: (item: Container) => Buffer;
  readonly image: (item: Image) => Buffer;
};

export type CriDeps = {
  readonly engine: Engine;
  readonly images: Images;
  readonly network: Pick<Network, 'notReadyReason'>;
  readonly items: ItemBytes;
  readonly settings: { readonly version: string; readonly rootDir: string; readonly stateDir: string };
  readonly nowNs: () => string;
  readonly log: Log;
};
