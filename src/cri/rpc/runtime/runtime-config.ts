/**
 * RuntimeConfig and UpdateRuntimeConfig: what the kubelet and the runtime tell each other at start.
 */
import type { CriDeps } from '../../deps.ts';
import type { RuntimeConfigResponse, UpdateRuntimeConfigResponse } from '../../wire/messages.ts';

/** Said in so many words: the zero value of the field means systemd. */
export async function runtimeConfig({ engine }: Pick<CriDeps, 'engine'>): Promise<RuntimeConfigResponse> {
  return { linux: { cgroup_driver: engine.facts().cgroupDriver === 'systemd' ? 'SYSTEMD' : 'CGROUPFS' } };
}

/** The pod CIDR is the network plugins' business, which read their own configuration. */
export async function updateRuntimeConfig(): Promise<UpdateRuntimeConfigResponse> {
  return {};
}
