/**
 * `berth explain`: gets the verbose status of a container from the daemon.
 */
import { callRuntime } from '../cri/client.ts';
import { loadContract } from '../cri/contract.ts';
import type { ContainerStatusResponse } from '../cri/wire/messages.ts';
import { explanationOf } from './explanation.ts';

/** @param id id of the container or a unique prefix. @throws {BerthError} if no daemon answers on the socket, or the container does not exist. */
export async function explainContainer(socket: string, id: string): Promise<string> {
  return explanationOf(await callRuntime<ContainerStatusResponse>(loadContract(), socket, 'ContainerStatus', { container_id: id, verbose: true }));
}
