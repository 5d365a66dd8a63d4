/**
 * Records the progress of a pull or import: its layers, bytes, host and retries. Pure. Everything that shows progress reads it here.
 */

export type LayerTransfer = {
  readonly digest: string;
  readonly doneBytes: number;
  /** The compressed size in the manifest. */
  readonly totalBytes: number;
  /** `waiting`: for a worker, or for another pull that fetches the layer. */
  readonly state: 'waiting' | 'fetching' | 'done';
};

export type Transfer = {
  readonly image: string;
  /** Milliseconds since the epoch. */
  readonly startedAtMs: number;
  readonly state: 'resolving' | 'fetching' | 'publishing';
  /** The layers that were missing at the start, in the image's order. */
  readonly layers: readonly LayerTransfer[];
  /** Received bytes of layers; a layer that was downloaded again counts twice. */
  readonly receivedBytes: number;
  /** The host that answered last; undefined before the first answer. */
  readonly host: string | undefined;
  /** Requests repeated at the same or at another host, and broken connections. */
  readonly retries: number;
};

export type TransferAccount = {
  readonly plan: (layers: readonly { readonly digest: string; readonly sizeBytes: number }[]) => void;
  readonly received: (digest: string, bytes: number) => void;
  readonly done: (digest: string) => void;
  readonly publishing: () => void;
  readonly answered: (host: string) => void;
  readonly retried: () => void;
  readonly now: () => Transfer;
};

export function openTransfer(image: string, startedAtMs: number): TransferAccount {
  const layers = new Map<string, { readonly totalBytes: number; doneBytes: number; isDone: boolean }>();
  let state: Transfer['state'] = 'resolving';
  let receivedBytes = 0;
  let retries = 0;
  let host: string | undefined;

  const now = (): Transfer => ({
    image,
    startedAtMs,
    state,
    layers: [...layers].map(([digest, layer]) => ({
      digest,
      // A layer that is re-fetched because a mirror sent wrong bytes must not exceed 100 %.
      doneBytes: layer.isDone ? layer.totalBytes : Math.min(layer.doneBytes, layer.totalBytes),
      totalBytes: layer.totalBytes,
      state: layer.isDone ? 'done' : layer.doneBytes > 0 ? 'fetching' : 'waiting',
    })),
    receivedBytes,
    host,
    retries,
  });

  return {
    plan: (planned) => {
      state = 'fetching';
      for (const { digest, sizeBytes } of planned) layers.set(digest, { totalBytes: sizeBytes, doneBytes: 0, isDone: false });
    },
    received: (digest, bytes) => {
      receivedBytes += bytes;
      const layer = layers.get(digest);
      if (layer !== undefined) layer.doneBytes += bytes;
    },
    done: (digest) => {
      const layer = layers.get(digest);
      if (layer !== undefined) layer.isDone = true;
    },
    publishing: () => {
      state = 'publishing';
    },
    answered: (name) => {
      host = name;
    },
    retried: () => {
      retries += 1;
    },
    now,
  };
}
