/**
 * Status: the readiness and features of this node. The kubelet polls it every few seconds, so it is answered from memory.
 */

import type { CriDeps } from '../../deps.ts';
import { runtimeHandlers } from '../../wire/constants.ts';
import type { RuntimeCondition, StatusRequest, StatusResponse } from '../../wire/messages.ts';

export async function status(
  { engine, network, settings }: Pick<CriDeps, 'engine' | 'network' | 'settings'>,
  { verbose }: StatusRequest,
): Promise<StatusResponse> {
  const facts = engine.facts();
  const config = { rootDir: settings.rootDir, stateDir: settings.stateDir };
  const features = {
    recursive_read_only_mounts: facts.canMountRecursivelyReadonly,
    user_namespaces: facts.hasUserNamespaces,
    cgroup_namespaces: facts.hasCgroupNamespaces,
  };
  return {
    status: {
      conditions: [
        condition('RuntimeReady', 'RuntimeNotReady', facts.notReadyReason),
        condition('NetworkReady', 'NetworkPluginNotReady', network.notReadyReason()),
      ],
    },
    runtime_handlers: runtimeHandlers.map((name) => ({ name, features })),
    features: {
      supplemental_groups_policy: true,
      user_namespaces_host_network: facts.hasUserNamespaces,
      mount_options: true,
      cgroup_mount_mode: facts.hasDelegatedCgroups,
    },
    info: verbose ? { config: JSON.stringify(config) } : {},
  };
}

function condition(type: string, reason: string, message: string | null): RuntimeCondition {
  return message === null ? { type, status: true } : { type, status: false, reason, message };
}
