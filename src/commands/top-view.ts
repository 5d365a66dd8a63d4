/**
 * `berth top`: formats the rows as lines that fit the terminal. Pure.
 *
 * Names are untrusted: control characters in them never reach the terminal.
 */
import type { PodUse, SortKey, Use } from './top-rows.ts';

export type View = {
  readonly pods: readonly PodUse[];
  readonly sort: SortKey;
  /** Columns of the terminal; longer lines are cut. */
  readonly width: number;
};

/** Headings as in `kubectl top` and `kubectl get`. Widths include the space or the sort mark before the heading. */
const columns = [
  { heading: 'CPU(cores)', width: 11 },
  { heading: 'MEMORY(bytes)', width: 14 },
  { heading: 'PIDS', width: 6 },
  { heading: 'RX(B/s)', width: 8 },
  { heading: 'TX(B/s)', width: 8 },
  { heading: 'RESTARTS', width: 9 },
  { heading: 'AGE', width: 6 },
] as const;
const columnsWidth = columns.reduce((sum, { width }) => sum + width, 0);
const headingOf: Readonly<Record<SortKey, (typeof columns)[number]['heading'] | 'POD'>> = {
  cpu: 'CPU(cores)',
  memory: 'MEMORY(bytes)',
  processes: 'PIDS',
  network: 'RX(B/s)',
  restarts: 'RESTARTS',
  age: 'AGE',
  name: 'POD',
};
const nameWidthMin = 16;
const nameWidthMax = 60;

/** Returns the heading with a mark at the sort column, and a line for each pod, followed by its containers. */
export function tableLines({ pods, sort, width }: View): readonly string[] {
  const names = pods.flatMap((pod) => [printable(pod.name), ...pod.containers.map((each) => `  ${printable(each.name)}`)]);
  const available = Math.min(nameWidthMax, Math.max(nameWidthMin, width - columnsWidth));
  const nameWidth = Math.min(available, Math.max(nameWidthMin, ...names.map((name) => name.length)));
  const line = (name: string, cells: readonly string[]) =>
    `${fitted(name, nameWidth)}${cells.map((cell, index) => cell.padStart(columns[index]?.width ?? 0)).join('')}`.slice(0, width).trimEnd();
  const marked = (heading: string) => (heading === headingOf[sort] ? `*${heading}` : heading);
  const headings = columns.map(({ heading }) => marked(heading));
  return [
    line(marked('POD'), headings),
    ...pods.flatMap((pod) => [
      line(printable(pod.name), cellsOf(pod)),
      ...pod.containers.map((container) => line(`  ${printable(container.name)}`, cellsOf(container))),
    ]),
  ];
}

/** @param problem why the values are old; undefined if they are current. */
export function titleLine(view: Pick<View, 'pods' | 'sort' | 'width'>, problem: string | undefined): string {
  const containers = view.pods.reduce((sum, pod) => sum + pod.containers.length, 0);
  const state = problem === undefined ? `${view.pods.length} pods, ${containers} containers` : printable(problem);
  return `berth top: ${state}`.slice(0, view.width);
}

/** Fits into 80 columns. */
export const keyLine = 'q quit  j k scroll | sort: c cpu m memory p pids n net r restarts a age N name';

function cellsOf(use: Use): string[] {
  return [
    use.cpuMillis === undefined ? '-' : `${use.cpuMillis.toFixed(use.cpuMillis < 9.95 ? 1 : 0)}m`,
    use.memoryBytes === undefined ? '-' : bytesText(use.memoryBytes),
    'processes' in use ? (use.processes?.toString() ?? '-') : '',
    ...['rxBytesPerSecond' in use ? use.rxBytesPerSecond : null, 'txBytesPerSecond' in use ? use.txBytesPerSecond : null].map((value) =>
      value === null ? '' : value === undefined ? '-' : bytesText(value),
    ),
    String(use.restarts),
    use.ageSeconds === undefined ? '-' : ageText(use.ageSeconds),
  ];
}

const byteUnits = ['', 'Ki', 'Mi', 'Gi', 'Ti'] as const;

/** Returns `0`, `512`, `1.5Ki`, `220Mi`: at most three digits, or four in the largest unit. */
function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 999.5 && unit < byteUnits.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1)}${byteUnits[unit]}`;
}

/** Returns the age in the style of kubectl, in one unit: `45s`, `12m`, `7h`, `3d`. */
function ageText(seconds: number): string {
  if (seconds < 120) return `${Math.floor(seconds)}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}

const printable = (text: string): string => text.replaceAll(/\p{C}/gu, '?');

function fitted(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text.padEnd(width);
}
