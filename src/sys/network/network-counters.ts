/**
 * Reads the interface counters of pinned network namespaces, without a process or an open fd for each.
 */
import { readFileSync } from 'node:fs';
import { visitNetNamespaces } from '../process/namespaces.ts';
import { type InterfaceCounters, parseNetDev } from './net-dev.ts';

/**
 * Blocks for about 40 us per namespace: pass a bounded number of them.
 *
 * @returns the counters in the same order; null for a namespace that is gone.
 */
export function readInterfaces(netnsPaths: readonly string[]): (readonly InterfaceCounters[] | null)[] {
  // /proc/thread-self, because /proc/net belongs to the process and not to the calling thread.
  return visitNetNamespaces(netnsPaths, () => readFileSync('/proc/thread-self/net/dev', 'latin1')).map((text) =>
    text === null ? null : parseNetDev(text),
  );
}
