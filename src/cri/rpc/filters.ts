/**
 * Selects sandboxes and containers by the filter of a list request. All conditions must match; an absent condition matches everything. Pure.
 *
 * An id may be a prefix. An unknown id selects nothing and is not an error.
 */
import { type ContainerView, containerState, type SandboxView, sandboxState } from '../../engine/state/records.ts';
import type * as cri from '../wire/messages.ts';

export function selectSandboxes(views: readonly SandboxView[], filter: cri.PodSandboxFilter = {}): readonly SandboxView[] {
  const { id = '', label_selector: labels = {} } = filter;
  const state = filter.state && (filter.state.state ?? 'SANDBOX_READY');
  return views.filter(({ record, status }) => {
    const present = sandboxState(status);
    if (!record.id.startsWith(id)) return false;
    return (state === undefined || (state === 'SANDBOX_READY') === (present === 'ready')) && hasLabels(record.spec.labels, labels);
  });
}

export function selectContainers(views: readonly ContainerView[], filter: cri.ContainerFilter = {}): readonly ContainerView[] {
  const { id = '', pod_sandbox_id: sandboxId = '', label_selector: labels = {} } = filter;
  const state = filter.state && (filter.state.state ?? 'CONTAINER_CREATED');
  return views.filter(({ record, status }) => {
    const present = containerState(status);
    if (!record.id.startsWith(id) || !record.sandboxId.startsWith(sandboxId)) return false;
    return (state === undefined || state === `CONTAINER_${present.toUpperCase()}`) && hasLabels(record.spec.labels, labels);
  });
}

function hasLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>): boolean {
  for (const [name, value] of Object.entries(wanted)) if (labels[name] !== value) return false;
  return true;
}
