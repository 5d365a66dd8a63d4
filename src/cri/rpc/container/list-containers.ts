/**
 * ListContainers and StreamContainers: list the containers that match a filter, from memory.
 */
import type { CriDeps } from '../../deps.ts';
import { EncodedMessage, encodedChunks } from '../../to-response/encoded.ts';
import type { ListContainersRequest, StreamContainersRequest } from '../../wire/messages.ts';
import { selectContainers } from '../filters.ts';

type Deps = Pick<CriDeps, 'engine' | 'items'>;

export async function listContainers(deps: Deps, request: ListContainersRequest): Promise<EncodedMessage> {
  return new EncodedMessage(pieces(deps, request));
}

/** The items field has the same number in both responses, so the encoded items are the same. */
export function streamContainers(deps: Deps, request: StreamContainersRequest): Iterable<EncodedMessage> {
  return encodedChunks(pieces(deps, request));
}

function pieces({ engine, items }: Deps, { filter }: ListContainersRequest): Buffer[] {
  return selectContainers(engine.containers(), filter).map(items.containers);
}
