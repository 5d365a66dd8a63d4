/**
 * The uses of pods as lines of text, as wide and as many as fit. Pure.
 *
 * Names come from outside: nothing of them reaches the terminal as a command.
 */
import type { PodUse, SortKey, Use } from './top-rows.ts';

export type View = {
  readonly pods: readonly PodUse[];
  readonly sort: SortKey;
  /** Columns that there are; longer lines are cut. */
  readonly width: number;
};

const headings = ['CPU', 'MEMORY', 'PROCS', 'RX/s', 'TX/s', 'RESTARTS', 'AGE'] as const;
const headingOf: Readonly<Record<SortKey, string>> = {
  cpu: 'CPU',
  memory: 'MEMORY',
  processes: 'PROCS',
  network: 'RX/s',
  restarts: 'RESTARTS',
  age: 'AGE',
  name: 'POD',
};
const cellWidth = 9;
const nameWidthMin = 16;
const nameWidthMax = 60;

/** A heading, which marks what is sorted by, and a line for each pod, followed by its containers. */
export function tableLines({ pods, sort, width }: View): readonly string[] {
  const names = pods.flatMap((pod) => [printable(pod.name), ...pod.containers.map((each) => `  ${printable(each.name)}`)]);
  const room = Math.min(nameWidthMax, Math.max(nameWidthMin, width - headings.length * cellWidth));
  const nameWidth = Math.min(room, Math.max(nameWidthMin, ...names.map((name) => name.length)));
  const line = (name: string, cells: readonly string[]) =>
    `${fitted(name, nameWidth)}${cells.map((cell) => cell.padStart(cellWidth)).join('')}`.slice(0, width).trimEnd();
  const marked = (heading: string) => (heading === headingOf[sort] ? `*${heading}` : heading);
  return [
    line(marked('POD'), headings.map(marked)),
    ...pods.flatMap((pod) => [
      line(printable(pod.name), cellsOf(pod)),
      ...pod.containers.map((container) => line(`  ${printable(container.name)}`, cellsOf(container))),
    ]),
  ];
}

/** @param trouble why the lines below are old; undefined when they are not. */
export function titleLine(view: Pick<View, 'pods' | 'sort' | 'width'>, trouble: string | undefined): string {
  const containers = view.pods.reduce((sum, pod) => sum + pod.containers.length, 0);
  const state = trouble === undefined ? `${view.pods.length} pods, ${containers} containers` : printable(trouble);
  return `berth top: ${state}`.slice(0, view.width);
}

/** Fits the 80 columns that every terminal has. */
export const keyLine = 'q quit  j k scroll | sort: c cpu m memory p procs n net r restarts a age N name';

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

/** `0`, `512`, `1.5Ki`, `220Mi`: at most three digits and a point. */
function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 999.5 && unit < byteUnits.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1)}${byteUnits[unit]}`;
}

/** As kubectl has it: `45s`, `12m`, `7h`, `3d`. */
function ageText(seconds: number): string {
  if (seconds < 120) return `${Math.floor(seconds)}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}

const printable = (text: string): string => text.replaceAll(/\p{C}/gu, '?');

function fitted(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text.padEnd(width);
}
