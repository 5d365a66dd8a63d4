/**
 * Counts sandboxes and containers by state. Pure.
 */
import { type ContainerState, type ContainerView, containerState, type SandboxState, type SandboxView, sandboxState } from '../state/records.ts';

export function countSandboxes(views: readonly SandboxView[]): Readonly<Record<SandboxState, number>> {
  const counts = { creating: 0, ready: 0, 'not-ready': 0 };
  for (const { status } of views) counts[sandboxState(status)] += 1;
  return counts;
}

export function countContainers(views: readonly ContainerView[]): Readonly<Record<ContainerState, number>> {
  const counts = { creating: 0, created: 0, running: 0, exited: 0, unknown: 0 };
  for (const { status } of views) counts[containerState(status)] += 1;
  return counts;
}
