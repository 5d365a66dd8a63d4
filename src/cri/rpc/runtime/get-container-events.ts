/**
 * GetContainerEvents: streams the lifecycle events of sandboxes and containers from now on. Events are not repeated; a caller that missed some must list.
 */
import type { EventKind, LifeEvent } from '../../../engine/state/events.ts';
import type { CriDeps } from '../../deps.ts';
import { containerStatus, podSandboxStatus } from '../../to-response/to-response.ts';
import type { ContainerEventResponse, ContainerEventType, GetEventsRequest } from '../../wire/messages.ts';

/** Ends when the caller disconnects. @throws {BerthError} RESOURCE_EXHAUSTED for a caller that is too slow, or too many callers. */
export async function* getContainerEvents(
  { engine }: Pick<CriDeps, 'engine'>,
  _request: GetEventsRequest,
  signal: AbortSignal,
): AsyncGenerator<ContainerEventResponse> {
  for await (const event of engine.events(signal)) yield toMessage(event);
}

const types: Readonly<Record<EventKind, ContainerEventType>> = {
  created: 'CONTAINER_CREATED_EVENT',
  started: 'CONTAINER_STARTED_EVENT',
  stopped: 'CONTAINER_STOPPED_EVENT',
  deleted: 'CONTAINER_DELETED_EVENT',
};

function toMessage({ kind, id, atNs, sandbox, containers }: LifeEvent): ContainerEventResponse {
  return {
    container_id: id,
    container_event_type: types[kind],
    created_at: atNs,
    pod_sandbox_status: sandbox && podSandboxStatus(sandbox),
    containers_statuses: containers.map(containerStatus),
  };
}
