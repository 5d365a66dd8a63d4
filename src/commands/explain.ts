/**
 * `berth explain`: asks the running daemon about a container.
 */
import { callRuntime } from '../cri/client.ts';
import { loadContract } from '../cri/contract.ts';
import type { ContainerStatusResponse } from '../cri/wire/messages.ts';
import { explanationOf } from './explanation.ts';

/** @param id of the container, or the beginning of it. @throws {BerthError} when nobody answers on the socket, or there is no such container. */
export async function explainContainer(socket: string, id: string): Promise<string> {
  return explanationOf(await callRuntime<ContainerStatusResponse>(loadContract(), socket, 'ContainerStatus', { container_id: id, verbose: true }));
}
