/**
 * Pulls: those that are under way.
 */
import type { CriDeps } from '../../deps.ts';
import { toTransferMessage } from '../../to-response/transfer-to-response.ts';
import type { PullsRequest, PullsResponse } from '../../wire/node-messages.ts';

export async function listPulls({ images }: Pick<CriDeps, 'images'>, _request: PullsRequest): Promise<PullsResponse> {
  return { pulls: images.pulls().map(toTransferMessage) };
}
