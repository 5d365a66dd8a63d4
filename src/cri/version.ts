/**
 * Version: who answers, and which protocol it speaks.
 */
import { runtimeName } from './constants.ts';
import type { CriDeps } from './deps.ts';
import type { VersionResponse } from './messages.ts';

/** Version of the kubelet's runtime API: cri-api, VersionResponse. */
const apiVersion = '0.1.0';

export async function version({ settings }: Pick<CriDeps, 'settings'>): Promise<VersionResponse> {
  return { version: apiVersion, runtime_name: runtimeName, runtime_version: settings.version, runtime_api_version: 'v1' };
}
