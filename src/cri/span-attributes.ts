/**
 * The span attributes of a call: ids and names by OpenTelemetry's conventions, from its messages and the records they refer to. Pure.
 *
 * Nothing else of a message is used, because it may contain secrets.
 */
import type { Engine } from '../engine/engine.ts';
import type { Attributes } from '../lib/spans.ts';
import { withoutUserinfo } from '../lib/userinfo.ts';
import type { ContainerMetadata, PodSandboxMetadata } from './wire/messages.ts';

/** The fields of all messages that identify an object. */
type Naming = {
  readonly container_id?: unknown;
  readonly pod_sandbox_id?: unknown;
  readonly image?: { readonly image?: unknown } | null;
  readonly image_ref?: unknown;
  readonly config?: { readonly metadata?: unknown; readonly image?: { readonly image?: unknown } | null } | null;
  readonly sandbox_config?: { readonly metadata?: unknown } | null;
};

/** Returns the attributes of a call. @param response undefined for a failed call. */
export function spanAttributes(engine: Pick<Engine, 'container' | 'sandbox'>, request: unknown, response: unknown): Attributes {
  const requested = (request ?? {}) as Naming;
  const answer = (response ?? {}) as Naming;
  const containerId = textOf(requested.container_id) ?? textOf(answer.container_id);
  const container = containerId === undefined ? undefined : found(() => engine.container(containerId).record);
  const sandboxId = textOf(requested.pod_sandbox_id) ?? textOf(answer.pod_sandbox_id) ?? container?.sandboxId;
  const sandbox = sandboxId === undefined ? undefined : found(() => engine.sandbox(sandboxId).record);
  const isContainer = requested.sandbox_config != null && requested.config != null;
  return present({
    ...podAttributes(
      sandbox?.spec.metadata ??
        metadataOf<PodSandboxMetadata>(isContainer ? requested.sandbox_config : (requested.sandbox_config ?? requested.config)),
    ),
    ...containerAttributes(container?.spec.metadata ?? (isContainer ? metadataOf<ContainerMetadata>(requested.config) : undefined)),
    'cri.sandbox.id': sandbox?.id ?? sandboxId,
    'container.id': container?.id ?? containerId,
    'container.image.name': textOf(requested.image?.image) ?? textOf(requested.config?.image?.image) ?? container?.image.name,
    'container.image.id': textOf(answer.image_ref) ?? container?.image.id,
  });
}

type Given = Readonly<Record<string, string | number | undefined>>;

function podAttributes(metadata: Partial<PodSandboxMetadata> | undefined): Given {
  return { 'k8s.pod.name': metadata?.name, 'k8s.pod.uid': metadata?.uid, 'k8s.namespace.name': metadata?.namespace };
}

function containerAttributes(metadata: Partial<ContainerMetadata> | undefined): Given {
  return { 'k8s.container.name': metadata?.name, 'k8s.container.restart_count': metadata?.attempt };
}

const metadataOf = <T>(config: { readonly metadata?: unknown } | null | undefined): Partial<T> | undefined =>
  (config?.metadata as Partial<T> | null | undefined) ?? undefined;

const textOf = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? withoutUserinfo(value) : undefined);

/** Returns undefined if the object does not exist. */
function found<T>(find: () => T): T | undefined {
  try {
    return find();
  } catch {
    return undefined;
  }
}

function present(given: Given): Attributes {
  return Object.fromEntries(Object.entries(given).filter((entry): entry is [string, string | number] => entry[1] !== undefined && entry[1] !== ''));
}
