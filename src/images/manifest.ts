/**
 * Checks what a registry says an image is: indexes, manifests and image configs, OCI and Docker.
 *
 * Every byte here was chosen by a stranger. Pure: never fetches, and never returns a field that it has not checked.
 */

export type Platform = { readonly os: string; readonly architecture: string; readonly variant?: string };

export type Descriptor = {
  readonly mediaType: string;
  /** `sha256:…` or `sha512:…`, checked in form. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** Only in an index. */
  readonly platform?: Platform;
};

export type ParsedManifest =
  | { readonly kind: 'index'; readonly manifests: readonly Descriptor[] }
  | { readonly kind: 'manifest'; readonly config: Descriptor; readonly layers: readonly Descriptor[] };

/** What an image asks of its containers. '' and empty lists mean that the image does not say. */
export type ImageConfigBlob = {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly string[];
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
  /** RFC 3339, '' when the image does not say. */
  readonly created: string;
};

/**
 * @param mediaType as the registry sent it; what the body says must agree.
 * @throws {BerthError} FAILED_PRECONDITION when the bytes are not a manifest or index that this node can use.
 */
export function parseManifest(bytes: Buffer, mediaType: string): ParsedManifest {
  void bytes;
  throw new Error(`not written yet: ${mediaType}`);
}

/** @throws {BerthError} NOT_FOUND when the index holds nothing for the platform. */
export function selectPlatform(manifests: readonly Descriptor[], platform: Platform): Descriptor {
  throw new Error(`not written yet: ${manifests.length} ${platform.os}`);
}

/** @throws {BerthError} FAILED_PRECONDITION when the bytes are not the config of an image. */
export function parseImageConfig(bytes: Buffer): ImageConfigBlob {
  throw new Error(`not written yet: ${bytes.length}`);
}

/** @throws {BerthError} FAILED_PRECONDITION when manifest and config differ in the number of layers. */
export function checkLayerCount(layers: readonly Descriptor[], config: ImageConfigBlob): void {
  throw new Error(`not written yet: ${layers.length} ${config.os}`);
}
