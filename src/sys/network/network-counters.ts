/**
 * Counters of the interfaces in pinned net namespaces, read without a process and without an fd kept for each.
 */
import { readFileSync } from 'node:fs';
import { visitNetNamespaces } from '../process/namespaces.ts';
import { type InterfaceCounters, parseNetDev } from './net-dev.ts';

/**
 * One synchronous section: about 40 us a namespace, so give it a bounded number of them.
 *
 * @returns in the order given; null for a namespace that is gone.
 */
export function readInterfaces(netnsPaths: readonly string[]): (readonly InterfaceCounters[] | null)[] {
  // The calling thread's own entry: /proc/net is that of the process, which stays at home.
  return visitNetNamespaces(netnsPaths, () => readFileSync('/proc/thread-self/net/dev', 'latin1')).map((text) =>
    text === null ? null : parseNetDev(text),
  );
}
