/**
 * Compares the rows of our containers with a peer's, and lists those that differ. Pure.
 */
import { isIncluded, isLooser, looserMount, sysctlOf } from './order.ts';
import { capabilities, type Rows } from './rows.ts';
import { type Places, rowsAt, type Table } from './table.ts';

export type Difference = { readonly place: string; readonly key: string; readonly ours: string; readonly theirs: string };

export type Comparison = {
  readonly rows: number;
  readonly equal: number;
  readonly tighter: readonly Difference[];
  readonly looser: readonly Difference[];
  /** Different, but neither looser, such as another error for the same refusal. */
  readonly other: readonly Difference[];
  /** Of things that the peer's kernel did not have, or whose sysctl had another value. */
  readonly incomparable: number;
};

type Verdict = 'equal' | 'tighter' | 'looser' | 'other' | 'incomparable';

/** @param host raw rows of the probe outside of containers, on the machine of our containers. */
export function compare(ours: Places, table: Table, host: Rows): Comparison {
  const found: Record<Verdict, Difference[]> = { equal: [], tighter: [], looser: [], other: [], incomparable: [] };
  for (const [place, own] of ours) {
    const peers = rowsAt(table, place);
    for (const [key, value] of own) {
      if (key.startsWith('mount:')) continue;
      const theirs = peers.get(key) ?? absentValue(key, value, peers);
      const verdict = verdictOf(key, value, theirs, table, host);
      found[verdict === 'looser' && isIncluded(key, peers) ? 'other' : verdict].push({ place, key, ours: value, theirs: theirs ?? 'no such row' });
    }
    for (const key of mountKeys(own, peers)) {
      const path = key.slice('mount:'.length);
      const missing = looserMount(path, own, peers);
      const verdict = missing.length > 0 ? 'looser' : looserMount(path, peers, own).length > 0 ? 'tighter' : 'equal';
      const detail = missing.length > 0 ? ` (${missing.join(', ')})` : '';
      found[verdict].push({ place, key, ours: `${own.get(key) || 'none'}${detail}`, theirs: peers.get(key) || 'none' });
    }
  }
  const rows = Object.values(found).reduce((sum, each) => sum + each.length, 0);
  return { ...found, rows, equal: found.equal.length, incomparable: found.incomparable.length };
}

function verdictOf(key: string, ours: string, theirs: string | undefined, table: Table, host: Rows): Verdict {
  if (ours === theirs) return 'equal';
  if (theirs === undefined) return 'incomparable';
  const ofHost = (each: string) => (each === 'host' ? hostValue(key, host) : each);
  if (!isLooser(key, ours, theirs, ofHost)) return isLooser(key, theirs, ours, ofHost) ? 'tighter' : 'other';
  return key in table.lacking || isOtherwiseSet(key, table, host) ? 'incomparable' : 'looser';
}

/**
 * Files of cgroups have rows only where they exist: not to have `release_agent` is a value, if the hierarchy is there. Hooks see the files of the host's
 * cgroup, which has others if it is the root.
 */
function absentValue(key: string, ours: string, peers: Rows): string | undefined {
  if (ours === 'host') return undefined;
  const [, hierarchy] = /^write:(cgroup\.[^/]+)\//.exec(key) ?? [];
  return hierarchy !== undefined && peers.has(hierarchy) ? 'missing' : undefined;
}

function isOtherwiseSet(key: string, { recorded }: Table, host: Rows): boolean {
  const sysctl = sysctlOf(key);
  return sysctl !== undefined && recorded[`sysctl.${sysctl}`] !== host.get(`sysctl.${sysctl}`);
}

const mountKeys = (...all: readonly Rows[]) => [...new Set(all.flatMap((rows) => [...rows.keys()].filter((key) => key.startsWith('mount:'))))];

function hostValue(key: string, host: Rows): string {
  return key.startsWith('cap.') ? capabilities(host.get('cap.bounding') ?? '0') : (host.get(key) ?? '');
}

/** Returns a line for each difference, with the modes in which all processes have it, and the single processes otherwise. */
export function describe(differences: readonly Difference[], all: readonly string[]): string[] {
  const byText = new Map<string, string[]>();
  for (const { place, key, ours, theirs } of differences) {
    const text = `${key}: ${ours || 'none'}; the peer: ${theirs || 'none'}`;
    byText.set(text, [...(byText.get(text) ?? []), place]);
  }
  return [...byText].map(([text, places]) => `${text} [${summarise(places, all).join(' ')}]`);
}

function summarise(places: readonly string[], all: readonly string[]): readonly string[] {
  const modeOf = (place: string) => place.split('/')[0] ?? '';
  if (places.length === all.length) return ['everywhere'];
  const isWhole = (mode: string) => all.every((place) => modeOf(place) !== mode || places.includes(place));
  return [...new Set(places.map((place) => (isWhole(modeOf(place)) ? modeOf(place) : place)))];
}
