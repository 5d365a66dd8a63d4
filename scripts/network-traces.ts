/**
 * Removes what CNI plugins leave on a node after the last DEL: the bridge, the CNI-* chains of iptables, and IPv4 forwarding.
 *
 * Only what was not there when the traces were recorded goes.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const tables = ['nat', 'filter', 'mangle', 'raw'];
const forwarding = '/proc/sys/net/ipv4/ip_forward';
/** Where host-local keeps the addresses of a network, each inside the one before. */
const addressDirs = (network: string) => ['/var/lib/cni', '/var/lib/cni/networks', `/var/lib/cni/networks/${network}`];

/** Records the state now. @param names the network's, and that of the interface that the bridge plugin may make. @returns what brings it back. */
export function recordNetworkTraces({ network, bridge }: { readonly network: string; readonly bridge: string }): () => void {
  const hadBridge = hasInterface(bridge);
  const missing = addressDirs(network).find((directory) => !existsSync(directory));
  const forwardingBefore = readFileSync(forwarding, 'utf8');
  const rulesBefore = new Map(tables.map((table) => [table, new Set(rulesOf(table))]));
  return () => {
    if (!hadBridge && hasInterface(bridge)) quietly('ip', 'link', 'delete', bridge);
    for (const table of tables) removeNewRules(table, rulesBefore.get(table) ?? new Set());
    if (missing !== undefined) rmSync(missing, { recursive: true, force: true });
    if (readFileSync(forwarding, 'utf8') !== forwardingBefore) writeFileSync(forwarding, forwardingBefore);
  };
}

/** Rules first, then their chains: a chain that is referred to cannot go. */
function removeNewRules(table: string, before: ReadonlySet<string>): void {
  const added = rulesOf(table).filter((rule) => !before.has(rule) && rule.includes('CNI-'));
  const chains = added.filter((rule) => rule.startsWith('-N ')).map((rule) => rule.slice(3));
  for (const rule of added.filter((each) => each.startsWith('-A '))) {
    const words = (rule.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? []).map((word) => word.replace(/^"(.*)"$/, '$1'));
    quietly('iptables', '-w', '-t', table, '-D', ...words.slice(1));
  }
  for (const chain of chains) quietly('iptables', '-w', '-t', table, '-F', chain);
  for (const chain of chains) quietly('iptables', '-w', '-t', table, '-X', chain);
}

/** As `iptables -S` prints them: `-N chain` and `-A chain ...`. */
function rulesOf(table: string): string[] {
  return quietly('iptables', '-w', '-t', table, '-S')
    .split('\n')
    .filter((line) => line !== '');
}

function hasInterface(name: string): boolean {
  return quietly('ip', '-o', 'link', 'show', 'dev', name) !== '';
}

function quietly(command: string, ...args: string[]): string {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout ?? '';
}
