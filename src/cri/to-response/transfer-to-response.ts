/**
 * Converts the progress of a pull or an import to a message. Pure.
 */
import type { Transfer } from '../../images/document/transfer.ts';
import type { TransferProgress } from '../wire/berth-messages.ts';

export function toTransferProgress(transfer: Transfer): TransferProgress {
  const { image, startedAtMs, state, layers, receivedBytes, host, retries } = transfer;
  return {
    image,
    started_at_ms: String(startedAtMs),
    state,
    layers: layers.map(({ digest, doneBytes, totalBytes, state: layerState }) => ({
      digest,
      done_bytes: String(doneBytes),
      total_bytes: String(totalBytes),
      state: layerState,
    })),
    received_bytes: String(receivedBytes),
    ...(host === undefined ? {} : { host }),
    retries,
  };
}
