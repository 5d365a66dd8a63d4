/**
 * Pulls: those that are under way.
 */
import type { CriDeps } from './deps.ts';
import type { PullsRequest, PullsResponse } from './node-messages.ts';
import { toTransferMessage } from './transfer-to-response.ts';

export async function listPulls({ images }: Pick<CriDeps, 'images'>, _request: PullsRequest): Promise<PullsResponse> {
  return { pulls: images.pulls().map(toTransferMessage) };
}
