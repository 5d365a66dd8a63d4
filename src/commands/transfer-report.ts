/**
 * Formats the progress of pulls, imports and exports: lines with progress bars, or a table of all pulls. Pure.
 */
import type { LayerProgress, TransferProgress } from '../cri/wire/berth-messages.ts';

/** The window for the current rate. */
const windowMs = 5000;
const barWidth = 30;

export type Rate = {
  /** @param bytes total so far. @returns bytes per second in the last seconds. */
  readonly add: (nowMs: number, bytes: number) => number;
};

export function createRate(): Rate {
  const samples: { readonly atMs: number; readonly bytes: number }[] = [];
  return {
    add: (atMs, bytes) => {
      samples.push({ atMs, bytes });
      while ((samples[1]?.atMs ?? atMs) < atMs - windowMs) samples.shift();
      const first = samples[0] ?? { atMs, bytes };
      return atMs === first.atMs ? 0 : ((bytes - first.bytes) * 1000) / (atMs - first.atMs);
    },
  };
}

/**
 * Returns the summary and a line for each layer that is not done.
 *
 * @param rowsMax maximum number of lines. Active layers come before waiting ones.
 */
export function transferLines(transfer: TransferProgress, bytesPerSecond: number, rowsMax: number): string[] {
  const { layers = [] } = transfer;
  const active = layers.filter(({ state }) => state === 'fetching');
  const waiting = layers.filter(({ state }) => state === 'waiting');
  return [summaryLine(transfer, bytesPerSecond), ...[...active, ...waiting].slice(0, Math.max(0, rowsMax - 1)).map(layerLine)];
}

/** Returns, for example, `docker.io/library/x:1: fetching 2 of 3 layers, 1.0MB/2.0MB, 3.0MB/s, mirror.example, 1 retry`. */
export function summaryLine(transfer: TransferProgress, bytesPerSecond: number): string {
  const { image = '', state = '', layers = [], host = '', retries = 0, received_bytes: received = '0' } = transfer;
  const left = layers.filter((layer) => layer.state !== 'done').length;
  const parts = [
    layers.length === 0 ? state : `${state} ${left} of ${plural(layers.length, 'layer')}`,
    layers.length === 0 ? megabytes(Number(received)) : `${ofMegabytes(sum(layers, 'done_bytes'), sum(layers, 'total_bytes'))}`,
    ...(state === 'publishing' ? [] : [`${megabytes(bytesPerSecond)}/s`]),
    ...(host === '' ? [] : [host]),
    ...(retries === 0 ? [] : [plural(retries, 'retry', 'retries')]),
  ];
  return `${image}: ${parts.join(', ')}`;
}

function layerLine({ digest = '', state = '', done_bytes: done = '0', total_bytes: total = '0' }: LayerProgress): string {
  return `  ${digest.replace(/^sha(?:256|512):/, '').slice(0, 12)}  ${state === 'waiting' ? 'waiting'.padEnd(barWidth + 2) : bar(Number(done), Number(total))}  ${ofMegabytes(Number(done), Number(total))}`;
}

/** Returns, for example, `[=====>    ]`. */
export function bar(done: number, total: number): string {
  const filled = total === 0 ? barWidth : Math.min(barWidth, Math.floor((done / total) * barWidth));
  const tip = filled > 0 && filled < barWidth ? '>' : '';
  return `[${('='.repeat(Math.max(0, filled - tip.length)) + tip).padEnd(barWidth)}]`;
}

/** Returns the progress of an archive of known size. */
export function archiveLine(done: number, total: number, bytesPerSecond: number): string {
  return `${bar(done, total)}  ${ofMegabytes(done, total)}, ${megabytes(bytesPerSecond)}/s`;
}

/** Returns a table with a row for each pull. Rates are averages since the start of the pull. */
export function pullsTable(pulls: readonly TransferProgress[], nowMs: number): string {
  const rows = pulls.map(
    ({ image = '', state = '', layers = [], host = '', retries = 0, received_bytes: received = '0', started_at_ms: since = '0' }) => {
      const seconds = Math.max(0, nowMs - Number(since)) / 1000;
      return [
        image,
        state,
        `${layers.filter((layer) => layer.state === 'done').length}/${layers.length}`,
        ofMegabytes(sum(layers, 'done_bytes'), sum(layers, 'total_bytes')),
        `${megabytes(seconds === 0 ? 0 : Number(received) / seconds)}/s`,
        host === '' ? '-' : host,
        String(retries),
        `${seconds.toFixed(0)}s`,
      ];
    },
  );
  const table = [['IMAGE', 'STATE', 'LAYERS', 'SIZE', 'RATE', 'HOST', 'RETRIES', 'AGE'], ...rows];
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  return table
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function sum(layers: readonly LayerProgress[], key: 'done_bytes' | 'total_bytes'): number {
  return layers.reduce((total, layer) => total + Number(layer[key] ?? 0), 0);
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)}MB`;
}

function ofMegabytes(done: number, total: number): string {
  return `${megabytes(done)}/${megabytes(total)}`;
}

function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
