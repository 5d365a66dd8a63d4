/**
 * What a call is about, for its span: ids and names by OpenTelemetry's conventions, out of its messages and of the records they name. Pure.
 *
 * Never more of a message than that, for there may be secrets in the rest.
 */
import type { Engine } from '../engine/engine.ts';
import type { Attributes } from '../lib/spans.ts';
import type { ContainerMetadata, PodSandboxMetadata } from './wire/messages.ts';

/** The fields of all messages that name something. */
type Naming = {
  readonly container_id?: unknown;
  readonly pod_sandbox_id?: unknown;
  readonly image?: { readonly image?: unknown } | null;
  readonly image_ref?: unknown;
  readonly config?: { readonly metadata?: unknown; readonly image?: { readonly image?: unknown } | null } | null;
  readonly sandbox_config?: { readonly metadata?: unknown } | null;
};

/** @param response undefined for a call that failed. */
export function spanAttributes(engine: Pick<Engine, 'container' | 'sandbox'>, request: unknown, response: unknown): Attributes {
  const asked = (request ?? {}) as Naming;
  const answered = (response ?? {}) as Naming;
  const containerId = textOf(asked.container_id) ?? textOf(answered.container_id);
  const container = containerId === undefined ? undefined : found(() => engine.container(containerId).record);
  const sandboxId = textOf(asked.pod_sandbox_id) ?? textOf(answered.pod_sandbox_id) ?? container?.sandboxId;
  const sandbox = sandboxId === undefined ? undefined : found(() => engine.sandbox(sandboxId).record);
  const isContainer = asked.sandbox_config != null && asked.config != null;
  return present({
    ...podAttributes(
      sandbox?.spec.metadata ?? metadataOf<PodSandboxMetadata>(isContainer ? asked.sandbox_config : (asked.sandbox_config ?? asked.config)),
    ),
    ...containerAttributes(container?.spec.metadata ?? (isContainer ? metadataOf<ContainerMetadata>(asked.config) : undefined)),
    'cri.sandbox.id': sandbox?.id ?? sandboxId,
    'container.id': container?.id ?? containerId,
    'container.image.name': textOf(asked.image?.image) ?? textOf(asked.config?.image?.image) ?? container?.image.name,
    'container.image.id': textOf(answered.image_ref) ?? container?.image.id,
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

const textOf = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined);

/** What a call is about may be gone, or never have been there. */
function found<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

function present(given: Given): Attributes {
  return Object.fromEntries(Object.entries(given).filter((entry): entry is [string, string | number] => entry[1] !== undefined && entry[1] !== ''));
}
