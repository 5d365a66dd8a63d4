/**
 * What berth calls itself on the wire. Pure.
 */

/** The kubelet puts it before every container id (`berth://…`): it never changes. */
export const runtimeName = 'berth';

/** Names that a pod's RuntimeClass may have; '' is the default. Both are the same today. */
export const runtimeHandlers: readonly string[] = ['', runtimeName];
