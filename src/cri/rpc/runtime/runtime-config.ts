/**
 * RuntimeConfig and UpdateRuntimeConfig: the configuration that the kubelet and the runtime exchange at startup.
 */
import type { CriDeps } from '../../deps.ts';
import type { RuntimeConfigResponse, UpdateRuntimeConfigResponse } from '../../wire/messages.ts';

/** Always sets the driver, because the default of the field is systemd. */
export async function runtimeConfig({ engine }: Pick<CriDeps, 'engine'>): Promise<RuntimeConfigResponse> {
  return { linux: { cgroup_driver: engine.facts().cgroupDriver === 'systemd' ? 'SYSTEMD' : 'CGROUPFS' } };
}

/** Ignores the pod CIDR: network plugins have their own configuration. */
export async function updateRuntimeConfig(): Promise<UpdateRuntimeConfigResponse> {
  return {};
}
