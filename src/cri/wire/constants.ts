/**
 * The names of berth in the CRI. Pure.
 */

/** The kubelet prefixes container ids with it (`berth://…`), so it must not change. */
export const runtimeName = 'berth';

/** The handlers that a RuntimeClass may name; '' is the default. Both are equivalent. */
export const runtimeHandlers: readonly string[] = ['', runtimeName];
