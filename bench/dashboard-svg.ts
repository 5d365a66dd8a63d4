/**
 * Draws the panels of the dashboard with data from Prometheus as one SVG: lines, legends and units, placed by Grafana's grid. Pure.
 */
import type { Panel } from '../test/support/dashboard.ts';

export type Line = { readonly name: string; readonly points: readonly (readonly [second: number, value: number])[] };
export type Drawing = { readonly panel: Panel; readonly lines: readonly Line[] };
/** In seconds since the epoch. */
export type Range = { readonly start: number; readonly end: number };

type Box = { readonly x: number; readonly y: number; readonly w: number; readonly h: number };

const unitWidth = 60;
const unitHeight = 30;
const gap = 4;
const colors = ['#73bf69', '#f2cc0c', '#5794f2', '#ff780a', '#b877d9', '#f2495c', '#8ab8ff', '#96d98d', '#ffb357', '#ca95e5'] as const;
const colorOf = (index: number) => colors[index % colors.length];
const legendLineHeight = 15;
const legendLinesMax = 2;
const gapSeconds = 5;

/** Draws the dashboard. @returns the SVG document; line coordinates are rounded to whole pixels. */
export function drawDashboard(drawings: readonly Drawing[], range: Range): string {
  const height = Math.max(...drawings.map(({ panel: { gridPos: at } }) => at.y + at.h)) * unitHeight;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${24 * unitWidth}" height="${height}" viewBox="0 0 ${24 * unitWidth} ${height}">`,
    '<style>text{font-family:Inter,Helvetica,Arial,DejaVu Sans,sans-serif;font-size:11px;fill:#9fa3ab}.t{font-size:13px;font-weight:500;fill:#d8d9da}.g{stroke:#2c3034}.l{fill:none;stroke-width:1.5;stroke-linejoin:round}</style>',
    '<rect width="100%" height="100%" fill="#111217"/>',
    ...drawings.map((drawing) => drawPanel(drawing, range)),
    '</svg>',
    '',
  ].join('\n');
}

function drawPanel({ panel, lines }: Drawing, range: Range): string {
  const { x, y, w, h } = panel.gridPos;
  const box = { x: x * unitWidth + gap, y: y * unitHeight + gap, w: w * unitWidth - 2 * gap, h: h * unitHeight - 2 * gap };
  if (panel.type === 'row') return text(box.x + 4, box.y + 16, `▾ ${panel.title}`, 'class="t"');
  const frame = `<rect x="${box.x}" y="${box.y}" width="${box.w}" height="${box.h}" rx="3" fill="#181b1f" stroke="#26292e"/>`;
  const title = text(box.x + 10, box.y + 19, panel.title, 'class="t"');
  const unit = panel.fieldConfig?.defaults.unit ?? 'none';
  const isEmpty = lines.every(({ points }) => points.length === 0);
  const middle = 'text-anchor="middle"';
  if (isEmpty) return frame + title + text(box.x + box.w / 2, box.y + box.h / 2 + 8, 'No data', middle);
  if (panel.type === 'timeseries') return frame + title + drawLines(box, lines, unit, range);
  const last = lines[0]?.points.at(-1)?.[1] ?? 0;
  const value = unit === 'dateTimeFromNow' ? `${Math.round(range.end - last / 1000)} s ago` : formatValue(last, unit);
  return frame + title + text(box.x + box.w / 2, box.y + box.h / 2 + 24, value, `${middle} style="font-size:30px;fill:#73bf69"`);
}

function drawLines(box: Box, lines: readonly Line[], unit: string, { start, end }: Range): string {
  const entries = legend(
    lines.map(({ name }) => name),
    box.w - 20,
  );
  const plot = { x: box.x + 62, y: box.y + 32, w: box.w - 76, h: box.h - 56 - legendLineHeight * entries.rows };
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value));
  const ticks = niceTicks(Math.min(0, ...values), Math.max(...values), unit);
  const [low, high] = [ticks[0] ?? 0, ticks.at(-1) ?? 1];
  const yOf = (value: number) => Math.round(plot.y + plot.h * (1 - (value - low) / (high - low)));
  const xOf = (second: number) => Math.round(plot.x + (plot.w * (second - start)) / (end - start));
  const grid = ticks.map(
    (tick) =>
      `<path class="g" d="M${plot.x} ${yOf(tick)}h${plot.w}"/>${text(plot.x - 6, yOf(tick) + 4, formatValue(tick, unit), 'text-anchor="end"')}`,
  );
  const times = [0, 1, 2, 3].map((part) => {
    const second = start + ((end - start) * part) / 3;
    const anchor = part === 0 ? 'start' : part === 3 ? 'end' : 'middle';
    return text(xOf(second), plot.y + plot.h + 15, `${Math.round(second - start)} s`, `text-anchor="${anchor}"`);
  });
  const paths = lines.map(
    ({ points }, index) => `<path class="l" stroke="${colorOf(index)}" d="${pathOf(points, ([at, value]) => [xOf(at), yOf(value)])}"/>`,
  );
  const names = entries.shown.map(({ name, x, row }, index) => {
    const [left, top] = [box.x + 10 + x, plot.y + plot.h + 32 + row * legendLineHeight];
    const isRest = index >= lines.length || name.startsWith('+');
    return (
      (isRest ? '' : `<rect x="${left}" y="${top - 6}" width="10" height="3" fill="${colorOf(index)}"/>`) + text(left + (isRest ? 0 : 14), top, name)
    );
  });
  return [...grid, ...times, ...paths, ...names].join('');
}

