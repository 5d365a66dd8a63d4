/**
 * What a kubelet on this node was told of its runtime: out of its configuration file and its flags. Pure.
 */

/** Null where it is not said. */
export type KubeletSettings = { readonly endpoint: string | null; readonly cgroupDriver: string | null; readonly failSwapOn: boolean | null };

/**
 * @param config text of a KubeletConfiguration, as YAML or JSON; only its top level is looked at.
 * @param flags words of its command line, which win.
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
