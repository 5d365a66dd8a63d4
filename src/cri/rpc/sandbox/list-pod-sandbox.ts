/**
 * ListPodSandbox and StreamPodSandboxes: list the sandboxes that match a filter, from memory.
 */
import type { CriDeps } from '../../deps.ts';
import { EncodedMessage, encodedChunks } from '../../to-response/encoded.ts';
import type { ListPodSandboxRequest, StreamPodSandboxesRequest } from '../../wire/messages.ts';
import { selectSandboxes } from '../filters.ts';

type Deps = Pick<CriDeps, 'engine' | 'items'>;

export async function listPodSandbox(deps: Deps, request: ListPodSandboxRequest): Promise<EncodedMessage> {
  return new EncodedMessage(pieces(deps, request));
}

/** The items field has the same number in both responses, so the encoded items are the same. */
export function streamPodSandboxes(deps: Deps, request: StreamPodSandboxesRequest): Iterable<EncodedMessage> {
  return encodedChunks(pieces(deps, request));
}

function pieces({ engine, items }: Deps, { filter }: ListPodSandboxRequest): Buffer[] {
  return selectSandboxes(engine.sandboxes(), filter).map(items.sandboxes);
}
