/**
 * The disk limit of a container, from annotations, because the CRI has no field for it.
 *
 * Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { parseQuantity } from '../../lib/quantity.ts';
import type { ContainerSpec, SandboxSpec } from '../state/spec.ts';

/** On a pod: for each of its containers. On a container it overrides the pod's annotations. */
const annotation = 'io.berth.disk-limit';
/** On a pod, followed by a container's name: for that container. */
const namedPrefix = 'disk-limit.io.berth/';

/** @throws {BerthError} INVALID_ARGUMENT for an invalid Kubernetes quantity, or one that is not above 0. */
export function diskLimit(
  pod: Pick<SandboxSpec, 'annotations'>,
  container: Pick<ContainerSpec, 'annotations' | 'metadata'>,
): { readonly diskLimitBytes?: number } {
  const named = `${namedPrefix}${container.metadata.name}`;
  const text = container.annotations[annotation] ?? pod.annotations[named] ?? pod.annotations[annotation];
  if (text === undefined) return {};
  const bytes = parseQuantity(text);
  if (bytes <= 0n || bytes > BigInt(Number.MAX_SAFE_INTEGER))
    throw invalidArgument(`disk limit annotation: ${text} is not a positive number of bytes`);
  return { diskLimitBytes: Number(bytes) };
}
