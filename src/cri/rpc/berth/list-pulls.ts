/**
 * Pulls: lists the pulls in progress. Pure.
 */
import type { CriDeps } from '../../deps.ts';
import { toTransferProgress } from '../../to-response/transfer-to-response.ts';
import type { PullsRequest, PullsResponse } from '../../wire/berth-messages.ts';

export async function listPulls({ images }: Pick<CriDeps, 'images'>, _request: PullsRequest): Promise<PullsResponse> {
  return { pulls: images.pulls().map(toTransferProgress) };
}
