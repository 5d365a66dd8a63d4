/**
 * Reads the kubelet's settings about the runtime from its configuration file and flags. Pure.
 */

/** Null if not set. */
export type KubeletSettings = { readonly endpoint: string | null; readonly cgroupDriver: string | null; readonly failSwapOn: boolean | null };

/**
 * @param config text of a KubeletConfiguration in YAML or JSON; only its top level is read.
 * @param flags the kubelet's command line. Flags take precedence.
 */
export function kubeletSettings(config: string, flags: string): KubeletSettings {
  const value = (key: string, flag: string) =>
    new RegExp(`(?:^|[\\s"'=])--${flag}[=\\s]["']?([^\\s"']+)`).exec(flags)?.[1] ??
    new RegExp(`^(?: {2})?["']?${key}["']?:[ \\t]*["']?([^\\s"',#]+)`, 'm').exec(config)?.[1] ??
    null;
  const failSwapOn = value('failSwapOn', 'fail-swap-on');
  return {
    endpoint: value('containerRuntimeEndpoint', 'container-runtime-endpoint'),
    cgroupDriver: value('cgroupDriver', 'cgroup-driver'),
    failSwapOn: failSwapOn === null ? null : failSwapOn === 'true',
  };
}
