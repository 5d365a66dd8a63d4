/**
 * How much of the disk a container may take: annotations of its pod, for the CRI has no field for it.
 *
 * Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { parseQuantity } from '../../lib/quantity.ts';
import type { ContainerSpec, SandboxSpec } from '../state/spec.ts';

/** Of all containers of the pod, each for itself; on a container it counts before those of the pod. */
const annotation = 'io.berth.disk-limit';
/** With the name of a container behind it: of that one. */
const namedPrefix = 'disk-limit.io.berth/';

/** @throws {BerthError} INVALID_ARGUMENT for what is no quantity of Kubernetes, or none above 0. */
export function diskLimit(
  pod: Pick<SandboxSpec, 'annotations'>,
  container: Pick<ContainerSpec, 'annotations' | 'metadata'>,
): { readonly diskLimitBytes?: number } {
  const named = `${namedPrefix}${container.metadata.name}`;
  const text = container.annotations[annotation] ?? pod.annotations[named] ?? pod.annotations[annotation];
  if (text === undefined) return {};
  const bytes = parseQuantity(text);
  if (bytes <= 0n || bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw invalidArgument(`annotation for a disk limit: ${text} is no size in bytes`);
  return { diskLimitBytes: Number(bytes) };
}
