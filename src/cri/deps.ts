/**
 * The dependencies of the RPC handlers, built in serve.ts. Types only.
 */
import type { Engine } from '../engine/engine.ts';
import type { ContainerView, SandboxView } from '../engine/state/records.ts';
import type { DeviceEdits, ImageRoot, Network } from '../engine/state/spec.ts';
import type { Transfer } from '../images/document/transfer.ts';
import type { StreamingServer } from '../streaming/server.ts';
import type { Container, Image, PodSandbox } from './wire/messages.ts';

/** An image on this node. */
export type ImageView = {
  /** `sha256:…`, the digest of the config. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly sizeBytes: number;
  /** The config's User, unchanged. */
  readonly user: string;
  readonly isPinned: boolean;
};

/** An image that a container may use, with its config and layers. */
export type UsableImage = ImageRoot & { readonly image: ImageView; readonly diffIds: readonly string[] };

/** Credentials from the CRI; '' if absent. Must not be logged. */
export type PullAuth = {
  readonly username: string;
  readonly password: string;
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
};

export type FilesystemUsage = { readonly mountpoint: string; readonly usedBytes: number; readonly inodesUsed: number };

/** The image store. References may be names, digests, ids or unambiguous id prefixes. */
export type Images = {
  readonly pull: (request: {
    readonly reference: string;
    readonly auth?: PullAuth;
    readonly signal: AbortSignal;
    readonly onStart?: (progress: () => Transfer) => void;
  }) => Promise<{ readonly id: string }>;
  /** The pulls in progress. */
  readonly pulls: () => readonly Transfer[];
  /** @throws {BerthError} for a corrupt archive, or one without images for this node. */
  readonly importArchive: (request: {
    readonly archive: AsyncIterable<Buffer>;
    readonly name: string | undefined;
    readonly signal: AbortSignal;
    readonly onStart: (progress: () => Transfer) => void;
  }) => Promise<readonly ImageView[]>;
  /** @throws {BerthError} NOT_FOUND, or FAILED_PRECONDITION for layers that cannot be reassembled. */
  readonly exportArchive: (
    references: readonly string[],
    signal: AbortSignal,
  ) => { readonly totalBytes: number; readonly bytes: AsyncIterable<Buffer> };
  /** @throws {BerthError} INVALID_ARGUMENT for an invalid reference. */
  readonly find: (reference: string) => ImageView | undefined;
  readonly list: () => readonly ImageView[];
  /** Removes all names of the image; containers keep the layers they use. Idempotent. */
  readonly remove: (reference: string) => Promise<void>;
  readonly fsInfo: () => Promise<FilesystemUsage>;
  /**
   * Finds an image and its layers for a container, after a check of the node's signature policy.
   *
   * @param name the image as named by the pod, which the policy is applied to.
   * @throws {BerthError} INVALID_ARGUMENT for an invalid reference, FAILED_PRECONDITION `SignatureValidationFailed: …` if the policy rejects the image.
   */
  readonly findUsable: (reference: string, name: string) => UsableImage | undefined;
  /** Details for a verbose status, such as the config. Must be serializable as JSON. */
  readonly explain: (image: ImageView) => Promise<unknown>;
};

/** Encoded list items, cached between calls because the kubelet lists continuously. */
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
  /** Devices of the Container Device Interface (CDI). */
  readonly devices: {
    /** @param names fully qualified device names. @throws {BerthError} INVALID_ARGUMENT for an invalid name, FAILED_PRECONDITION for an unknown device. */
    readonly resolve: (names: readonly string[]) => Promise<DeviceEdits>;
  };
  readonly items: ItemBytes;
  readonly streaming: Pick<StreamingServer, 'prepareExec' | 'prepareAttach' | 'preparePortForward'>;
  readonly settings: { readonly version: string; readonly rootDir: string; readonly stateDir: string };
  readonly nowNs: () => string;
};
