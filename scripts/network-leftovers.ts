/**
 * Removes what CNI plugins leave on a node after the last DEL: the bridge, the addresses of host-local, the CNI-* chains of iptables, and IPv4 forwarding.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const tables = ['nat', 'filter', 'mangle', 'raw'];
const forwarding = '/proc/sys/net/ipv4/ip_forward';
/** Where host-local stores the addresses of a network: nested directories, outermost first. */
const addressDirs = (network: string) => ['/var/lib/cni', '/var/lib/cni/networks', `/var/lib/cni/networks/${network}`];

/**
 * Records the current network state.
 *
 * @param network name of the CNI network.
 * @param bridge name of the interface that the bridge plugin creates.
 * @returns a function that restores the state: it removes only what did not exist before.
 */
export function recordNetworkState({ network, bridge }: { readonly network: string; readonly bridge: string }): () => void {
  const hadBridge = hasInterface(bridge);
  const missing = addressDirs(network).find((directory) => !existsSync(directory));
  const forwardingBefore = readFileSync(forwarding, 'utf8');
  const rulesBefore = new Map(tables.map((table) => [table, new Set(rulesOf(table))]));
  return () => {
    if (!hadBridge && hasInterface(bridge)) runQuietly('ip', 'link', 'delete', bridge);
    for (const table of tables) removeNewRules(table, rulesBefore.get(table) ?? new Set());
    if (missing !== undefined) rmSync(missing, { recursive: true, force: true });
    if (readFileSync(forwarding, 'utf8') !== forwardingBefore) writeFileSync(forwarding, forwardingBefore);
  };
}

/** Removes rules before chains: a chain that a rule refers to cannot be deleted. */
function removeNewRules(table: string, before: ReadonlySet<string>): void {
  const added = rulesOf(table).filter((rule) => !before.has(rule) && rule.includes('CNI-'));
  const chains = added.filter((rule) => rule.startsWith('-N ')).map((rule) => rule.slice(3));
  for (const rule of added.filter((each) => each.startsWith('-A '))) {
    const words = (rule.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? []).map((word) => word.replace(/^"(.*)"$/, '$1'));
    runQuietly('iptables', '-w', '-t', table, '-D', ...words.slice(1));
  }
  for (const chain of chains) runQuietly('iptables', '-w', '-t', table, '-F', chain);
  for (const chain of chains) runQuietly('iptables', '-w', '-t', table, '-X', chain);
}

/** Returns the output lines of `iptables -S`: `-N chain` and `-A chain ...`. */
function rulesOf(table: string): string[] {
  return runQuietly('iptables', '-w', '-t', table, '-S')
    .split('\n')
    .filter((line) => line !== '');
}

function hasInterface(name: string): boolean {
  return runQuietly('ip', '-o', 'link', 'show', 'dev', name) !== '';
}

/** Runs a command and ignores its failure. @returns its standard output. */
function runQuietly(command: string, ...args: string[]): string {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout ?? '';
}
