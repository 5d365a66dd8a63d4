/**
 * What the RPC handlers need from the rest of berth: the interfaces that main.ts fills. Types only.
 */
import type { Engine } from '../engine/engine.ts';
import type { ContainerView, SandboxView } from '../engine/state/records.ts';
import type { DeviceEdits, ImageRoot, Network } from '../engine/state/spec.ts';
import type { Transfer } from '../images/document/transfer.ts';
import type { StreamingServer } from '../streaming/server.ts';
import type { Container, Image, PodSandbox } from './wire/messages.ts';

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
    readonly onStart?: (progress: () => Transfer) => void;
  }) => Promise<{ readonly id: string }>;
  /** That are under way. */
  readonly pulls: () => readonly Transfer[];
  /** @throws {BerthError} for what is no archive of images for this node, or damaged. */
  readonly importArchive: (request: {
    readonly archive: AsyncIterable<Buffer>;
    readonly name: string | undefined;
    readonly signal: AbortSignal;
    readonly onStart: (progress: () => Transfer) => void;
  }) => Promise<readonly ImageView[]>;
  /** @throws {BerthError} NOT_FOUND, or FAILED_PRECONDITION for layers that cannot be put together again. */
  readonly exportArchive: (
    references: readonly string[],
    signal: AbortSignal,
  ) => { readonly totalBytes: number; readonly bytes: AsyncIterable<Buffer> };
  /** @throws {BerthError} INVALID_ARGUMENT for a reference that cannot be read. */
  readonly find: (reference: string) => ImageView | undefined;
  readonly list: () => readonly ImageView[];
  /** All names of the image go; containers that stand on its layers keep them. Idempotent. */
  readonly remove: (reference: string) => Promise<void>;
  readonly fsInfo: () => Promise<FilesystemUsage>;
  /** @param asked as the pod names the image. @throws {BerthError} FAILED_PRECONDITION `SignatureValidationFailed: …` for one that the node's policy does not let run. */
  readonly requireAllowed: (image: ImageView, asked: string) => void;
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
  /** By name, as the Container Device Interface has it. */
  readonly devices: {
    /** @throws {BerthError} INVALID_ARGUMENT for what is no name, FAILED_PRECONDITION for what this node does not have. */
    readonly resolve: (names: readonly string[]) => Promise<DeviceEdits>;
  };
  readonly items: ItemBytes;
  readonly streaming: Pick<StreamingServer, 'prepareExec' | 'prepareAttach' | 'preparePortForward'>;
  readonly settings: { readonly version: string; readonly rootDir: string; readonly stateDir: string };
  readonly nowNs: () => string;
};