/**
 * Returns the path of a line. Coordinates are relative, and points at the same height as both neighbors are left out: this makes the text ten times
 * shorter. The line is interrupted where the series has no data for more than gapSeconds.
 */
function pathOf(line: Line['points'], toPixels: (point: Line['points'][number]) => readonly [number, number]): string {
  const isGap = (at: number) => (line[at]?.[0] ?? Number.POSITIVE_INFINITY) - (line[at - 1]?.[0] ?? Number.NEGATIVE_INFINITY) > gapSeconds;
  const pixels = line.map(toPixels);
  let path = '';
  let [atX, atY] = [0, 0];
  pixels.forEach(([x, y], at) => {
    const isInner = !isGap(at) && !isGap(at + 1);
    if (isInner && pixels[at - 1]?.[1] === y && pixels[at + 1]?.[1] === y) return;
    path += isGap(at) ? `M${x} ${y}${isGap(at + 1) ? 'h2' : ''}` : `l${x - atX} ${y - atY}`;
    [atX, atY] = [x, y];
  });
  return path;
}

type Legend = { readonly rows: number; readonly shown: readonly { readonly name: string; readonly x: number; readonly row: number }[] };

/** Places as many names as fit into two rows, then the number of the remaining ones. */
function legend(names: readonly string[], width: number): Legend {
  const shown: { name: string; x: number; row: number }[] = [];
  let [x, row] = [0, 0];
  for (const [index, full] of names.entries()) {
    const name = full.length > 40 ? `${full.slice(0, 39)}…` : full;
    const needed = 28 + name.length * 6.8;
    if (x + needed > width && x > 0) [x, row] = [0, row + 1];
    const isLastRow = row === legendLinesMax - 1;
    const left = names.length - index;
    if (row >= legendLinesMax || (isLastRow && left > 1 && x + needed + 40 > width)) {
      const end = shown.at(-1);
      shown.push(
        row >= legendLinesMax && end
          ? { name: `+${left}`, x: Math.min(end.x + 28 + end.name.length * 6.8, width - 24), row: end.row }
          : { name: `+${left}`, x, row },
      );
      break;
    }
    shown.push({ name, x, row });
    x += needed;
  }
  return { rows: Math.max(...shown.map((entry) => entry.row)) + 1, shown };
}

/** Returns three to six round numbers that enclose the values. For bytes the steps are powers of two. */
function niceTicks(low: number, high: number, unit: string): readonly number[] {
  if (high === low) return [low, low + 1];
  const span = high - low;
  const base = unit === 'bytes' || unit === 'Bps' ? 2 : 10;
  const power = base ** Math.floor(Math.log(span / 4) / Math.log(base));
  const step = (base === 2 ? [1, 2] : [1, 2, 2.5, 5, 10]).map((factor) => factor * power).find((each) => span / each <= 5) ?? span;
  const first = Math.floor(low / step);
  const last = Math.max(first + 1, Math.ceil(high / step));
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

function formatValue(value: number, unit: string): string {
  if (unit === 's')
    return value === 0
      ? '0 s'
      : Math.abs(value) < 0.001
        ? `${digits(value * 1e6)} µs`
        : Math.abs(value) < 1
          ? `${digits(value * 1e3)} ms`
          : `${digits(value)} s`;
  if (unit === 'percentunit') return `${digits(value * 100)} %`;
  if (unit === 'reqps' || unit === 'ops') return `${digits(value)}/s`;
  if (unit !== 'bytes' && unit !== 'Bps') return digits(value);
  const power = value === 0 ? 0 : Math.min(4, Math.floor(Math.log2(Math.abs(value)) / 10));
  return `${digits(value / 1024 ** power)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}${unit === 'Bps' ? '/s' : ''}`;
}

const digits = (value: number): string => String(Number(value.toPrecision(3)));

function text(x: number, y: number, words: string, attributes = ''): string {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${Math.round(x)}" y="${Math.round(y)}"${attributes === '' ? '' : ` ${attributes}`}>${escaped}</text>`;
}
