/**
 * Version: the name and version of the runtime and of its API.
 */

import type { CriDeps } from '../../deps.ts';
import { runtimeName } from '../../wire/constants.ts';
import type { VersionResponse } from '../../wire/messages.ts';

/** The version of the kubelet's runtime API (cri-api, VersionResponse). */
const apiVersion = '0.1.0';

export async function version({ settings }: Pick<CriDeps, 'settings'>): Promise<VersionResponse> {
  return { version: apiVersion, runtime_name: runtimeName, runtime_version: settings.version, runtime_api_version: 'v1' };
}
