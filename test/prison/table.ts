/**
 * The committed table of a peer's values: for each row the usual value, and the places where it is another one. Pure.
 *
 * A place is `mode/process`, such as `runtime-default/exec`; in the table a mode alone stands for all its processes.
 */
import type { Rows } from './rows.ts';

/** Rows by place. */
export type Places = ReadonlyMap<string, Rows>;

type Entry = string | Readonly<Record<string, string | null>>;
/** What the places of a group have in common; usually several rows differ in the same modes. */
type Groups = Readonly<Record<string, readonly string[]>>;

export type Table = {
  /** Versions of the peer, and of the kernel that it ran on. */
  readonly recorded: Readonly<Record<string, string>>;
  /** The same probe outside of any container, which tells what the kernel lacks. Only such rows. */
  readonly lacking: Readonly<Record<string, string>>;
  /** Lists of places and modes by name. */
  readonly groups: Groups;
  /** By key: the value everywhere, or values by group, place, mode or `usual`; null: no such row there. */
  readonly rows: Readonly<Record<string, Entry>>;
};

/** Values of a row outside of containers that say this kernel has no such thing. */
const lacks: readonly string[] = ['ENOSYS', 'missing', 'EAFNOSUPPORT', 'EPROTONOSUPPORT', 'ESOCKTNOSUPPORT'];

/** Makes the table. @param host normalised rows of the probe outside of containers. */
export function buildTable(recorded: Readonly<Record<string, string>>, host: Rows, places: Places): Table {
  const keys = [...new Set([...places.values()].flatMap((rows) => [...rows.keys()]))].sort();
  const lacking = [...host].filter(([, value]) => lacks.includes(value)).sort();
  const entries = keys.map((key): [string, Entry] => [key, entryOf(key, places)]);
  return { recorded, lacking: Object.fromEntries(lacking), ...grouped(entries) };
}

/** Replaces the places that have the same value by the name of their group. */
function grouped(entries: readonly (readonly [string, Entry])[]): Pick<Table, 'groups' | 'rows'> {
  const names = new Map<string, string>();
  const nameOf = (places: readonly string[]) => {
    const [only] = places;
    if (only !== undefined && places.length === 1) return only;
    const list = places.join(' ');
    const name = names.get(list) ?? `group ${names.size + 1}`;
    names.set(list, name);
    return name;
  };
  const rows = entries.map(([key, entry]) => {
    if (typeof entry === 'string') return [key, entry];
    const byValue = Map.groupBy(
      Object.entries(entry).filter(([place]) => place !== 'usual'),
      ([, value]) => value,
    );
    const others = [...byValue].map(([value, places]) => [nameOf(places.map(([place]) => place)), value]);
    return [key, { usual: entry['usual'] ?? null, ...Object.fromEntries(others) }];
  });
  return { groups: Object.fromEntries([...names].map(([list, name]) => [name, list.split(' ')])), rows: Object.fromEntries(rows) };
}

function entryOf(key: string, places: Places): Entry {
  const values = new Map([...places].map(([place, rows]) => [place, rows.get(key) ?? null]));
  const usual = mostFrequent([...values.values()]);
  if (usual !== null && new Set(values.values()).size === 1) return usual;
  const entry: Record<string, string | null> = { usual };
  for (const mode of new Set([...values.keys()].map(modeOf))) {
    const ofMode = [...values].filter(([place]) => modeOf(place) === mode);
    const common = mostFrequent(ofMode.map(([, value]) => value));
    if (common !== usual) entry[mode] = common;
    for (const [place, value] of ofMode) if (value !== common) entry[place] = value;
  }
  return entry;
}

const modeOf = (place: string) => place.split('/')[0] ?? '';

function mostFrequent(values: readonly (string | null)[]): string | null {
  const counts = new Map<string | null, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}

/** Returns the rows of a place: those of the place itself, else of its mode, else the usual ones. */
export function rowsAt({ groups, rows: entries }: Table, place: string): Rows {
  const groupsOf = (name: string) => Object.entries(groups).flatMap(([group, members]) => (members.includes(name) ? [group] : []));
  const names = [place, ...groupsOf(place), modeOf(place), ...groupsOf(modeOf(place)), 'usual'];
  const rows = new Map<string, string>();
  for (const [key, entry] of Object.entries(entries)) {
    const value = typeof entry === 'string' ? entry : names.map((name) => entry[name]).find((each) => each !== undefined);
    if (typeof value === 'string') rows.set(key, value);
  }
  return rows;
}

/** Writes the table with one line for each row, so that a change of one is one line of a diff. */
export function formatTable(table: Table): string {
  const part = (name: string, record: Readonly<Record<string, unknown>>) => {
    const lines = Object.entries(record).map(([key, value]) => `    ${JSON.stringify(key)}: ${JSON.stringify(value)}`);
    return `  "${name}": {\n${lines.join(',\n')}\n  }`;
  };
  return `{\n${Object.entries(table)
    .map(([name, record]) => part(name, record))
    .join(',\n')}\n}\n`;
}
